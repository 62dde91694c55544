package scheduler

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/millrace-ci/millrace"
)

// line is jobs that wait for the same, in the order in which they get it: for VMs to end, or for a rate.
type line struct {
	jobs  []inLine
	rate  *rate
	hosts []*free // those whose VMs' ends it waits for; nil: any of the org's
	debt  int     // slots that VMs hold beyond the plan: as many must end before the first job starts

	named    string  // hosts' names, once asked for
	byMemory []*free // hosts, those with most memory left first
	mostCPU  []*free // at each place of byMemory: the host up to there with the most CPU left
}

// inLine is a job in a line.
type inLine struct {
	job     *millrace.Job
	verdict *verdict
}

// rate is when the first of a line starts; the others follow as the JIT budget grows.
type rate struct {
	from  time.Time
	basis string
}

// explain gives each job of the line its reason.
func (l *line) explain(p *placing) {
	estimates := l.estimates(p)
	for i, w := range l.jobs {
		if w.verdict.say != nil {
			w.verdict.say()
			w.verdict.say = nil
		}
		r := w.verdict.reason
		if estimates != nil {
			r.Estimate = &estimates[i]
		}
		p.Wait[w.job.ID] = r
	}
}

func (l *line) estimates(p *placing) []millrace.Estimate {
	list := make([]millrace.Estimate, len(l.jobs))
	low, _, high := p.past.boot()
	if l.rate != nil {
		for i := range list {
			at := l.rate.from.Add(untilJIT(float64(i)))
			list[i] = millrace.Estimate{From: at.Add(low), To: at.Add(high)}
		}
		basis(list, l.rate.basis)
		return list
	}
	starts, vms := l.starts(p)
	if starts == nil {
		return nil
	}
	for i, s := range starts {
		list[i] = millrace.Estimate{From: p.now.Add(s.from + low), To: p.now.Add(s.to + high)}
	}
	what := "past runs of the job that runs now"
	if vms != 1 {
		what = "past runs of the " + about(vms) + " jobs that run now"
	}
	basis(list, what)
	return list
}

// basis says of each estimate how many jobs are before it and what else it rests on. Above ten, jobs are not counted one by
// one: a number that is another one at each pass would rewrite every job's row.
func basis(list []millrace.Estimate, what string) {
	before, text := "", ""
	for i := range list {
		if n := about(i); n != before {
			before = n
			switch i {
			case 0:
				text = "it is next; " + what
			case 1:
				text = "1 job is before it; " + what
			default:
				text = n + " jobs are before it; " + what
			}
		}
		list[i].Basis = text
	}
}

// about is n in words, exact up to ten: "7", "about 40".
func about(n int) string {
	if n <= 10 {
		return strconv.Itoa(n)
	}
	unit := int(math.Pow10(len(strconv.Itoa(n)) - 1))
	return fmt.Sprintf("about %d", (n+unit/2)/unit*unit)
}

// start is when a job in line gets its VM, from now: nine times in ten in this range, as far as the past tells.
type start struct{ from, to time.Duration }

// maxEnds is how many VMs' ends are looked at for one line. In larger fleets every second, third … VM stands for two,
// three …: they end so close to each other that it makes no difference.
const maxEnds = 256

// starts plays the line through a number of times, each time with another run time of each job out of what its past runs
// allow, and returns how early and how late each job started, without the extremes; and how many VMs run now. It is nil
// when nothing is known of any run. What a VM frees counts wherever it is; what is free in pieces now counts once.
func (l *line) starts(p *placing) (starts []start, vms int) {
	ends, vms := l.ends(p)
	if len(ends) == 0 {
		return nil, vms
	}
	queue := make([]queued, len(l.jobs))
	for i, w := range l.jobs {
		queue[i] = queued{needs: w.job.Demand.Size, takes: p.past.takes(w.job.ID), mix: mixOf(w.job.ID)}
		if l.hosts == nil {
			queue[i].needs = slot
		}
	}
	_, bootTime, _ := p.past.boot()
	spread := newSpread(len(queue))
	var h ending
	for path := range paths {
		h = h[:0]
		for i := range ends {
			h = append(h, end{ends[i].at[path], ends[i].frees})
		}
		h.init()
		got, at := l.free(), time.Duration(0)
		for i := range queue {
			q := &queue[i]
			for len(h) > 0 && (got.MilliCPU < q.needs.MilliCPU || got.MemoryMB < q.needs.MemoryMB) {
				e := h.pop()
				at = e.at
				got.MilliCPU += e.frees.MilliCPU
				got.MemoryMB += e.frees.MemoryMB
			}
			got.MilliCPU = max(0, got.MilliCPU-q.needs.MilliCPU)
			got.MemoryMB = max(0, got.MemoryMB-q.needs.MemoryMB)
			spread.add(i, at)
			h.push(end{at + bootTime + q.takes[q.mix.at(path)], q.needs})
		}
	}
	return spread.starts(), vms
}

// queued is a job in line: what it needs, and how long it takes.
type queued struct {
	needs millrace.Size
	takes *quantiles
	mix   mix
}

// slot is what a VM is of a plan.
var slot = millrace.Size{MilliCPU: 1}

// free is what the first job of the line finds free.
func (l *line) free() millrace.Size {
	if l.hosts == nil {
		return millrace.Size{MilliCPU: -l.debt}
	}
	left := l.roomiest(math.MaxInt).left
	return millrace.Size{MilliCPU: max(0, left.MilliCPU), MemoryMB: max(0, left.MemoryMB)}
}

// vmEnd is when a VM ends in each play, and what it frees.
type vmEnd struct {
	at    *quantiles
	frees millrace.Size
}

// ends are when the VMs end that the line waits for, and how many they are.
func (l *line) ends(p *placing) (ends []vmEnd, n int) {
	if !p.past.known() {
		return nil, 0
	}
	var on map[millrace.HostID]bool
	if l.hosts != nil {
		on = make(map[millrace.HostID]bool, len(l.hosts))
		for _, f := range l.hosts {
			on[f.host.ID] = true
		}
	}
	var which []int // VMs, then placements
	for i := range p.pass.VMs {
		v := &p.pass.VMs[i]
		gone := v.State == millrace.VMLost || v.State == millrace.VMStopping && p.past.away[v.HostID] // nobody knows, or it holds nothing
		if !gone && (on == nil || on[v.HostID]) {
			which = append(which, i)
		}
	}
	for i := range p.Placements {
		if on == nil || on[p.Placements[i].HostID] {
			which = append(which, len(p.pass.VMs)+i)
		}
	}
	n = len(which)
	step := (n + maxEnds - 1) / maxEnds
	for i := 0; i < n; i += step {
		var e vmEnd
		if at := which[i]; at < len(p.pass.VMs) {
			v := &p.pass.VMs[at]
			e = vmEnd{p.past.remains(v), v.Size}
		} else {
			place := &p.Placements[at-len(p.pass.VMs)]
			e = vmEnd{p.past.placed(place), p.sizes[place.JobID]}
		}
		if l.hosts == nil {
			e.frees = slot
		}
		stands := min(step, n-i) // for so many
		e.frees.MilliCPU *= stands
		e.frees.MemoryMB *= stands
		ends = append(ends, e)
	}
	return ends, n
}

// end is when something is free again.
type end struct {
	at    time.Duration
	frees millrace.Size
}

// ending is a heap of ends, the first on top. It is container/heap's without its calls: a pass has hundreds of thousands.
type ending []end

func (h ending) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h ending) down(i int) {
	e := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].at < h[child].at {
			child++
		}
		if e.at <= h[child].at {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = e
}

func (h *ending) push(e end) {
	*h = append(*h, e)
	s := *h
	i := len(s) - 1
	for i > 0 && s[(i-1)/2].at > e.at {
		s[i] = s[(i-1)/2]
		i = (i - 1) / 2
	}
	s[i] = e
}

func (h *ending) pop() end {
	s := *h
	top := s[0]
	s[0] = s[len(s)-1]
	*h = s[:len(s)-1]
	if len(s) > 1 {
		s[:len(s)-1].down(0)
	}
	return top
}

// spread keeps the two earliest and the two latest starts of each job.
type spread []struct{ first, second, last, butLast time.Duration }

func newSpread(n int) spread {
	s := make(spread, n)
	for i := range s {
		s[i].first, s[i].second = math.MaxInt64, math.MaxInt64
		s[i].last, s[i].butLast = -1, -1
	}
	return s
}

func (s spread) add(i int, at time.Duration) {
	e := &s[i]
	if at < e.second {
		e.first, e.second = min(e.first, at), max(e.first, at)
	}
	if at > e.butLast {
		e.last, e.butLast = max(e.last, at), min(e.last, at)
	}
}

// starts leaves out the earliest and the latest of each.
func (s spread) starts() []start {
	list := make([]start, len(s))
	for i, e := range s {
		list[i] = start{e.second, e.butLast}
	}
	return list
}
