package scheduler

import (
	"container/heap"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// shape is all of a job that a host must suit; jobs of one shape wait for the same reason.
type shape struct {
	arch  millrace.Arch
	size  millrace.Size
	extra string
}

// Place launches VMs for waiting jobs, one each. It takes the repositories in turn, each one's oldest job first, so that
// none starves another; and of the hosts that hold a job the one with the least memory left, then the least CPU (best
// fit), or, where the job takes any architecture, one of the architecture with more memory free. Every job that isn't
// placed gets the reason.
func Place(waiting []millrace.Job, fleet Fleet, policy Policy, now time.Time) Result {
	p := placing{
		Result:  Result{Wait: make(map[millrace.JobID]millrace.WaitReason, len(waiting))},
		now:     now,
		policy:  policy,
		budgets: maps.Clone(policy.Budgets),
		room:    newRoom(freeHosts(fleet, now), smallest(waiting)),
		full:    map[shape]millrace.WaitReason{},
	}
	queue := inTurn(waiting, fleet.VMs)
	for queue.Len() > 0 {
		repo := queue[0]
		j := repo.jobs[0]
		repo.jobs = repo.jobs[1:]
		if reason := p.place(j); reason.Code != "" {
			p.Wait[j.ID] = reason // and the repository keeps its turn
		} else {
			repo.turns++
		}
		if len(repo.jobs) == 0 {
			heap.Pop(&queue)
		} else {
			heap.Fix(&queue, 0)
		}
	}
	return p.Result
}

// placing is a placement under way.
type placing struct {
	Result
	now     time.Time
	policy  Policy
	budgets map[int64]Budget
	room    *room
	full    map[shape]millrace.WaitReason // shapes that no host holds any more, and why
}

// place launches a VM for j, or says why not.
func (p *placing) place(j *millrace.Job) millrace.WaitReason {
	budget := p.budgets[j.InstallationID]
	switch {
	case j.Wait.Code == millrace.WaitLabelUnparseable:
		return j.Wait
	case budget.Suspended:
		return because(millrace.WaitSuspended, "The GitHub App is suspended for %s. An owner of %s can unsuspend it in its GitHub settings.", budget.Owner, budget.Owner)
	case j.RetryAt.After(p.now):
		p.NextAt = earliest(p.NextAt, j.RetryAt)
		return because(millrace.WaitRetry, "%s It is tried again %s (try %d).", failure(j), in(j.RetryAt.Sub(p.now)), j.Tries+1)
	}
	s := shape{j.Demand.Arch, j.Demand.Size, strings.Join(j.Demand.Extra, ",")}
	if reason, ok := p.full[s]; ok {
		return reason
	}
	best := p.room.bestFit(s, j.Demand)
	switch {
	case best == nil:
		p.full[s] = noRoom(p.room.hosts, j.Demand)
		return p.full[s]
	case p.policy.Slots <= 0:
		return because(millrace.WaitPlanLimit, "All %d slots of the plan are in use. The job starts when one is free, or with a larger plan.", p.policy.Concurrency)
	case budget.JIT < 1:
		at := p.now.Add(time.Duration((1 - budget.JIT) / millrace.JITPerMinute * float64(time.Minute)))
		p.NextAt = earliest(p.NextAt, at)
		return because(millrace.WaitRateLimited, "GitHub allows %d runner registrations a minute for %s, and they are used up. The next is free %s.", millrace.JITPerMinute, budget.Owner, in(at.Sub(p.now)))
	}
	p.room.use(best, j.Demand.Size)
	p.policy.Slots--
	budget.JIT--
	p.budgets[j.InstallationID] = budget
	p.Placements = append(p.Placements, millrace.Placement{JobID: j.ID, HostID: best.host.ID, Arch: best.host.Facts.Arch})
	return millrace.WaitReason{}
}

func because(code millrace.WaitCode, format string, args ...any) millrace.WaitReason {
	return millrace.WaitReason{Code: code, Text: fmt.Sprintf(format, args...)}
}
