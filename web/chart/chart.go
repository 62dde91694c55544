// Package chart draws charts as SVG on the server: no script, no style attribute, one rectangle per figure with its
// value as <title>. A table with the same figures belongs beside every chart.
package chart

import (
	"math"
	"strconv"
	"time"
)

// Bar is one bar of [Bars].
type Bar struct {
	Label string // under the axis
	Value float64
	Text  string // the whole figure in words, shown on hover
}

// The drawing's measures in pixels. Across, everything is in per cent, so that text keeps its size at any width.
const (
	height = 200.0
	top    = 12.0
	bottom = 24.0
	gap    = 28.0 // per cent of a bar's place
	widest = 6.0  // per cent of the whole
	names  = 12   // names under the axis at the most; a third of them on a phone
)

type rect struct{ x, y, w, h, text string }

// line is a line across at a value.
type line struct{ y, value string }

// name stands under the axis. A fine one is left out where there is little room.
type name struct {
	x, text string
	fine    bool
}

type drawing struct {
	bars  []rect
	lines []line
	names []name
}

// draw lays out bars. Names are thinned so that no two touch; the last bar always has one.
func draw(bars []Bar) drawing {
	var d drawing
	peak := 0.0
	for _, b := range bars {
		peak = max(peak, b.Value)
	}
	step := niceStep(peak)
	ceiling := step * max(1, math.Ceil(peak/step))
	y := func(v float64) float64 { return top + (height-top-bottom)*(1-v/ceiling) }
	for i := 0; float64(i)*step <= ceiling+step/2; i++ {
		v := float64(i) * step
		d.lines = append(d.lines, line{num(y(v)), strconv.FormatFloat(v, 'f', -1, 64)})
	}
	place := 100 / float64(max(1, len(bars)))
	every := (len(bars) + names - 1) / names
	for i, b := range bars {
		x := place * float64(i)
		w := min(place*(100-gap)/100, widest)
		d.bars = append(d.bars, rect{num(x+(place-w)/2) + "%", num(y(b.Value)), num(w) + "%", num(y(0) - y(b.Value)), b.Text})
		if fromEnd := len(bars) - 1 - i; fromEnd%every == 0 {
			d.names = append(d.names, name{num(x+place/2) + "%", b.Label, len(bars) > names/3 && fromEnd/every%3 != 0})
		}
	}
	return d
}

// niceStep is the distance of lines so that up to four of them reach peak: 1, 2 or 5 times a power of ten.
func niceStep(peak float64) float64 {
	if peak <= 0 {
		return 1
	}
	raw := peak / 4
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// Part is one part of a [Proportions] bar.
type Part struct {
	Took time.Duration
	Fill string // a class that [Fill] gives
	Text string // the whole part in words, shown on hover
}

// series are the fills of parts; what they stand for is said beside the bar.
var series = []string{"fill-series-1", "fill-series-2", "fill-series-3", "fill-series-4", "fill-series-5"}

// Fill is the class of the i-th colour.
func Fill(i int) string { return series[i%len(series)] }

// partWidths are the parts' widths of 1000 units in all. Every part that took any time can be seen.
func partWidths(parts []Part) (x, w []float64) {
	const whole, least = 1000.0, 8.0
	var sum time.Duration
	for _, p := range parts {
		sum += p.Took
	}
	total := 0.0
	w = make([]float64, len(parts))
	for i, p := range parts {
		if sum > 0 && p.Took > 0 {
			w[i] = max(least, whole*float64(p.Took)/float64(sum))
		}
		total += w[i]
	}
	x = make([]float64, len(parts))
	at := 0.0
	for i := range w {
		if total > 0 {
			w[i] *= whole / total
		}
		x[i] = at
		at += w[i]
	}
	return x, w
}

func num(f float64) string { return strconv.FormatFloat(math.Round(f*100)/100, 'f', -1, 64) }
