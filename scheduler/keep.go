package scheduler

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/millrace-ci/millrace"
)

// candidate is a job that may have a host kept free for it.
type candidate struct {
	*millrace.Job
	repo *repository
	had  bool // a host was kept free for it before
}

// keepHosts sees to it that no job is overtaken for ever by smaller ones: it keeps a host free for a job that has waited
// for long and that no host holds now, and places it first once one does. Its repository must have no VM as large where the
// job could run, or a queue of large jobs would keep the others waiting; and of the hosts that suit a job at most one is
// kept. A host once kept stays kept, for the wait reason remembers the job: it is chosen by what it lacks, and where nothing
// is placed that only becomes less.
func (p *placing) keepHosts(queue *turns) {
	var kept []*free
	vms := map[int64][]*millrace.VM{}
	served := map[*repository]bool{}
	for _, c := range p.candidates(*queue) {
		if len(vms) == 0 {
			for i := range p.pass.VMs {
				if v := &p.pass.VMs[i]; v.State != millrace.VMStopping {
					vms[v.RepositoryID] = append(vms[v.RepositoryID], v)
				}
			}
		}
		f, lacks := p.fit(c.Job)
		switch {
		case served[c.repo]:
			continue
		case f != nil && !c.had:
			continue // it is there for all, in turn
		case f != nil:
			if lacks = p.place(c.Job, c.repo); lacks == nil {
				served[c.repo] = true
				i := slices.Index(c.repo.jobs, c.Job)
				c.repo.jobs = slices.Delete(c.repo.jobs, i, i+1)
				continue
			}
		case lacks.line == nil || slices.ContainsFunc(kept, lacks.line.has) || slices.ContainsFunc(vms[c.RepositoryID], p.serves(c.Job)):
			continue
		default:
			f = lacks.line.nearest(c.Demand.Size)
		}
		served[c.repo] = true
		kept = append(kept, f)
		p.room.keep(f, c.Job)
		p.kept[c.Job] = keptFree(f, lacks)
		c.repo.turns++ // or another of its jobs would have what it may have
	}
	*queue = slices.DeleteFunc(*queue, func(r *repository) bool { return len(r.jobs) == 0 })
	heap.Init(queue)
}

// candidates are the jobs that have waited for long, the oldest of each size of each repository, oldest first; but those for
// which hosts were kept before all others. Those that have not yet are noted.
func (p *placing) candidates(queue turns) (list []candidate) {
	type sort struct {
		repo  *repository
		shape shape
	}
	seen := map[sort]bool{}
	for _, repo := range queue {
		for _, j := range repo.jobs {
			_, shape := p.demand(j)
			s := sort{repo, shape}
			if seen[s] || p.held(j) != nil {
				continue
			}
			seen[s] = true
			had := j.Wait.Code == millrace.WaitHostKept
			if !had && j.ReceivedAt.After(repo.late) {
				p.young = append(p.young, j)
				continue
			}
			list = append(list, candidate{j, repo, had})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.had != b.had {
			return cmp.Compare(0, map[bool]int{true: 1}[a.had])
		}
		return older(a.Job, b.Job)
	})
	return list
}

// keepLater has the pass repeated when a job has waited for long for which a host might be kept then.
func (p *placing) keepLater() {
	for _, j := range p.young {
		_, s := p.demand(j)
		if v := p.full[s]; p.placed[j.ID] == nil && v != nil && v.line != nil && !v.line.kept() {
			p.NextAt = earliest(p.NextAt, j.ReceivedAt.Add(patience))
		}
	}
}

// kept reports whether one of the line's hosts is kept free.
func (l *line) kept() bool {
	return slices.ContainsFunc(l.hosts, func(f *free) bool { return f.kept != nil })
}

// serves reports of a VM whether it is as large as j, where j could run: while j waited, it would not have been launched
// for a later job of j's repository.
func (p *placing) serves(j *millrace.Job) func(*millrace.VM) bool {
	d, _ := p.demand(j)
	return func(v *millrace.VM) bool {
		i, ok := slices.BinarySearchFunc(p.room.hosts, v.HostID, func(f *free, id millrace.HostID) int { return slices.Compare(f.host.ID[:], id[:]) })
		return ok && v.Size.Room().Holds(d.Size.Room()) && p.room.hosts[i].host.Suits(d)
	}
}

// has reports whether the line waits for f, too.
func (l *line) has(f *free) bool {
	_, ok := slices.BinarySearchFunc(l.hosts, f, byID)
	return ok
}

// nearest is the host of the line that lacks the least memory, then the least CPU of size, and then no VM's end.
func (l *line) nearest(size millrace.Size) *free {
	lacks := func(f *free) millrace.Room { return size.Room().Minus(f.left).Positive() }
	return slices.MinFunc(l.hosts, func(a, b *free) int {
		x, y := lacks(a), lacks(b)
		return cmp.Or(cmp.Compare(x.MemoryMB, y.MemoryMB), cmp.Compare(x.MilliCPU, y.MilliCPU), cmp.Compare(x.VMs, y.VMs), byID(a, b))
	})
}
