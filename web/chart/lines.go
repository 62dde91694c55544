package chart

import "math"

// Line is a straight line of [Lines], from Left at the start of the horizontal axis to Right at its end.
type Line struct {
	Left, Right float64
	Dashed      bool
	Text        string // the whole line in words, shown on hover
}

// Mark is a point of [Lines] with a line down to the horizontal axis.
type Mark struct {
	X, Y  float64
	Solid bool
	Text  string // the whole point in words, shown on hover
}

// Plane is what [Lines] draws.
type Plane struct {
	Width float64                  // the largest value across that must fit
	Lines func(end float64) []Line // given the value at the end of the horizontal axis
	Marks []Mark
	X, Y  func(float64) string // write the axes' values
}

type segment struct {
	y1, y2, text string
	dashed       bool
}

type point struct {
	x, y, bottom, text string
	solid              bool
}

type plane struct {
	across []line
	names  []name
	lines  []segment
	points []point
}

// lay puts p onto the drawing. Axes end at a whole step, so that nothing touches the edge.
func lay(p Plane) (d plane) {
	stepX := niceStep(p.Width)
	endX := stepX * max(1, math.Ceil(p.Width/stepX))
	lines, peak := p.Lines(endX), 0.0
	for _, l := range lines {
		peak = max(peak, l.Left, l.Right)
	}
	stepY := niceStep(peak)
	endY := stepY * max(1, math.Ceil(peak/stepY))
	x := func(v float64) string { return num(100*v/endX) + "%" }
	y := func(v float64) string { return num(top + (height-top-bottom)*(1-v/endY)) }
	for i := 0; float64(i)*stepY <= endY+stepY/2; i++ {
		v := float64(i) * stepY
		d.across = append(d.across, line{y(v), p.Y(v)})
	}
	count := int(math.Round(endX / stepX))
	for i := 0; i <= count; i++ {
		v := float64(i) * stepX
		d.names = append(d.names, name{x(v), p.X(v), i%2 == 1})
	}
	for _, l := range lines {
		d.lines = append(d.lines, segment{y(l.Left), y(l.Right), l.Text, l.Dashed})
	}
	for _, m := range p.Marks {
		d.points = append(d.points, point{x(m.X), y(m.Y), y(0), m.Text, m.Solid})
	}
	return d
}
