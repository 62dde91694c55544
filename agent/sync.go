package agent

import (
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// speak makes the next call when it is time for it.
func (st *step) speak() {
	cut := st.cutAt()
	switch {
	case st.Call.N != 0 && (cut.IsZero() || st.now.Before(cut)):
		return
	case st.Call.N == 0 && st.now.Before(st.RetryAt):
		return
	case st.silent():
		return
	}
	switch lived := st.now.Sub(st.Call.At); {
	case st.Call.N == 0:
	case lived < heldAfter: // it may have been about to be answered
		st.Patience = min(2*st.patience(), cutAtMost)
	default: // the server held it, for want of something to say
		st.Patience = 0
	}
	st.Calls++
	st.Call = Call{N: st.Calls, At: st.now}
	if !st.Started {
		st.do(SendStart{Call: st.Calls, Facts: st.Facts})
		return
	}
	if !st.Stopping { // a server answers version 0 at once: nothing to wait for any more
		st.Call.Have = st.Version
	}
	st.do(SendSync{Call: st.Calls, Request: client.SyncRequest{Have: st.Call.Have, Refuses: st.Refuses, VMs: st.reports()}})
	st.TellAt, st.Used = time.Time{}, false
}

// reports are the VMs as the host sees them, and notes in which call their ends were told.
func (st *step) reports() []client.VMReport {
	out := make([]client.VMReport, 0, len(st.VMs))
	for _, id := range st.ids() {
		v := st.VMs[id]
		r := client.VMReport{
			ID:       id,
			Epoch:    v.Order.Epoch,
			State:    v.State,
			Steps:    make([]client.StepReport, 0, len(v.Steps)),
			Reason:   v.Reason,
			ExitCode: v.ExitCode,
			Usage:    v.Usage,
			Watched:  v.Watched,
		}
		for _, stamp := range v.Steps {
			r.Steps = append(r.Steps, client.StepReport{State: stamp.State, AgeMS: max(0, st.now.Sub(stamp.At).Milliseconds())})
		}
		if !v.live() {
			v.ReportedIn = st.Call.N
			st.VMs[id] = v
		}
		out = append(out, r)
	}
	return out
}

// synced takes the orders, and forgets the VMs whose end is confirmed: told in this call, and not ordered any more.
func (st *step) synced(answer client.SyncResponse) {
	call := st.Call
	if len(answer.VMs) > maxOrders {
		st.callFailed(CallFailed{Call: call.N, Jitter: 1})
		return
	}
	st.Call, st.Failures, st.RetryAt = Call{}, 0, time.Time{}
	took := st.now.Sub(call.At)
	if st.Patience = min(st.Patience, 2*took); took >= heldAfter {
		st.Patience = 0
	}
	if took < cutAfter {
		st.Hasty++
	} else {
		st.Hasty = 0
	}
	switch {
	case answer.Version == call.Have && took < idleSpacing:
		st.RetryAt = call.At.Add(idleSpacing)
	case st.Hasty > hastyAnswers:
		st.RetryAt = call.At.Add(cutAfter)
	}
	st.Ordered, st.Version, st.Orders, st.Settled = true, answer.Version, answer.VMs, false
	st.Restart, st.Reboot, st.Rotate = answer.Restart, answer.Reboot, answer.Rotate
	ordered := map[Ref]bool{}
	for _, o := range answer.VMs {
		ordered[Ref{ID: o.ID, Epoch: o.Epoch}] = true
	}
	for _, id := range st.ids() {
		if v := st.VMs[id]; !v.live() && v.ReportedIn == call.N && !ordered[v.ref()] {
			delete(st.VMs, id)
			st.Past = append(st.Past[max(0, len(st.Past)+1-maxPast):len(st.Past):len(st.Past)], v.ref())
		}
	}
}

// callFailed waits a little. A server that knows this process's epoch no more is asked for a new one; the VMs stay as
// they are, for what they run doesn't need the control plane.
func (st *step) callFailed(ev CallFailed) {
	st.Call = Call{}
	st.tell(st.now)
	st.RetryAt = st.now.Add(backoff(st.Failures, ev.Jitter))
	st.Failures++
	if ev.Code == millrace.Unauthenticated || ev.Code == millrace.Conflict {
		st.Started = false
	}
	if ev.Code == millrace.Unauthenticated && st.Unsure { // the next process asks once more
		st.Restart = true
	}
	if ev.Code == millrace.HostRemoved { // our own word for it: a proxy that answers 410 ends no job
		st.Removed, st.Orders, st.Settled = true, nil, false
		for _, id := range st.ids() {
			st.change(st.VMs[id].ref(), func(v *VM) { st.kill(v, "The host was removed.") })
		}
	}
}

// backoff is how long to wait after a failure that tries others preceded: doubled each time, half of it by chance.
func backoff(tries int, jitter float64) time.Duration {
	d := min(firstRetry<<min(tries, 10), lastRetry)
	return d/2 + time.Duration(jitter*float64(d/2))
}
