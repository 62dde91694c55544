package web

import (
	"fmt"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/chart"
	"github.com/millrace-ci/millrace/web/ui"
)

// A host's page shows the load of the last day by half hours.
const (
	loadSpan  = 30 * time.Minute
	loadSpans = 48
)

// hostLoad is what was committed and used of a host, span by span.
type hostLoad struct {
	Offer millrace.Size
	From  time.Time
	Spans []millrace.Load
}

// most is the most of each over the spans.
func (l hostLoad) most() (m millrace.Load) {
	for _, s := range l.Spans {
		m.CPU, m.UsedCPU = max(m.CPU, s.CPU), max(m.UsedCPU, s.UsedCPU)
		m.Memory, m.UsedMemory = max(m.Memory, s.Memory), max(m.UsedMemory, s.UsedMemory)
	}
	return m
}

// idle reports whether nothing of it could be seen in a chart.
func (l hostLoad) idle() bool { return l.most().CPU < 0.05 }

// advice says what a large gap between what is committed and what is used means; "" when there is none.
func (l hostLoad) advice() string {
	var sum millrace.Load
	for _, s := range l.Spans {
		sum.CPU, sum.UsedCPU = sum.CPU+s.CPU, sum.UsedCPU+s.UsedCPU
	}
	if sum.CPU == 0 || sum.UsedCPU > sum.CPU/2 {
		return ""
	}
	return fmt.Sprintf("Of the vCPUs that its VMs held, they used %s. Smaller sizes, or -burstable ones, would make room for more of them.", ui.Percent(int64(1000*sum.UsedCPU), int64(1000*sum.CPU)))
}

// began is when the i-th span did.
func (l hostLoad) began(i int) time.Time { return l.From.Add(time.Duration(i) * loadSpan) }

// charts are vCPUs and memory.
func (l hostLoad) charts() []drawn {
	m := l.most()
	graph := func(limit float64, used, committed func(millrace.Load) float64) chart.Graph {
		curve := func(name, text string, of func(millrace.Load) float64) chart.Curve {
			c := chart.Curve{Name: name, Text: text}
			for i, s := range l.Spans {
				c.Steps = append(c.Steps, chart.Step{Until: float64(i + 1), Value: of(s)})
			}
			return c
		}
		return chart.Graph{
			End: float64(len(l.Spans)), Ticks: l.ticks(), Limit: limit, LimitName: "offered", Y: plainNumber,
			Curves: []chart.Curve{curve("really used", "used by its VMs", used), curve("committed", "committed to VMs", committed)},
		}
	}
	offer := int64(l.Offer.MemoryMB) << 20
	unit, name := byteUnit(max(offer, int64(m.Memory), int64(m.UsedMemory)))
	return []drawn{
		{
			ID: "load-cpu", Title: "vCPUs",
			Summary: fmt.Sprintf("At most %s committed and %s used, of %s offered.", decimal(m.CPU), decimal(m.UsedCPU), cpus(l.Offer.MilliCPU)),
			Graph: graph(float64(l.Offer.MilliCPU)/1000,
				func(s millrace.Load) float64 { return s.UsedCPU }, func(s millrace.Load) float64 { return s.CPU }),
		},
		{
			ID: "load-memory", Title: "Memory, " + name,
			Summary: fmt.Sprintf("At most %s committed and %s used, of %s offered.", ui.Bytes(int64(m.Memory)), ui.Bytes(int64(m.UsedMemory)), ui.Bytes(offer)),
			Graph: graph(float64(offer)/unit,
				func(s millrace.Load) float64 { return s.UsedMemory / unit }, func(s millrace.Load) float64 { return s.Memory / unit }),
		},
	}
}

// ticks are at every fourth hour of the day.
func (l hostLoad) ticks() (ticks []chart.Tick) {
	const every = 4 * time.Hour
	end := l.began(len(l.Spans))
	for at := l.From.UTC().Truncate(every).Add(every); !at.After(end); at = at.Add(every) {
		ticks = append(ticks, chart.Tick{At: float64(at.Sub(l.From)) / float64(loadSpan), Text: at.Format("15:04")})
	}
	return ticks
}
