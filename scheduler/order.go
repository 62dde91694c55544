package scheduler

import (
	"container/heap"
	"time"
)

// order has the jobs of a line stand in the order in which [Place] would take them as VMs end: whenever there is room it is
// the turn of the repository with the fewest VMs, which ending VMs change. It plays the line through once, every job taking
// as long as it does in the middle.
func (l *line) order(p *placing, ends []vmEnd, queue []queued) {
	repos := map[int64]*repository{}
	var list turns
	for i, w := range l.jobs {
		id := w.job.RepositoryID
		repo := repos[id]
		if repo == nil {
			repo = &repository{share: p.turns[id].share, turns: p.turns[id].turns, late: p.turns[id].late}
			repos[id] = repo
			list = append(list, repo)
		}
		repo.jobs, repo.later, repo.queue = append(repo.jobs, w.job), append(repo.later, w), append(repo.queue, queue[i])
	}
	for i, repo := range list {
		repo.index = i
	}
	heap.Init(&list)
	_, boot, _ := p.past.boot()
	var h ending
	for _, e := range ends {
		h = append(h, end{at: e.mid, frees: e.frees, repository: e.repository, stands: e.stands})
	}
	h.init()
	got, at := l.free(), time.Duration(0)
	for i := range l.jobs {
		for {
			needs := list[0].queue[0].needs
			if len(h) == 0 || got.Holds(needs) {
				break
			}
			e := h.pop()
			at = e.at
			got = got.Plus(e.frees)
			if repo := repos[e.repository]; repo != nil {
				repo.turns -= e.stands
				if len(repo.jobs) > 0 {
					heap.Fix(&list, repo.index)
				}
			}
		}
		repo := list[0]
		q := repo.queue[0]
		l.jobs[i], queue[i] = repo.later[0], q
		got = got.Minus(q.needs).Positive()
		h.push(end{at: at + boot + q.takes.quantiles[paths/2], frees: q.needs, repository: l.jobs[i].job.RepositoryID, stands: 1})
		repo.turns++
		repo.jobs, repo.later, repo.queue = repo.jobs[1:], repo.later[1:], repo.queue[1:]
		if len(repo.jobs) == 0 {
			heap.Pop(&list)
		} else {
			heap.Fix(&list, 0)
		}
	}
}
