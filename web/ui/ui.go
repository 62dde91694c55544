// Package ui holds what every page of the dashboard is made of: the frame, badges, times and figures in words. It knows
// how things look and not where they come from.
package ui

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// Duration is d in words, as exact as one needs to read it: "350 ms", "4.2 s", "34 s", "12 min 4 s", "3 h 5 min",
// "2 d 4 h".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 9950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	seconds := int64(d.Round(time.Second) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 3600:
		return two(seconds/60, "min", seconds%60, "s")
	case seconds < 24*3600:
		return two(seconds/3600, "h", seconds%3600/60, "min")
	default:
		return two(seconds/86400, "d", seconds%86400/3600, "h")
	}
}

func two(a int64, unitA string, b int64, unitB string) string {
	if b == 0 {
		return fmt.Sprintf("%d %s", a, unitA)
	}
	return fmt.Sprintf("%d %s %d %s", a, unitA, b, unitB)
}

// Millis is d in whole milliseconds with thousands separated: "1,234 ms".
func Millis(d time.Duration) string { return Count(d.Milliseconds()) + " ms" }

// Count is n with thousands separated.
func Count[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Minutes is d in minutes, with one decimal below ten and two where one would say nothing.
func Minutes(d time.Duration) string {
	if m := d.Minutes(); m > 0 && m < 0.095 {
		return strconv.FormatFloat(max(m, 0.01), 'f', 2, 64)
	}
	if m := d.Minutes(); m < 9.95 {
		return strconv.FormatFloat(m, 'f', 1, 64)
	}
	return Count(int64(d.Round(time.Minute) / time.Minute))
}

// Bytes is n in binary units: "512 B", "1.5 MB", "24 GB".
func Bytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n)/1024, 0
	for ; value >= 1024 && unit < 3; unit++ {
		value /= 1024
	}
	digits := 0
	if value < 9.95 {
		digits = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', digits, 64), ".0") + " " + []string{"KB", "MB", "GB", "TB"}[unit]
}

// Percent is part of whole in per cent, with one decimal below ten; "–" when whole is nothing.
func Percent[N int | int64 | time.Duration](part, whole N) string {
	if whole <= 0 {
		return "–"
	}
	p := 100 * float64(part) / float64(whole)
	if p > 0 && p < 9.95 {
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

// Ago is how long before now t was, in the one unit that matters: "just now", "40 s ago", "5 min ago".
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < 5*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d d ago", int(d.Hours()/24))
	}
}

// Absolute is t as a person reads it, to the second, in UTC.
func Absolute(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") }

// Frame is what the frame of a page shows.
type Frame struct {
	Title   string
	Org     millrace.Membership   // the org that is looked at; zero outside of orgs
	Orgs    []millrace.Membership // those to switch to
	User    millrace.User         // zero when nobody is signed in
	Section string                // the navigation's current entry
	Public  bool                  // the page is for visitors: it says where to read on and how to begin

	Incidents     []millrace.Incident // the org's open ones, newest first
	MoreIncidents bool                // there are more than these
}

// bannerShows is how many incidents the banner names.
const bannerShows = 3

// banner are the incidents to be named on top of the page: those where jobs and hosts are looked at.
func (f Frame) banner() []millrace.Incident {
	if f.Section != "overview" && f.Section != "jobs" && f.Section != "hosts" {
		return nil
	}
	return f.Incidents[:min(bannerShows, len(f.Incidents))]
}

func (f Frame) incidentCount() string {
	n := Count(len(f.Incidents))
	if f.MoreIncidents {
		n += "+"
	}
	return n
}

func (f Frame) incidentsPath() string { return "/o/" + f.Org.Slug + "/incidents" }
