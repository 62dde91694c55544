package sim

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
)

// What must hold after every step. The numbers are those of docs/reliability.md.
//
//	I1  no job is lost: each is found, and then has a VM or a reason; what is over here is over at GitHub
//	I2  no job is launched or run twice
//	I3  few VMs never run a job
//	I4  no VM is killed while it runs a job
//	I5  a message of an older epoch changes nothing
//	I6  hosts and plans hold what they can
//	I7  nothing is left over: registrations, machines
//	I8  what happened is counted once
//	I9  a job never goes back
//	I10 nobody's job runs on somebody else's host
//	I11 GitHub's limits are kept
//	I14 when the faults are over, all work gets done
//	I16 nobody's clock but the database's decides

// checkStep checks what the last step changed.
func (s *Sim) checkStep() { s.mirror.read(s) }

// detectWithin is when a job must be known, whatever happened to its deliveries: its repository is polled every minute, or
// every ten when it had no job for hours, and one that is new is listed within ten; and a call or two may fail.
func detectWithin(r *request) time.Duration {
	switch {
	case r.active:
		return 5 * time.Minute
	default:
		return 45 * time.Minute
	}
}

// stuckAfter is how long a job that a host has room for may wait on a good day.
const stuckAfter = time.Hour

// checkWaiting looks at all jobs that are open at GitHub.
func (s *Sim) checkWaiting() {
	s.load.tidy()
	for _, id := range slices.Sorted(maps.Keys(s.load.open)) {
		r := s.load.open[id]
		if !r.ours {
			continue
		}
		state, _ := s.github.Job(id)
		age := s.now.Sub(r.queued)
		j := s.mirror.byGitHub[id]
		switch {
		case j == nil && age > detectWithin(r) && !s.faults.troubled(r.org.login, true) && !s.recovering():
			s.violated("I1", "job %d of %s/%s was queued %s ago, and nobody here knows", id, r.org.login, r.repo, age)
		case j == nil:
		case !j.open() && state.Status != "completed":
			s.violated("I1", "job %d is %s at GitHub and completed here", id, state.Status)
		case j.status == millrace.JobQueued && state.Status == "queued" && j.wait == "" && s.now.Sub(j.heard) > 2*time.Minute:
			s.violated("I1", "job %d waits and has no reason", id)
		case state.Status == "queued" && state.RunnerID == 0 && age > stuckAfter && !s.faults.troubled(r.org.login, false) && s.hasRoom(r):
			s.violated("I14", "job %d waits for %s, for %q, and there is room for it", id, age, j.wait)
		}
	}
	for _, o := range s.orgs {
		if held := s.slots(o); held > s.cfg.Slots {
			s.violated("I6", "%s holds %d slots of %d", o.login, held, s.cfg.Slots)
		}
	}
}

// recovering reports whether no server has been up for long enough to know anything.
func (s *Sim) recovering() bool { return s.alive() == 0 }

// hasRoom reports whether the owner has slots and an online host with plenty of room.
func (s *Sim) hasRoom(r *request) bool {
	if s.slots(r.org) >= s.cfg.Slots {
		return false
	}
	vms := map[millrace.HostID]int{}
	for _, v := range s.mirror.live {
		vms[v.host]++
	}
	for _, h := range s.hosts {
		if h.org == r.org && (vms[h.id] >= h.facts.Room().VMs || !h.up || s.now.Before(h.cutOff.Add(settles)) || s.now.Before(h.slow.Add(settles))) {
			return false // one that is full or away may be the one that it needs
		}
	}
	return true
}

// slots is how many VMs of an org may run a job.
func (s *Sim) slots(o *org) (n int) {
	for _, v := range s.mirror.live {
		if v.org == o.ID && v.state != millrace.VMStopping {
			n++
		}
	}
	return n
}

// checkAway checks that nothing waits here for jobs of repositories that were transferred to somebody else.
func (s *Sim) checkAway() {
	for _, id := range slices.Sorted(maps.Keys(s.load.all)) {
		if j := s.mirror.byGitHub[id]; s.load.all[id].away && j != nil && j.open() {
			s.violated("I14", "job %d is %s, and its repository is somebody else's", id, j.status)
		}
	}
}

// checkJob checks a change of a job.
func (s *Sim) checkJob(before, after *jobRow) {
	if before.status.After(after.status) {
		s.violated("I9", "job %d went from %s back to %s", after.github, before.status, after.status)
	}
	if before.runner != 0 && after.runner != before.runner {
		s.violated("I9", "job %d was run by runner %d and now by %d", after.github, before.runner, after.runner)
	}
	if before.open() && !after.open() {
		if state, ok := s.github.Job(after.github); ok && state.Status != "completed" && !s.load.all[after.github].away {
			s.violated("I1", "job %d is %s at GitHub and was completed here", after.github, state.Status)
		}
	}
}

// checkLaunch checks a new VM.
func (s *Sim) checkLaunch(v *vmRow) {
	s.report.VMs++
	h := s.byHost[v.host]
	if h == nil || h.org.ID != v.org {
		s.violated("I10", "VM %s of org %d is on another's host", v.name, v.org)
		return
	}
	for _, other := range s.mirror.ofJob[v.forJob] {
		if other == v || other.forJob != v.forJob {
			continue
		}
		if other.covers() {
			s.report.Doubled++
			s.violated("I2", "job %d has VM %s and gets %s", s.mirror.number(v.forJob), other.name, v.name)
		}
		// Its machine may still be there, but must not be able to take the job.
		m := s.load.machines[other.runner]
		if r, ok := s.github.Runner(other.runner); ok && !r.Busy && other.ranJob.IsZero() && m != nil && !m.dead && m.online && m.exit == nil && m.busy == 0 {
			s.report.Doubled++
			s.violated("I2", "job %d gets VM %s while the runner of %s is registered and idle", s.mirror.number(v.forJob), v.name, other.name)
		}
	}
	used := millrace.Room{}
	for _, o := range s.mirror.live {
		if o.host == v.host {
			used = used.Plus(o.size.Room())
		}
	}
	if !h.facts.Room().Holds(used) {
		s.violated("I6", "host %s holds %d VMs, %v, of %s", h.name, used.VMs, used, h.facts.Bounds())
	}
	if held := s.slots(h.org); held > s.cfg.Slots {
		s.violated("I6", "%s holds %d slots of %d", h.org.login, held, s.cfg.Slots)
	}
}

// checkMove checks a change of a VM.
func (s *Sim) checkMove(before, after *vmRow) {
	if before.state != after.state && !slices.Contains(before.state.Next(), after.state) {
		s.violated("states", "VM %s went from %s to %s", after.name, before.state, after.state)
	}
	if !before.ranJob.IsZero() && after.ranJob != before.ranJob {
		s.violated("I9", "VM %s ran job %d and now job %d", after.name, s.mirror.number(before.ranJob), s.mirror.number(after.ranJob))
	}
	if before.forJob != after.forJob {
		s.report.Rebound++
		for _, other := range s.mirror.ofJob[after.forJob] {
			if other.id != after.id && other.forJob == after.forJob && other.covers() && after.covers() {
				s.violated("I2", "job %d is covered by %s and by %s", s.mirror.number(after.forJob), other.name, after.name)
			}
		}
		return
	}
	if after.state != millrace.VMGone || before.state == millrace.VMGone {
		return
	}
	if after.ranJob.IsZero() {
		s.report.Wasted++
		if m := s.load.machines[after.runner]; m != nil && m.busy != 0 {
			s.report.Wasted-- // it ran a job of which we have not heard yet
		}
	}
	if j := s.mirror.jobs[after.forJob]; j != nil {
		if r := s.load.all[j.github]; r != nil && r.covered == after.id && !r.cancelled.IsZero() && after.ranJob.IsZero() {
			s.report.Cancels = append(s.report.Cancels, s.now.Sub(r.cancelled))
		}
	}
}

// checkKill checks that a machine that is killed has no job, not even one that it has yet to hear of.
func (s *Sim) checkKill(m *machine, reason string) {
	if r, ok := s.github.Runner(m.runner); ok && r.Busy && !m.crashed {
		s.report.KilledBusy++
		s.violated("I4", "the VM of runner %d is killed while it has a job: %s", m.runner, reason)
	}
}

// checkRoom checks that an agent starts no more than its host offers, whoever orders it.
func (s *Sim) checkRoom(h *host) {
	used := millrace.Room{}
	for _, v := range h.state.VMs {
		if v.State != millrace.VMGone {
			used = used.Plus(v.Order.Size().Room())
		}
	}
	if !h.facts.Room().Holds(used) {
		s.violated("I6", "the agent of %s started %d VMs, %v, of %s", h.name, used.VMs, used, h.facts.Bounds())
	}
}

// orphanWithin is when a registration without a VM must be gone: the sweep comes every five minutes, and a call of it may
// fail.
const orphanWithin = 12 * time.Minute

// checkOrphans looks for what nobody owns.
func (s *Sim) checkOrphans() {
	for _, r := range s.github.RegisteredRunners() {
		if s.now.Sub(r.RegisteredAt) < orphanWithin || r.Busy || s.faults.troubled(r.Owner, false) || strings.HasPrefix(r.Name, "millrace-probe") {
			continue
		}
		v := s.mirror.names[r.Name]
		if v == nil || v.state == millrace.VMGone && s.now.Sub(v.changed) > orphanWithin {
			s.violated("I7", "runner %s of %s is registered since %s and has no VM", r.Name, r.Owner, s.now.Sub(r.RegisteredAt))
		}
	}
	for _, h := range s.hosts {
		if !h.up || s.now.Before(h.cutOff.Add(2*time.Minute)) {
			continue
		}
		for ref := range sortedRefs(h.machines) {
			v := s.mirror.vms[ref.ID]
			if v == nil || (v.state == millrace.VMGone || v.state == millrace.VMStopping) && s.now.Sub(v.changed) > 90*time.Second {
				s.violated("I7", "host %s has a machine of VM %s, which is over", h.name, ref.ID)
			}
		}
	}
	for _, v := range s.github.Violations() {
		// A server that dies with GitHub's answer in its hands has told nobody.
		told := func(died time.Time) bool {
			return died.Before(v.Until.Add(-time.Duration(retryAfter)*time.Second-githubSkew)) || died.After(v.At)
		}
		if v.Reason != "retry-after" || !slices.ContainsFunc(s.deaths, func(died time.Time) bool { return !told(died) }) {
			s.violated("I11", "a call that GitHub had asked not to be made: %+v", v)
		}
	}
}

// checkEnd checks the books when all is over.
func (s *Sim) checkEnd() {
	s.mirror.dirty = true
	s.mirror.read(s)
	s.load.tidy()
	s.checkOrphans()
	var facts, jobs, over int
	err := s.mirror.conn.QueryRow(s.ctx, `
		SELECT (SELECT count(*) FROM job_facts), (SELECT count(DISTINCT job_id) FROM job_facts), (SELECT count(*) FROM jobs WHERE status = 'completed')`).Scan(&facts, &jobs, &over)
	s.must(err)
	if facts != jobs || jobs != over {
		s.violated("I8", "%d jobs are completed, and %d facts tell of %d", over, facts, jobs)
	}
	if len(s.load.open) > 0 {
		s.report.Lost += len(s.load.open)
		s.violated("I1", "%d jobs are open at the end", len(s.load.open))
	}
	if len(s.mirror.incidents) > 0 {
		s.violated("I14", "incidents are open at the end: %v", slices.Sorted(maps.Values(s.mirror.incidents)))
	}
}

// sortedRefs are the keys of what a host has in order.
func sortedRefs[T any](machines map[agent.Ref]T) func(func(agent.Ref) bool) {
	list := slices.SortedFunc(maps.Keys(machines), func(a, b agent.Ref) int {
		return cmp.Or(slices.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Epoch, b.Epoch))
	})
	return func(yield func(agent.Ref) bool) {
		for _, ref := range list {
			if !yield(ref) {
				return
			}
		}
	}
}
