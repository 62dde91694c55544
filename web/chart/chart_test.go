package chart_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/a-h/templ"

	"github.com/millrace-ci/millrace/web/chart"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a drawing with its golden file.
func golden(t *testing.T, name string, c templ.Component) {
	t.Helper()
	var b bytes.Buffer
	if err := c.Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s differs from its golden file; if that is right, run go test ./web/chart -update. Got:\n%s", name, b.Bytes())
	}
}

func TestBars(t *testing.T) {
	t.Parallel()
	golden(t, "bars.html", chart.Bars("Minutes per day", []chart.Bar{
		{Label: "1 Mar", Value: 0, Text: "none"},
		{Label: "2 Mar", Value: 12.5, Text: "<b>12.5</b>"},
		{Label: "3 Mar", Value: 37, Text: "37"},
	}))
	golden(t, "bars-empty.html", chart.Bars("Nothing", nil))
}

func TestLines(t *testing.T) {
	t.Parallel()
	write := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	golden(t, "lines.html", chart.Lines("Cost per minute", chart.Plane{
		Width: 900, X: write, Y: write,
		Lines: func(w float64) []chart.Line {
			return []chart.Line{{Left: 20, Right: 20, Text: "<b>flat</b>"}, {Left: 0, Right: w / 25, Dashed: true, Text: "by the minute"}}
		},
		Marks: []chart.Mark{{X: 500, Y: 20, Text: "the same"}, {X: 900, Y: 36, Solid: true, Text: "yours"}},
	}))
	golden(t, "lines-empty.html", chart.Lines("Nothing", chart.Plane{X: write, Y: write, Lines: func(float64) []chart.Line { return nil }}))
}

func TestProportions(t *testing.T) {
	t.Parallel()
	golden(t, "proportions.html", chart.Proportions("A job", []chart.Part{
		{Took: 7 * time.Millisecond, Fill: chart.Fill(0), Text: "waited: 7 ms"},
		{},
		{Took: time.Minute, Fill: chart.Fill(4), Text: "ran: 60,000 ms"},
	}))
}

func TestSteps(t *testing.T) {
	t.Parallel()
	write := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	golden(t, "steps.html", chart.Steps("vCPUs", chart.Graph{
		End: 95, Ticks: chart.Elapsed(95 * time.Second), Limit: 4, LimitName: "size", Y: write,
		Curves: []chart.Curve{{Name: "used", Text: "<b>used</b>", Steps: []chart.Step{{10, 1}, {20, 3.5}, {95, 0}}}},
	}))
	golden(t, "steps-two.html", chart.Steps("Disk", chart.Graph{
		End: 7200, Ticks: chart.Elapsed(2 * time.Hour), Y: write,
		Curves: []chart.Curve{{Name: "read", Steps: []chart.Step{{7200, 12}}}, {Name: "written", Gap: 3600, Steps: []chart.Step{{7200, 100}}}},
	}))
	golden(t, "steps-empty.html", chart.Steps("Nothing", chart.Graph{Y: write}))
}

func TestElapsed(t *testing.T) {
	t.Parallel()
	for end, want := range map[time.Duration]string{
		0: "0 s", 3 * time.Second: "3 s", 50 * time.Second: "50 s", 4 * time.Minute: "4 min", time.Hour: "60 min", 26 * time.Hour: "24 h", 120 * time.Hour: "120 h",
	} {
		ticks := chart.Elapsed(end)
		if last := ticks[len(ticks)-1].Text; last != want || len(ticks) > 7 {
			t.Errorf("%s: %v, want the last %s", end, ticks, want)
		}
	}
}
