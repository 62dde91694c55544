package chart

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Step is a value that holds from the end of the step before it until its own.
type Step struct{ Until, Value float64 }

// Curve is one line of [Steps].
type Curve struct {
	Name  string
	Text  string // the whole line in words, shown on hover
	Steps []Step
	Gap   float64 // before the first step; 0: it begins at the start
}

// Tick is a name under the horizontal axis.
type Tick struct {
	At   float64
	Text string
}

// Graph is what [Steps] draws.
type Graph struct {
	End       float64 // of the horizontal axis, which begins at 0
	Ticks     []Tick
	Curves    []Curve // the first as a plane, the second dashed
	Limit     float64 // how much there is; 0: no line says so
	LimitName string
	Y         func(float64) string // writes the vertical axis's values
}

// low is the height of a graph; of its paths, what is across is in thousandths of the width.
const low, across = 150.0, 1000.0

type graph struct {
	lines []line
	names []name
	paths []string
	plane string // below the first path
	limit string // "": none
}

func plot(g Graph) (d graph) {
	peak := g.Limit
	for _, c := range g.Curves {
		for _, s := range c.Steps {
			peak = max(peak, s.Value)
		}
	}
	step := niceStep(peak)
	ceiling := step * max(1, math.Ceil(peak/step))
	end := max(g.End, math.SmallestNonzeroFloat64)
	x := func(v float64) string { return num(across * min(1, v/end)) }
	y := func(v float64) string { return num(top + (low-top-bottom)*(1-v/ceiling)) }
	for i := 0; float64(i)*step <= ceiling+step/2; i++ {
		d.lines = append(d.lines, line{y(float64(i) * step), g.Y(float64(i) * step)})
	}
	for i, t := range g.Ticks {
		d.names = append(d.names, name{num(100*t.At/end) + "%", t.Text, i%2 == 1})
	}
	for i, c := range g.Curves {
		var b strings.Builder
		for n, s := range c.Steps {
			if n == 0 {
				b.WriteString("M" + x(c.Gap) + " " + y(s.Value))
			} else {
				b.WriteString("V" + y(s.Value))
			}
			b.WriteString("H" + x(s.Until))
		}
		d.paths = append(d.paths, b.String())
		if i == 0 && len(c.Steps) > 0 {
			d.plane = b.String() + "V" + y(0) + "H" + x(c.Gap) + "Z"
		}
	}
	if g.Limit > 0 {
		d.limit = y(g.Limit)
	}
	return d
}

// rounds are the round times between ticks.
var rounds = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// Elapsed are ticks for an axis of time since a start, in seconds.
func Elapsed(end time.Duration) (ticks []Tick) {
	const most = 6
	step := rounds[len(rounds)-1]
	if i := slices.IndexFunc(rounds, func(r time.Duration) bool { return end <= most*r }); i >= 0 {
		step = rounds[i]
	}
	unit, name := time.Second, " s"
	switch {
	case step >= time.Hour:
		unit, name = time.Hour, " h"
	case step >= time.Minute:
		unit, name = time.Minute, " min"
	}
	for at := time.Duration(0); at <= end; at += step {
		ticks = append(ticks, Tick{at.Seconds(), strconv.Itoa(int(at/unit)) + name})
	}
	return ticks
}
