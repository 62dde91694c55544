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
	of    int64   // only VMs of this repository count; 0: those of any
	debt  int     // slots that VMs hold beyond the plan, or beyond the repository's limit: as many must end before the first job starts

	isFull   string // see [line.full], once asked for
	atMost   bool
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

// maxEnds is how many VMs' ends are looked at for one line. In larger fleets every second, third … VM stands for two,
// three …: they end so close to each other that it makes no difference.
const maxEnds = 256

// longLine is from how many jobs on a line is played through half as often, from two and three times as many on a third and
// a quarter: over so many, what differs between one play and the next is small, and nearly all of a pass's time would go there.
const longLine = 2_000

// starts plays the line through a number of times, each time with another run time of each job out of what its past runs
// allow, and returns how early and how late each job started; and how many VMs run now. It is nil when nothing is known of
// any run.
func (l *line) starts(p *placing) (starts []start, vms int) {
	ends, vms := l.ends(p)
	if len(ends) == 0 {
		return nil, vms
	}
	queue := make([]queued, len(l.jobs))
	for i, w := range l.jobs {
		queue[i] = queued{job: w.job, needs: w.job.Demand.Size.Room(), takes: p.past.takes(w.job.ID), mix: mixOf(w.job.ID)}
		if l.hosts == nil {
			queue[i].needs = slot
		}
	}
	l.order(p, ends, queue)
	_, boot, _ := p.past.boot()
	starts = make([]start, len(queue))
	for i := range starts {
		starts[i].from = math.MaxInt64
	}
	play := newPlay(l, queue, ends, p.turns)
	step := min(4, 1+len(queue)/longLine)
	for path := 0; path < paths; path += step {
		play.run(path, boot, starts)
	}
	return starts, vms
}

// queued is a job in line: what it needs, and how long it takes.
type queued struct {
	job   *millrace.Job
	needs millrace.Room
	takes *table
	mix   mix
}

// slot is what a VM is of a plan.
var slot = millrace.Room{VMs: 1}

// free is what the first job of the line finds free.
func (l *line) free() millrace.Room {
	if l.hosts == nil {
		return millrace.Room{VMs: -l.debt}
	}
	return l.roomiest(math.MaxInt).open()
}

// left is what is free of each host now; of a plan's slots, as of one host.
func (l *line) left(buf []millrace.Room) []millrace.Room {
	if l.hosts == nil {
		return append(buf, l.free())
	}
	for _, f := range l.hosts {
		buf = append(buf, f.left)
	}
	return buf
}

// vmEnd is when a VM ends in each play, and what it frees.
type vmEnd struct {
	at         *quantiles
	mid        time.Duration // the middle of at
	frees      millrace.Room
	host       int // its place among the line's
	repository int64
	stands     int // for so many VMs
}

// ends are when the VMs end that the line waits for, and how many they are.
func (l *line) ends(p *placing) (ends []vmEnd, n int) {
	if !p.past.known() {
		return nil, 0
	}
	hosts := make(map[millrace.HostID]int, len(l.hosts))
	for i, f := range l.hosts {
		hosts[f.host.ID] = i
	}
	on := func(h millrace.HostID, repository int64) bool {
		_, ok := hosts[h]
		return (ok || l.hosts == nil) && (l.of == 0 || l.of == repository)
	}
	var which []int // VMs, then placements
	for i := range p.pass.VMs {
		v := &p.pass.VMs[i]
		gone := v.State == millrace.VMLost || v.State == millrace.VMStopping && p.past.away[v.HostID] // nobody knows, or it holds nothing
		if !gone && on(v.HostID, v.RepositoryID) {
			which = append(which, i)
		}
	}
	for i := range p.Placements {
		if place := &p.Placements[i]; on(place.HostID, p.placed[place.JobID].RepositoryID) {
			which = append(which, len(p.pass.VMs)+i)
		}
	}
	n = len(which)
	step := (n + maxEnds - 1) / maxEnds
	for i := 0; i < n; i += step {
		e := vmEnd{stands: min(step, n-i)}
		if at := which[i]; at < len(p.pass.VMs) {
			v := &p.pass.VMs[at]
			e.at, e.mid = p.past.remains(v)
			e.frees, e.host, e.repository = v.Size.Room(), hosts[v.HostID], v.RepositoryID
		} else {
			place := &p.Placements[at-len(p.pass.VMs)]
			j := p.placed[place.JobID]
			e.at, e.mid = p.past.placed(place)
			e.frees, e.host, e.repository = j.Demand.Size.Room(), hosts[place.HostID], j.RepositoryID
		}
		if l.hosts == nil {
			e.frees = slot
		}
		e.frees = e.frees.Times(e.stands)
		ends = append(ends, e)
	}
	return ends, n
}
