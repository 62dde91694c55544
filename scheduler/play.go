package scheduler

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// start is when a job in line gets its VM, from now: the earliest and the latest of all plays.
type start struct{ from, to time.Duration }

func (s *start) add(at time.Duration) { s.from, s.to = min(s.from, at), max(s.to, at) }

// play is a line that is played through: what [Place] does, but for the choice of host. When a VM ends, its host takes the
// next job that fits, of the repository whose turn it is.
type play struct {
	line   *line
	queue  []queued
	ends   []vmEnd
	alike  []alike
	byTurn bool                 // the turn of repositories is played; otherwise it is the order of the line
	had    map[int64]repository // as they are at the start

	turns  map[int64]int
	ending ending
	left   []millrace.Room // of each host
}

// alike is the jobs of one repository that need the same, by their places, and those of them that have not started.
type alike struct {
	repository int64
	priority   int
	jobs, next []int
}

// maxAlike is how many kinds of jobs a line may have for the turn of repositories to be played and for a small job to
// overtake a large one that does not fit. Beyond it the order is always that of the line.
const maxAlike = 16

func newPlay(l *line, queue []queued, ends []vmEnd, had map[int64]repository) *play {
	type kind struct {
		repository int64
		needs      millrace.Room
	}
	p := &play{line: l, queue: queue, ends: ends, had: had, turns: map[int64]int{}}
	at := map[kind]int{}
	for i := range queue {
		k := kind{queue[i].job.RepositoryID, queue[i].needs}
		n, ok := at[k]
		if !ok {
			if len(at) == maxAlike {
				return p.inOrder()
			}
			n = len(at)
			at[k] = n
			p.alike = append(p.alike, alike{repository: k.repository, priority: had[k.repository].share.Priority})
		}
		p.alike[n].jobs = append(p.alike[n].jobs, i)
	}
	p.byTurn = true
	return p
}

func (p *play) inOrder() *play {
	all := make([]int, len(p.queue))
	for i := range all {
		all[i] = i
	}
	p.alike = []alike{{jobs: all}}
	return p
}

// run plays once and says when each job starts.
func (p *play) run(path int, boot time.Duration, starts []start) {
	h := p.ending[:0]
	for i := range p.ends {
		e := &p.ends[i]
		h = append(h, end{e.at[path], e.frees, e.host, e.repository, e.stands})
	}
	h.init()
	p.left = p.line.left(p.left[:0])
	clear(p.turns)
	if p.byTurn {
		for id, repo := range p.had {
			p.turns[id] = repo.turns
		}
	}
	for i := range p.alike {
		p.alike[i].next = p.alike[i].jobs
	}
	waiting := len(p.queue)
	for len(h) > 0 && waiting > 0 {
		e := h.pop()
		left := &p.left[e.host]
		*left = left.Plus(e.frees)
		if p.byTurn {
			p.turns[e.repository] -= e.stands
		}
		for i := p.take(*left); i >= 0; i = p.take(*left) {
			q := &p.queue[i]
			*left = left.Minus(q.needs)
			starts[i].add(e.at)
			if p.byTurn {
				p.turns[q.job.RepositoryID]++
			}
			h.push(end{e.at + boot + q.takes.run(q.mix, path), q.needs, e.host, q.job.RepositoryID, 1})
			waiting--
		}
		if len(h) == 0 { // of some VMs nobody knows when they end
			for _, a := range p.alike {
				for _, i := range a.next {
					starts[i].add(e.at)
				}
			}
		}
	}
	p.ending = h
}

// take removes the job whose turn it is of those that fit and returns its place; -1 when none fits.
func (p *play) take(left millrace.Room) int {
	var best *alike
	for k := range p.alike {
		if a := &p.alike[k]; len(a.next) > 0 && left.Holds(p.queue[a.next[0]].needs) && (best == nil || p.before(a, best)) {
			best = a
		}
	}
	if best == nil {
		return -1
	}
	i := best.next[0]
	best.next = best.next[1:]
	return i
}

func (p *play) before(a, b *alike) bool {
	if x, y := part(p.turns[a.repository], a.priority), part(p.turns[b.repository], b.priority); x != y {
		return x < y
	}
	return older(p.queue[a.next[0]].job, p.queue[b.next[0]].job) < 0
}

// end is when something is free again.
type end struct {
	at         time.Duration
	frees      millrace.Room
	host       int   // its place among the line's
	repository int64 // whose VM it is
	stands     int   // for so many VMs
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
