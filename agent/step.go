package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
)

// Step is what the agent does about ev at time now. It is pure: the same arguments give the same results.
func Step(s State, ev Event, now time.Time) (State, []Effect) {
	before := s.VMs
	s.VMs = maps.Clone(s.VMs)
	if s.VMs == nil {
		s.VMs = map[millrace.VMID]VM{}
	}
	st := &step{State: s, now: now}
	st.take(ev)
	st.reconcile()
	st.watch()
	st.speak()
	return st.State, append(st.journal(before), st.effects...)
}

// journal is what to write down before anything else is done: whatever follows, a later process knows of it.
func (st *step) journal(before map[millrace.VMID]VM) (effects []Effect) {
	for _, id := range (State{VMs: before}).ids() {
		if was := before[id].ref(); st.VMs[id].ref() != was {
			effects = append(effects, Forget{Ref: was})
		}
	}
	for _, id := range st.ids() {
		if v := st.VMs[id]; !v.recordedAs(before[id]) {
			v.JIT = "" // an effect with it is the one that needs it
			effects = append(effects, Record{VM: v})
		}
	}
	return effects
}

// step is one call of Step.
type step struct {
	State
	now     time.Time
	effects []Effect
}

func (st *step) do(e Effect) { st.effects = append(st.effects, e) }

// take notes what happened.
func (st *step) take(ev Event) {
	switch ev := ev.(type) {
	case Started:
		if ev.Call == st.Call.N {
			st.Call, st.Started = Call{}, true
		}
	case Synced:
		if ev.Call == st.Call.N {
			st.synced(ev.Response)
		}
	case CallFailed:
		if ev.Call == st.Call.N {
			st.callFailed(ev)
		}
	case JITReady:
		st.change(ev.Ref, func(v *VM) {
			if !v.Configured && !v.Killed {
				v.JIT, v.JITError = ev.JIT, ""
			}
		})
	case JITFailed:
		st.change(ev.Ref, func(v *VM) { st.jitFailed(v, ev) })
	case VMHello:
		st.change(ev.Ref, func(v *VM) { st.hello(v, ev.Configured) })
	case VMReached:
		if ev.State == millrace.VMOnline || ev.State == millrace.VMBusy {
			st.change(ev.Ref, func(v *VM) { st.reach(v, ev.State) })
		}
	case VMUsage:
		st.change(ev.Ref, func(v *VM) {
			if u := v.Usage.Max(ev.Usage); u != v.Usage {
				v.Usage, st.Used = u, true
			}
		})
	case VMPrinted:
		st.change(ev.Ref, func(v *VM) { v.Console = max(v.Console, ev.Console) })
	case VMExit:
		st.change(ev.Ref, func(v *VM) {
			st.do(DismissVM{Ref: ev.Ref})
			if v.ExitedAt.IsZero() {
				v.ExitedAt, v.ExitCode = st.now, ev.Code
				v.because(ev.Reason)
			}
		})
	case VMDone:
		st.change(ev.Ref, func(v *VM) { st.end(v, ev.Reason) })
	case Refusal:
		if ev.Why != st.Refuses {
			st.Refuses = ev.Why
			st.tell(st.now)
		}
	case Stop:
		st.Stopping, st.Patience = true, 0 // what is said now is answered at once, and there is little time
		for _, id := range st.ids() {
			st.change(st.VMs[id].ref(), func(v *VM) { st.kill(v, "The agent was stopped.") })
		}
	case Timer:
	}
}

// change lets f change the VM that ref names, if it lives and its epoch is ref's, and configures it once it can be.
func (st *step) change(ref Ref, f func(*VM)) {
	v, ok := st.VMs[ref.ID]
	if !ok || v.Order.Epoch != ref.Epoch || !v.live() {
		return
	}
	f(&v)
	if v.Hello && v.JIT != "" {
		st.do(ConfigureVM{Ref: ref, Hostname: millrace.RunnerName(ref.ID, ref.Epoch), JIT: v.JIT})
		v.Configured, v.JIT = true, ""
	}
	st.VMs[ref.ID] = v
}

// because gives v a reason; the first one stays, as the others follow from it.
func (v *VM) because(reason string) {
	if v.Reason == "" {
		v.Reason = cut(reason, maxReason)
	}
}

// cut is the beginning of what somebody else said, of at most n bytes.
func cut(text string, n int) string { return strings.ToValidUTF8(text[:min(len(text), n)], "") }

// reach moves v forward to state.
func (st *step) reach(v *VM, state millrace.VMState) {
	if !v.comesTo(state) {
		return
	}
	v.State = state
	v.Steps = append(slices.Clip(v.Steps), Stamp{State: state, At: st.now})
	if state == millrace.VMGone { // its room, and maybe its job, wait for it
		st.tell(st.now)
		st.Settled = false
	} else {
		st.tell(st.now.Add(tellsWithin))
	}
}

// tell notes that there is something to tell, at the latest by then.
func (st *step) tell(by time.Time) {
	if st.TellAt.IsZero() || by.Before(st.TellAt) {
		st.TellAt = by
	}
}

func (st *step) kill(v *VM, reason string) {
	if v.Killed {
		return
	}
	v.Killed, v.JIT, v.JITAt = true, "", time.Time{}
	v.because(reason)
	st.do(KillVM{Ref: v.ref(), Reason: reason})
}

func (st *step) end(v *VM, reason string) {
	v.because(reason)
	if v.State == millrace.VMBooting {
		v.because("The VM ended before its runner came online.")
	}
	v.JIT, v.JITAt = "", time.Time{}
	st.reach(v, millrace.VMGone)
}

// hello notes that v's kernel runs. A VM that an earlier process started may have no registration yet: only it knows.
func (st *step) hello(v *VM, configured bool) {
	v.Hello = true
	switch {
	case configured:
		v.Configured, v.JIT = true, ""
	case !v.JITAsked && !v.Killed:
		v.JITAsked = true
		st.do(FetchJIT{Ref: v.ref()})
	}
}

// jitFailed asks again later, unless the answer is final: the VM isn't wanted any more, or can't be had.
func (st *step) jitFailed(v *VM, ev JITFailed) {
	if v.Killed || v.Configured {
		return
	}
	v.JITError = ev.Message
	switch ev.Code {
	case millrace.Conflict, millrace.Gone, millrace.NotFound, millrace.Forbidden, millrace.Unprocessable:
		st.kill(v, "There is no runner registration for the VM. "+ev.Message)
	default:
		v.JITAt = st.now.Add(backoff(v.JITTries, ev.Jitter))
		v.JITTries++
	}
}

// begin follows an order that is new to the host, or refuses it: the VM is gone at once, with the reason.
func (st *step) begin(o client.VMOrder) {
	v := VM{Order: o, State: millrace.VMPending, JITAsked: true}
	if refusal := st.refuse(o); refusal != "" {
		st.end(&v, refusal)
		st.VMs[o.ID] = v
		return
	}
	st.reach(&v, millrace.VMBooting)
	st.VMs[o.ID] = v
	st.do(StartVM{Ref: v.ref(), Spec: vm.Spec{
		ID:        v.ref().machine(),
		Arch:      o.Arch,
		VCPUs:     millrace.Size{MilliCPU: o.MilliCPU}.VCPUs(),
		MilliCPU:  o.MilliCPU,
		Burstable: o.Burstable,
		MemoryMB:  o.MemoryMB,
		Egress:    o.Egress,
	}})
	st.do(FetchJIT{Ref: v.ref()})
}

// refuse says why this host won't have the VM; "" when it will. The offer is the host's own: it bounds every order.
func (st *step) refuse(o client.VMOrder) string {
	left := st.Facts.Room()
	for _, v := range st.VMs {
		if v.live() {
			left = left.Minus(v.Order.Size().Room())
		}
	}
	switch {
	case o.State != millrace.VMPending && o.State != "":
		return "The host's agent does not know the VM any more."
	case slices.ContainsFunc(st.Past, func(past Ref) bool { return past.ID == o.ID && past.Epoch >= o.Epoch }):
		return "The VM ended on this host before."
	case st.Refuses != "":
		return "The host takes no VM now: " + st.Refuses + "."
	case o.Epoch < 1 || o.MilliCPU < 1 || o.MemoryMB < millrace.MinMemoryMB:
		return "The host refused an order that makes no sense."
	case !st.Facts.Runs(o.Arch):
		return fmt.Sprintf("The host is %s and cannot run %.40q.", st.Facts.Arch, o.Arch)
	case o.Egress != "" && !slices.Contains(millrace.Egresses, o.Egress):
		return fmt.Sprintf("The host doesn't know what a VM may reach whose egress is %.40q.", o.Egress)
	case !left.Holds(o.Size().Room()):
		return fmt.Sprintf("The host refused %s: of its offer (%s) that is more than is left.", o.Size(), st.Facts.Bounds())
	default:
		return ""
	}
}

// reconcile brings the VMs to what the last answer ordered.
func (st *step) reconcile() {
	if !st.Ordered || st.Settled {
		return
	}
	wanted := map[millrace.VMID]client.VMOrder{}
	for _, o := range st.Orders {
		if had, twice := wanted[o.ID]; !o.ID.IsZero() && (!twice || had.Epoch < o.Epoch) {
			wanted[o.ID] = o
		}
	}
	for _, id := range st.ids() {
		v := st.VMs[id]
		o, ok := wanted[id]
		switch newer := ok && o.Epoch > v.Order.Epoch; {
		case !v.live() && newer:
			delete(st.VMs, id) // nobody asks for the old epoch's end any more
		case v.live() && (newer || !ok):
			st.change(v.ref(), func(v *VM) { st.kill(v, "The control plane withdrew the VM.") })
		}
	}
	for _, o := range st.Orders {
		if wanted[o.ID] != o || o.ID.IsZero() {
			continue
		}
		if _, have := st.VMs[o.ID]; !have && !st.Stopping {
			st.begin(o)
		}
		st.change(Ref{ID: o.ID, Epoch: o.Epoch}, func(v *VM) {
			if v.Watched != o.Watched { // which is said in the next call, or the server says it again
				v.Watched = o.Watched
				st.do(WatchVM{Ref: v.ref(), Watched: v.Watched})
			}
		})
	}
	st.Settled = true
}

// watch does what has become due for each VM.
func (st *step) watch() {
	for _, id := range st.due(st.now) {
		st.change(st.VMs[id].ref(), func(v *VM) {
			if at, reason := v.deadline(); passed(at, st.now) {
				st.kill(v, reason)
			}
			if passed(v.JITAt, st.now) {
				v.JITAt = time.Time{}
				st.do(FetchJIT{Ref: v.ref()})
			}
		})
	}
}
