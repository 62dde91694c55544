package scheduler

import (
	"bytes"
	"container/heap"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
)

// repository is one repository's waiting jobs, oldest first, and the turns it has had: its VMs.
type repository struct {
	share millrace.Share
	turns int
	late  time.Time // what was received by then has waited for long
	jobs  []*millrace.Job
	later []inLine // those that wait for their turn
	queue []queued // what is known of them
	index int      // in the heap
}

// patience is how long a job is overtaken by those whose turn it is, or that are smaller. After it a repository that has
// no VM comes before all that have one, whatever their priorities, and a host is kept free for a job that found no room.
const patience = 5 * time.Minute

// before reports whether it is r's turn before o's: the one's with the fewest VMs for its priority, and among those the
// one's with the oldest job.
func (r *repository) before(o *repository) bool {
	if a, b := r.starves(), o.starves(); a != b {
		return a
	} else if x, y := part(r.turns, r.share.Priority), part(o.turns, o.share.Priority); !a && x != y {
		return x < y
	}
	return older(r.jobs[0], o.jobs[0]) < 0
}

// starves reports whether the repository has nothing, and its oldest job has waited for long.
func (r *repository) starves() bool {
	return r.turns <= 0 && !r.jobs[0].ReceivedAt.After(r.late)
}

// full reports whether the repository has all the VMs that it may have.
func (r *repository) full() bool { return r.share.Limit > 0 && r.turns >= r.share.Limit }

// part is how much a repository would have with one more VM, by its priority.
func part(turns, priority int) int {
	return (turns + 1) << (millrace.MaxPriority - priority)
}

// turns is a heap of repositories, the one whose turn it is first. VMs that are there already count, for when slots become
// free one by one it would be the longest queue's turn for ever; jobs that can't start don't, or they would hold up the
// repository's others.
type turns []*repository

func inTurn(jobs []*millrace.Job, p *millrace.Pass) turns {
	byID := map[int64]*repository{}
	shares := make(map[int64]millrace.Share, len(p.Settings.Shares))
	for _, s := range p.Settings.Shares {
		shares[s.RepositoryID] = s
	}
	var list turns
	for _, j := range jobs {
		repo := byID[j.RepositoryID]
		if repo == nil {
			repo = &repository{share: shares[j.RepositoryID], late: p.Now.Add(-patience)}
			byID[j.RepositoryID] = repo
			list = append(list, repo)
		}
		repo.jobs = append(repo.jobs, j)
	}
	for i := range p.VMs {
		if repo := byID[p.VMs[i].RepositoryID]; repo != nil && p.VMs[i].State != millrace.VMStopping {
			repo.turns++
		}
	}
	for _, repo := range list {
		slices.SortFunc(repo.jobs, older)
	}
	heap.Init(&list)
	return list
}

func older(a, b *millrace.Job) int {
	if c := a.ReceivedAt.Compare(b.ReceivedAt); c != 0 {
		return c
	}
	return bytes.Compare(a.ID[:], b.ID[:])
}

// Len is how many repositories have jobs left.
func (t turns) Len() int { return len(t) }

// Less reports whether it is i's turn before j's.
func (t turns) Less(i, j int) bool { return t[i].before(t[j]) }

// Swap swaps two repositories.
func (t turns) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

// Push adds a repository.
func (t *turns) Push(x any) { *t = append(*t, x.(*repository)) }

// Pop removes the last repository.
func (t *turns) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}
