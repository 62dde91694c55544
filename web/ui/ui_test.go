package ui_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace/web/ui"
)

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second:                        "0 ms",
		0:                                   "0 ms",
		350 * time.Millisecond:              "350 ms",
		4240 * time.Millisecond:             "4.2 s",
		9960 * time.Millisecond:             "10 s",
		59600 * time.Millisecond:            "1 min",
		12*time.Minute + 4*time.Second:      "12 min 4 s",
		3*time.Hour + 5*time.Minute:         "3 h 5 min",
		52 * time.Hour:                      "2 d 4 h",
		time.Hour - 300*time.Millisecond:    "1 h",
		24*time.Hour - 300*time.Millisecond: "1 d",
	} {
		if got := ui.Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		ui.Count(0):                                   "0",
		ui.Count(-1234):                               "-1,234",
		ui.Count(-123):                                "-123",
		ui.Count(1234567):                             "1,234,567",
		ui.Millis(1437 * time.Millisecond):            "1,437 ms",
		ui.Minutes(0):                                 "0.0",
		ui.Minutes(time.Second):                       "0.02",
		ui.Minutes(90 * time.Second):                  "1.5",
		ui.Minutes(1234 * time.Minute):                "1,234",
		ui.Bytes(1023):                                "1023 B",
		ui.Bytes(1536):                                "1.5 KB",
		ui.Bytes(388 << 20):                           "388 MB",
		ui.Bytes(3 << 40):                             "3 TB",
		ui.Percent(1, 3):                              "33 %",
		ui.Percent(1, 1000):                           "0.1 %",
		ui.Percent(1, 0):                              "–",
		ui.Ago(time.Unix(0, 0), time.Unix(4, 0)):      "just now",
		ui.Ago(time.Unix(0, 0), time.Unix(3*3600, 0)): "3 h ago",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
