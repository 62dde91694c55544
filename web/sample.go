package web

import (
	"fmt"
	"strconv"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/chart"
	"github.com/millrace-ci/millrace/web/ui"
)

// use is what a VM used over time.
type use struct {
	millrace.Series
	VM millrace.VM
}

// How many samples a chart and a table show.
const (
	charted = 240
	listed  = 60
)

// rate is what was used between two samples.
type rate struct {
	millrace.Sample         // the later of the two
	took            float64 // seconds
	added           millrace.Sample
}

// rates are those between at most n samples, the first of them since the VM's start.
func (u use) rates(n int) (list []rate) {
	var last millrace.Sample
	for _, s := range u.Thin(n) {
		added := millrace.Sample{
			CPUMillis: s.CPUMillis - last.CPUMillis, DiskRead: s.DiskRead - last.DiskRead, DiskWrite: s.DiskWrite - last.DiskWrite,
			NetRx: s.NetRx - last.NetRx, NetTx: s.NetTx - last.NetTx,
		}
		list = append(list, rate{s, float64(s.UptimeMS-last.UptimeMS) / 1000, added})
		last = s
	}
	return list
}

func (r rate) vcpus() float64 { return float64(r.added.CPUMillis) / 1000 / r.took }

// perSecond is a difference as a rate, in words.
func (r rate) perSecond(added int64) string { return ui.Bytes(int64(float64(added)/r.took)) + "/s" }

func (r rate) at() string { return ui.Duration(time.Duration(r.UptimeMS) * time.Millisecond) }

// memory is the VM's size in bytes.
func (u use) memory() int64 { return int64(u.VM.Size.MemoryMB) << 20 }

// lasted is how long the VM was measured.
func (u use) lasted() time.Duration { return time.Duration(u.Last().UptimeMS) * time.Millisecond }

// advice says what was needed at most, and which smaller size would do.
func (u use) advice() string {
	peak, live := u.Peak(), u.VM.State.Live()
	text := "It used at most "
	if live {
		text = "So far it used at most "
	}
	text += decimal(float64(peak.PeakCPU)/1000) + " of " + cpus(u.VM.Size.MilliCPU) + " " + vcpuWord(u.VM.Size.MilliCPU) + " and " + ui.Bytes(peak.Memory) + " of " + ui.Bytes(u.memory())
	if enough := u.Enough(u.VM.Size); !live && enough != u.VM.Size {
		return text + ": a smaller size would do, " + enough.String() + "."
	}
	return text + "."
}

// drawn is a chart with its heading and what it says in words.
type drawn struct {
	ID, Title, Summary string
	chart.Graph
}

// charts are what the VM used of each kind.
func (u use) charts() []drawn {
	rates, peak, last := u.rates(charted), u.Peak(), u.Last()
	steps := func(value func(rate) float64) (list []chart.Step) {
		for _, r := range rates {
			list = append(list, chart.Step{Until: float64(r.UptimeMS) / 1000, Value: value(r)})
		}
		return list
	}
	graph := func(curves ...chart.Curve) chart.Graph {
		return chart.Graph{End: u.lasted().Seconds(), Ticks: chart.Elapsed(u.lasted()), Curves: curves, Y: plainNumber}
	}
	over := "over " + ui.Duration(u.lasted())
	cpu := drawn{
		ID: "cpu", Title: "vCPUs",
		Summary: fmt.Sprintf("%s on average %s, %s in the busiest second, of %s.",
			decimal(float64(last.CPUMillis)/float64(last.UptimeMS)), over, decimal(float64(peak.PeakCPU)/1000), cpus(u.VM.Size.MilliCPU)),
		Graph: graph(chart.Curve{Name: "used", Text: "vCPUs used", Steps: steps(rate.vcpus)}),
	}
	cpu.Limit, cpu.LimitName = float64(u.VM.Size.MilliCPU)/1000, "the VM's size"
	unit, name := byteUnit(max(peak.Memory, u.memory()))
	memory := drawn{
		ID: "memory", Title: "Memory, " + name,
		Summary: fmt.Sprintf("At most %s in use, of %s.", ui.Bytes(peak.Memory), ui.Bytes(u.memory())),
		Graph:   graph(chart.Curve{Name: "used", Text: "memory in use", Steps: steps(func(r rate) float64 { return float64(r.Memory) / unit })}),
	}
	memory.Limit, memory.LimitName = float64(u.memory())/unit, "the VM's size"
	flow := func(id, title, in, out string, of func(millrace.Sample) (in, out int64)) drawn {
		fastest := 0.0
		for _, r := range rates {
			a, b := of(r.added)
			fastest = max(fastest, float64(a)/r.took, float64(b)/r.took)
		}
		unit, name := byteUnit(int64(fastest))
		curve := func(name string, pick func(a, b int64) int64) chart.Curve {
			return chart.Curve{Name: name, Text: title + " " + name, Steps: steps(func(r rate) float64 { return float64(pick(of(r.added))) / r.took / unit })}
		}
		a, b := of(last)
		return drawn{
			ID: id, Title: title + ", " + name + "/s",
			Summary: fmt.Sprintf("%s %s and %s %s %s, at most %s/s.", ui.Bytes(a), in, ui.Bytes(b), out, over, ui.Bytes(int64(fastest))),
			Graph:   graph(curve(in, func(a, _ int64) int64 { return a }), curve(out, func(_, b int64) int64 { return b })),
		}
	}
	return []drawn{
		cpu, memory,
		flow("disk", "Disk", "read", "written", func(s millrace.Sample) (int64, int64) { return s.DiskRead, s.DiskWrite }),
		flow("network", "Network", "received", "sent", func(s millrace.Sample) (int64, int64) { return s.NetRx, s.NetTx }),
	}
}

// byteUnit is the unit in which n bytes are a small number.
func byteUnit(n int64) (unit float64, name string) {
	unit, name = 1, "B"
	for _, larger := range []string{"KB", "MB", "GB", "TB"} {
		if float64(n) < unit*1024 {
			break
		}
		unit, name = unit*1024, larger
	}
	return unit, name
}

func vcpuWord(milli int) string {
	if milli == 1000 {
		return "vCPU"
	}
	return "vCPUs"
}

func plainNumber(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// decimal has one digit after the point, two below a tenth.
func decimal(v float64) string {
	if v < 0.1 {
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}
