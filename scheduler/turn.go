package scheduler

import (
	"bytes"
	"container/heap"
	"slices"

	"github.com/millrace-ci/millrace"
)

// repository is one repository's waiting jobs, oldest first, and the turns it has had: its VMs.
type repository struct {
	turns int
	jobs  []*millrace.Job
	later []inLine // those that wait for their turn
	queue []queued // what is known of them
	index int      // in the heap
}

// turns is a heap of repositories: first the one with the fewest VMs, and among those the one with the oldest job. VMs
// that are there already count, for when slots become free one by one it would be the longest queue's turn for ever; jobs
// that can't start don't, or they would hold up the repository's others.
type turns []*repository

func inTurn(jobs []*millrace.Job, vms []millrace.VM) turns {
	byID := map[int64]*repository{}
	var list turns
	for _, j := range jobs {
		repo := byID[j.RepositoryID]
		if repo == nil {
			repo = &repository{}
			byID[j.RepositoryID] = repo
			list = append(list, repo)
		}
		repo.jobs = append(repo.jobs, j)
	}
	for i := range vms {
		if repo := byID[vms[i].RepositoryID]; repo != nil && vms[i].State != millrace.VMStopping {
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
func (t turns) Less(i, j int) bool {
	if t[i].turns != t[j].turns {
		return t[i].turns < t[j].turns
	}
	return older(t[i].jobs[0], t[j].jobs[0]) < 0
}

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
