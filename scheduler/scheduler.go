// Package scheduler decides which host runs which job, and why a job waits. It is pure: everything it looks at is its
// argument, and the same argument gives the same answer.
//
// [Decide] is one pass: [Cover] matches the VMs that exist to the jobs that are queued, [Place] launches VMs for the rest.
package scheduler

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// Decide makes one placement decision.
func Decide(p millrace.Pass) millrace.Decision {
	d, uncovered := Cover(p)
	fleet := Fleet{Hosts: p.Hosts, VMs: p.VMs}
	slots := p.Org.Concurrency - held(p)
	budgets := make(map[int64]Budget, len(p.Installations))
	for _, i := range p.Installations {
		budgets[i.ID] = Budget{JIT: i.JITLeft, Owner: i.OwnerLogin, Suspended: !i.SuspendedAt.IsZero()}
	}
	placed := Place(uncovered, fleet, Policy{Slots: slots, Concurrency: p.Org.Concurrency, Budgets: budgets}, p.Now)
	d.Place, d.NextAt = placed.Placements, placed.NextAt
	d.Wait = placed.Wait
	return d
}

// held is how many slots the org's VMs hold. A VM that is unregistered and whose host is away holds none: it can run no
// job any more, and its host may never come back to say that it is gone.
func held(p millrace.Pass) (n int) {
	away := make(map[millrace.HostID]bool, len(p.Hosts))
	for _, h := range p.Hosts {
		away[h.ID] = p.Now.Sub(h.SeenAt) >= millrace.OfflineAfter
	}
	for _, v := range p.VMs {
		if v.State != millrace.VMStopping || !away[v.HostID] {
			n++
		}
	}
	return n
}

// Fleet is the org's hosts and what is on them: every VM that isn't gone.
type Fleet struct {
	Hosts []millrace.Host
	VMs   []millrace.VM
}

// Policy is what limits placement beside the hosts' capacity.
type Policy struct {
	Slots       int // VMs that may be launched now
	Concurrency int // slots in all, for the reason's text
	Budgets     map[int64]Budget
}

// Budget is what one installation may do.
type Budget struct {
	JIT       float64 // JIT configs that may be made now
	Owner     string
	Suspended bool
}

// Result is what [Place] decided.
type Result struct {
	Placements []millrace.Placement
	Wait       map[millrace.JobID]millrace.WaitReason // for each job that was not placed
	NextAt     time.Time                              // when the same facts give another result; zero: never
}
