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

// The drawing's measures, in its own units; it scales with the page.
const (
	width, height = 720.0, 200.0
	left, right   = 44.0, 4.0
	top, bottom   = 10.0, 24.0
	gap           = 0.28 // of a bar's place
)

type rect struct {
	x, y, w, h string
	text       string
}

type mark struct{ x, y, text string }

type drawing struct {
	bars  []rect
	lines []mark // a line across at y, with its value
	names []mark // under the axis
}

// draw lays out bars. Labels are thinned so that no two touch.
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
		d.lines = append(d.lines, mark{num(left - 8), num(y(v)), strconv.FormatFloat(v, 'f', -1, 64)})
	}
	place := (width - left - right) / float64(max(1, len(bars)))
	every := max(1, int(math.Ceil(56/place)))
	for i, b := range bars {
		x := left + place*float64(i)
		w := min(place*(1-gap), 48)
		d.bars = append(d.bars, rect{num(x + (place-w)/2), num(y(b.Value)), num(w), num(y(0) - y(b.Value)), b.Text})
		if (len(bars)-1-i)%every == 0 {
			d.names = append(d.names, mark{num(x + place/2), num(height - 6), b.Label})
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
	Name string
	Took time.Duration
	Text string
}

// series are the fills of parts, in order; the parts' names stand in the table beside the bar.
var series = []string{"fill-series-1", "fill-series-2", "fill-series-3", "fill-series-4", "fill-series-5"}

// Fill is the class of the i-th part's colour.
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

func num(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }
