package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// free is a host and what is left of it.
type free struct {
	host   *millrace.Host
	online bool
	left   millrace.Size
}

func (f *free) holds(s millrace.Size) bool {
	return s.MilliCPU <= f.left.MilliCPU && s.MemoryMB <= f.left.MemoryMB
}

// shape is all of a job that placement looks at; jobs of one shape share their candidates.
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
	r := Result{Wait: map[millrace.JobID]millrace.WaitReason{}}
	hosts := freeHosts(fleet, now)
	candidates := map[shape][]*free{}
	full := map[shape]millrace.WaitReason{} // shapes that no host holds any more, and why
	wait := func(j millrace.Job, code millrace.WaitCode, format string, args ...any) {
		r.Wait[j.ID] = millrace.WaitReason{Code: code, Text: fmt.Sprintf(format, args...)}
	}
	for _, j := range inTurn(waiting) {
		budget := policy.Budgets[j.InstallationID]
		s := shape{j.Demand.Arch, j.Demand.Size, strings.Join(j.Demand.Extra, ",")}
		switch {
		case j.Wait.Code == millrace.WaitLabelUnparseable:
			r.Wait[j.ID] = j.Wait
			continue
		case budget.Suspended:
			wait(j, millrace.WaitSuspended, "The GitHub App is suspended for %s. An owner of %s can unsuspend it in its GitHub settings.", budget.Owner, budget.Owner)
			continue
		case j.RetryAt.After(now):
			r.NextAt = earliest(r.NextAt, j.RetryAt)
			wait(j, millrace.WaitRetry, "%s It is tried again %s (try %d).", failure(j), in(j.RetryAt.Sub(now)), j.Tries+1)
			continue
		}
		if reason, ok := full[s]; ok {
			r.Wait[j.ID] = reason
			continue
		}
		list, ok := candidates[s]
		if !ok {
			var reason millrace.WaitReason
			if list, reason = suitable(hosts, j.Demand); reason.Code != "" {
				full[s] = reason
				r.Wait[j.ID] = reason
				continue
			}
			candidates[s] = list
		}
		best := bestFit(list, j.Demand)
		switch {
		case best == nil:
			full[s] = noCapacity(list, j.Demand)
			r.Wait[j.ID] = full[s]
			continue
		case policy.Slots <= 0:
			wait(j, millrace.WaitPlanLimit, "All %d slots of the plan are in use. The job starts when one is free, or with a larger plan.", policy.Concurrency)
			continue
		case budget.JIT < 1:
			at := now.Add(time.Duration((1 - budget.JIT) / millrace.JITPerMinute * float64(time.Minute)))
			r.NextAt = earliest(r.NextAt, at)
			wait(j, millrace.WaitRateLimited, "GitHub allows %d runner registrations a minute for %s, and they are used up. The next is free %s.", millrace.JITPerMinute, budget.Owner, in(at.Sub(now)))
			continue
		}
		best.left.MilliCPU -= j.Demand.Size.MilliCPU
		best.left.MemoryMB -= j.Demand.Size.MemoryMB
		policy.Slots--
		budget.JIT--
		policy.Budgets[j.InstallationID] = budget
		r.Placements = append(r.Placements, millrace.Placement{JobID: j.ID, HostID: best.host.ID, Arch: best.host.Facts.Arch})
	}
	return r
}

// freeHosts is what is left of each host, in order of their IDs.
func freeHosts(fleet Fleet, now time.Time) []*free {
	used := make(map[millrace.HostID]millrace.Size, len(fleet.Hosts))
	for _, v := range fleet.VMs {
		u := used[v.HostID]
		used[v.HostID] = millrace.Size{MilliCPU: u.MilliCPU + v.Size.MilliCPU, MemoryMB: u.MemoryMB + v.Size.MemoryMB}
	}
	hosts := make([]*free, len(fleet.Hosts))
	for i := range fleet.Hosts {
		h := &fleet.Hosts[i]
		offer, u := h.Facts.Offer, used[h.ID]
		hosts[i] = &free{
			host: h, online: h.Status(now) == millrace.StatusOnline,
			left: millrace.Size{MilliCPU: offer.MilliCPU - u.MilliCPU, MemoryMB: offer.MemoryMB - u.MemoryMB},
		}
	}
	return hosts
}

// inTurn orders jobs fairly: each repository's oldest, then each one's second oldest, and so on; within a round by age.
func inTurn(jobs []millrace.Job) []millrace.Job {
	oldest := slices.Clone(jobs)
	slices.SortFunc(oldest, func(a, b millrace.Job) int {
		return cmp.Or(a.ReceivedAt.Compare(b.ReceivedAt), slices.Compare(a.ID[:], b.ID[:]))
	})
	round := make(map[millrace.JobID]int, len(jobs))
	taken := map[int64]int{}
	for _, j := range oldest {
		round[j.ID] = taken[j.RepositoryID]
		taken[j.RepositoryID]++
	}
	slices.SortStableFunc(oldest, func(a, b millrace.Job) int { return cmp.Compare(round[a.ID], round[b.ID]) })
	return oldest
}

// suitable are the online hosts that d fits on when they are empty; a reason when there are none.
func suitable(hosts []*free, d millrace.Demand) (list []*free, reason millrace.WaitReason) {
	var matching, large []*free
	for _, f := range hosts {
		if !f.host.HasLabels(d) {
			continue
		}
		matching = append(matching, f)
		if f.host.Suits(d) {
			large = append(large, f)
		}
	}
	for _, f := range large {
		if f.online {
			list = append(list, f)
		}
	}
	switch {
	case len(matching) == 0:
		return nil, millrace.WaitReason{Code: millrace.WaitNoHost, Text: fmt.Sprintf("No host has %s. Add such a host, or change runs-on.", wanted(d))}
	case len(large) == 0:
		biggest := slices.MaxFunc(matching, func(a, b *free) int {
			x, y := a.host.Facts.Offer, b.host.Facts.Offer
			return cmp.Or(cmp.Compare(x.MemoryMB, y.MemoryMB), cmp.Compare(x.MilliCPU, y.MilliCPU))
		})
		return nil, millrace.WaitReason{Code: millrace.WaitTooBig, Text: fmt.Sprintf(
			"Needs %s; the largest host with %s offers %s (%s). Ask for a smaller size in runs-on, or add a larger host.",
			d.Size, wanted(d), biggest.host.Facts.Offer, biggest.host.Name)}
	case len(list) == 0:
		names := make([]string, 0, 3)
		for _, f := range large[:min(3, len(large))] {
			names = append(names, f.host.Name)
		}
		return nil, millrace.WaitReason{Code: millrace.WaitHostUnavailable, Text: fmt.Sprintf(
			"The hosts that could run it are offline, draining or disabled: %s. Bring one back on the hosts page.", strings.Join(names, ", "))}
	}
	return list, reason
}

// wanted says what of a host a demand asks for beside its size.
func wanted(d millrace.Demand) string {
	arch := string(d.Arch)
	if d.Arch == millrace.ArchAny {
		arch = "any"
	}
	if len(d.Extra) == 0 {
		return "architecture " + arch
	}
	return "architecture " + arch + " and the labels " + strings.Join(d.Extra, ", ")
}

// bestFit is the host of list that holds d and has the least left; nil when none does.
func bestFit(list []*free, d millrace.Demand) (best *free) {
	memory := map[millrace.Arch]int{}
	if d.Arch == millrace.ArchAny {
		for _, f := range list {
			memory[f.host.Facts.Arch] += f.left.MemoryMB
		}
	}
	for _, f := range list {
		if !f.holds(d.Size) {
			continue
		}
		if best == nil || cmp.Or(
			-cmp.Compare(memory[f.host.Facts.Arch], memory[best.host.Facts.Arch]),
			cmp.Compare(f.left.MemoryMB, best.left.MemoryMB),
			cmp.Compare(f.left.MilliCPU, best.left.MilliCPU),
		) < 0 {
			best = f
		}
	}
	return best
}

func noCapacity(list []*free, d millrace.Demand) millrace.WaitReason {
	roomiest := slices.MaxFunc(list, func(a, b *free) int {
		return cmp.Or(cmp.Compare(a.left.MemoryMB, b.left.MemoryMB), cmp.Compare(a.left.MilliCPU, b.left.MilliCPU))
	})
	left := millrace.Size{MilliCPU: max(0, roomiest.left.MilliCPU), MemoryMB: max(0, roomiest.left.MemoryMB)}
	return millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: fmt.Sprintf(
		"Needs %s; the most that is free on a host with %s is %s, on %s. It starts when a job there ends.", d.Size, wanted(d), left, roomiest.host.Name)}
}

func failure(j millrace.Job) string {
	if j.Failure == "" {
		return "Its VM ended before it was online."
	}
	return "Its VM ended before it was online: " + strings.TrimSuffix(j.Failure, ".") + "."
}

// in says how soon: "in 5 s".
func in(d time.Duration) string {
	if d < time.Second {
		return "at once"
	}
	return "in " + d.Round(time.Second).String()
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
