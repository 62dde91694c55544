// Package scheduler decides which host runs which job, and why a job waits. It is pure: everything it looks at is its
// argument, and the same argument gives the same answer.
//
// [Decide] is one pass: [Cover] matches the VMs that exist to the jobs that are queued, [Place] launches VMs for the rest.
// A job that gets none has the reason with its numbers, what a person can do, and, where it can be known, when it is
// likely to start: the jobs that wait for the same stand in a line, and past runs say when the VMs before them end.
package scheduler

import (
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
)

// Decide makes one placement decision.
func Decide(p millrace.Pass) millrace.Decision {
	stops := stopped(p)
	d, uncovered := cover(p, stops)
	budgets := make(map[int64]Budget, len(p.Installations))
	for _, i := range p.Installations {
		budgets[i.ID] = Budget{JIT: i.JITLeft, Owner: i.OwnerLogin}
	}
	slots := p.Org.Concurrency - held(p)
	placed := place(uncovered, decided(p, d), Policy{Slots: slots, Concurrency: p.Org.Concurrency, Budgets: budgets}, stops)
	d.Place, d.NextAt, d.Wait, d.Trace = placed.Placements, placed.NextAt, placed.Wait, placed.Trace
	return d
}

// decided is p with the VMs as d leaves them.
func decided(p millrace.Pass, d millrace.Decision) millrace.Pass {
	if len(d.Cover)+len(d.Retire) == 0 {
		return p
	}
	at := make(map[millrace.VMID]int, len(p.VMs))
	for i := range p.VMs {
		at[p.VMs[i].ID] = i
	}
	p.VMs = slices.Clone(p.VMs)
	for _, c := range d.Cover {
		p.VMs[at[c.VMID]].ForJob = c.JobID
	}
	for _, r := range d.Retire {
		p.VMs[at[r.VMID]].RetireReason = r.Reason
	}
	return p
}

// held is how many slots the org's VMs hold. A VM that is unregistered and whose host is away holds none: it can run no
// job any more, and its host may never come back to say that it is gone.
func held(p millrace.Pass) (n int) {
	away := away(p)
	for i := range p.VMs {
		if v := &p.VMs[i]; v.State != millrace.VMStopping || !away[v.HostID] {
			n++
		}
	}
	return n
}

// away are the hosts that went silent.
func away(p millrace.Pass) map[millrace.HostID]bool {
	away := make(map[millrace.HostID]bool, len(p.Hosts))
	for i := range p.Hosts {
		away[p.Hosts[i].ID] = p.Now.Sub(p.Hosts[i].SeenAt) >= millrace.OfflineAfter
	}
	return away
}

// Policy is what limits placement beside the hosts' capacity.
type Policy struct {
	Slots       int // VMs that may be launched now
	Concurrency int // slots in all, for the reason's text
	Budgets     map[int64]Budget
}

// Budget is what one installation may do.
type Budget struct {
	JIT   float64 // JIT configs that may be made now
	Owner string
}

// Result is what [Place] decided.
type Result struct {
	Placements []millrace.Placement
	Wait       map[millrace.JobID]millrace.WaitReason // for each job that was not placed
	NextAt     time.Time                              // when the same facts give another result; zero: never
	Trace      []millrace.JobID                       // those of which GitHub is to be asked whether they come from a fork, in the order of waiting
}
