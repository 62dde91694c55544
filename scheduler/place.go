package scheduler

import (
	"container/heap"
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
	zone  millrace.Zone // whose rule asks for hosts; "": none does
}

// verdict is why a job waits. Jobs that wait for the same share it.
type verdict struct {
	reason millrace.WaitReason
	line   *line  // what it waits in; nil: when it starts isn't a matter of turns
	say    func() // completes reason once all is placed; nil: it is complete
}

// Place launches VMs for waiting jobs, one each. It takes the repositories in turn, each one's oldest job first, so that
// none starves another; and of the hosts that hold a job the one with the least memory left, then the least CPU (best
// fit), or with the most where the org spreads, or, where the job takes any architecture, one of the architecture with
// more memory free. A job that has waited for long for room has a host kept free for it, and comes first once it fits.
// Every job that isn't placed gets the reason. Of p it looks at all but the jobs and the org.
func Place(waiting []*millrace.Job, p millrace.Pass, policy Policy) Result {
	return place(waiting, p, policy, stopped(p))
}

func place(waiting []*millrace.Job, pass millrace.Pass, policy Policy, stops stops) Result {
	p := placing{
		Result:  Result{Wait: make(map[millrace.JobID]millrace.WaitReason, len(waiting))},
		pass:    &pass,
		now:     pass.Now,
		stops:   stops,
		policy:  policy,
		budgets: maps.Clone(policy.Budgets),
		placed:  map[millrace.JobID]*millrace.Job{},
		turns:   map[int64]repository{},
		full:    map[shape]*verdict{},
		kept:    map[*millrace.Job]*verdict{},
		trace:   map[millrace.JobID]bool{},
		limits:  map[*repository]*verdict{},
		jit:     map[int64]*verdict{},
	}
	p.room = newRoom(freeHosts(pass), smallest(waiting), pass.Settings.Strategy)
	p.fleet = newFleet(p.room.hosts)
	p.past = newPast(&pass)
	queue := inTurn(waiting, &pass)
	all := append(turns(nil), queue...)
	p.keepHosts(&queue)
	for queue.Len() > 0 {
		repo := queue[0]
		j := repo.jobs[0]
		repo.jobs = repo.jobs[1:]
		switch v := p.place(j, repo); {
		case v == nil:
		case v.line != nil: // and the repository keeps its turn
			repo.later = append(repo.later, inLine{j, v})
		default:
			p.Wait[j.ID] = v.reason
		}
		if len(repo.jobs) == 0 {
			heap.Pop(&queue)
		} else {
			heap.Fix(&queue, 0)
		}
	}
	p.keepLater()
	for _, j := range waiting {
		if p.trace[j.ID] {
			p.Trace = append(p.Trace, j.ID)
		}
	}
	for _, repo := range all {
		if len(repo.later) > 0 {
			p.turns[repo.later[0].job.RepositoryID] = *repo
		}
	}
	for _, l := range lineUp(all) {
		l.explain(&p)
	}
	return p.Result
}

// lineUp has the jobs that wait for their turn stand in line in the order in which they would be placed were there room
// for one after the other, and returns the lines.
func lineUp(repositories turns) (lines []*line) {
	var queue turns
	for _, repo := range repositories {
		if len(repo.later) > 0 {
			for _, w := range repo.later {
				repo.jobs = append(repo.jobs, w.job)
			}
			queue = append(queue, repo)
		}
	}
	heap.Init(&queue)
	for queue.Len() > 0 {
		repo := queue[0]
		w := repo.later[0]
		repo.jobs, repo.later = repo.jobs[1:], repo.later[1:]
		if len(w.verdict.line.jobs) == 0 {
			lines = append(lines, w.verdict.line)
		}
		w.verdict.line.jobs = append(w.verdict.line.jobs, w)
		repo.turns++
		if len(repo.jobs) == 0 {
			heap.Pop(&queue)
		} else {
			heap.Fix(&queue, 0)
		}
	}
	return lines
}

// placing is a placement under way.
type placing struct {
	Result
	pass    *millrace.Pass
	now     time.Time
	stops   stops
	policy  Policy
	budgets map[int64]Budget
	room    *room
	fleet   *fleet
	past    *past
	placed  map[millrace.JobID]*millrace.Job
	turns   map[int64]repository // those with jobs that wait in line, as they were when all was placed
	full    map[shape]*verdict   // shapes that no host holds any more, and why
	kept    map[*millrace.Job]*verdict
	young   []*millrace.Job          // that have not waited for long, the oldest of each size of each repository
	trace   map[millrace.JobID]bool  // see [Result]
	limits  map[*repository]*verdict // of the jobs beyond a repository's limit
	plan    *verdict                 // of the jobs beyond the plan's slots
	jit     map[int64]*verdict       // of those beyond an installation's JIT budget
}

// demand is what a host must have to run j: what j asks for, and what its zone's rule does.
func (p *placing) demand(j *millrace.Job) (d millrace.Demand, s shape) {
	rule := p.pass.Settings.Zone(j.Zone)
	d = rule.Asks(j.Demand)
	s = shape{arch: d.Arch, size: d.Size, extra: extra(d)}
	if len(rule.HostLabels) > 0 || d.Closed {
		s.zone = j.Zone
	}
	return d, s
}

// extra is all that d asks of a host beside its architecture and room. No label has a space in it.
func extra(d millrace.Demand) string {
	s := strings.Join(d.Extra, ",")
	if d.Closed {
		s += " closed"
	}
	return s
}

// held is why j can't start whatever is free; nil when it can.
func (p *placing) held(j *millrace.Job) *verdict {
	if j.Wait.Code == millrace.WaitLabelUnparseable {
		return &verdict{reason: millrace.WaitReason{Code: j.Wait.Code, Text: j.Wait.Text, Remedy: j.Wait.Code.Remedy()}}
	}
	if stop := p.stops.of(j); stop != nil {
		if stop.verdict.reason.Code == millrace.WaitZoneUnknown && j.Wait.Code != millrace.WaitZoneUnknown {
			p.trace[j.ID] = true
		}
		if at, ok := stop.asksAgain(p.now); ok {
			p.NextAt = earliest(p.NextAt, at)
			if stop.verdict.line == nil {
				stop.verdict.line = &line{rate: &rate{from: at, basis: "GitHub is asked again then"}}
			}
		}
		return &stop.verdict
	}
	if j.RetryAt.After(p.now) {
		p.NextAt = earliest(p.NextAt, j.RetryAt)
		return p.retry(j)
	}
	return nil
}

// fit is the host for j, or why there is none.
func (p *placing) fit(j *millrace.Job) (*free, *verdict) {
	d, s := p.demand(j)
	if v, ok := p.full[s]; ok {
		return nil, v
	}
	best := p.room.fit(s, d)
	if best == nil {
		v := p.fleet.noRoom(d)
		if s.zone != "" && v.reason.Code == millrace.WaitNoHost && len(p.fleet.group(j.Demand).hosts) > 0 {
			rule, open := p.pass.Settings.Zone(j.Zone), d
			open.Closed = false
			v = &verdict{reason: noZoneHost(rule, j.Demand, p.fleet.group(open).hosts)}
		}
		p.full[s] = v
	}
	return best, p.full[s]
}

// place launches a VM for j, or says why not.
func (p *placing) place(j *millrace.Job, repo *repository) *verdict {
	if v, ok := p.kept[j]; ok {
		return v
	}
	if v := p.held(j); v != nil {
		return v
	}
	if repo.full() {
		if p.limits[repo] == nil {
			p.limits[repo] = atLimit(repo, j)
		}
		return p.limits[repo]
	}
	budget := p.budgets[j.InstallationID]
	best, v := p.fit(j)
	switch {
	case best == nil:
		return v
	case p.policy.Slots <= 0:
		if p.plan == nil {
			p.plan = noSlot(p.policy)
		}
		return p.plan
	case budget.JIT < 1:
		at := p.now.Add(untilJIT(1 - budget.JIT))
		p.NextAt = earliest(p.NextAt, at)
		if p.jit[j.InstallationID] == nil {
			p.jit[j.InstallationID] = noJIT(budget, at)
		}
		return p.jit[j.InstallationID]
	}
	p.placed[j.ID] = j
	repo.turns++
	p.room.use(best, j.Demand.Size)
	p.policy.Slots--
	budget.JIT--
	p.budgets[j.InstallationID] = budget
	arch := j.Demand.Arch
	if arch == millrace.ArchAny {
		arch = best.host.Facts.Arch
	}
	p.Placements = append(p.Placements, millrace.Placement{JobID: j.ID, HostID: best.host.ID, Arch: arch, Wait: best.booting(p.pass)})
	return nil
}

// untilJIT is how long an installation's budget takes to grow by n.
func untilJIT(n float64) time.Duration {
	return time.Duration(n / millrace.JITPerMinute * float64(time.Minute))
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
