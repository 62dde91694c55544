package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func vmID(n byte) millrace.VMID { return millrace.VMID{15: n} }

func order(n byte) client.VMOrder {
	return client.VMOrder{ID: vmID(n), Epoch: 1, Arch: millrace.AMD64, MilliCPU: 1000, MemoryMB: 512, State: millrace.VMPending}
}

// driver drives Step by hand and keeps what it wanted done.
type driver struct {
	t       *testing.T
	state   State
	now     time.Time
	effects []Effect
}

// newDriver is an agent that has its epoch and its first, empty answer; a sync is in flight.
func newDriver(t *testing.T) *driver {
	t.Helper()
	d := &driver{t: t, now: noon, state: State{Facts: millrace.HostFacts{
		Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 2000, MemoryMB: 1024},
	}}}
	d.step(Timer{})
	d.step(Started{Call: 1})
	return d
}

func (d *driver) step(ev Event) []Effect {
	d.state, d.effects = Step(d.state, ev, d.now)
	return d.effects
}

// after lets time pass and says so.
func (d *driver) after(wait time.Duration) []Effect {
	d.now = d.now.Add(wait)
	return d.step(Timer{})
}

// answer answers the sync in flight.
func (d *driver) answer(version int64, orders ...client.VMOrder) []Effect {
	return d.step(Synced{Call: d.state.Call.N, Response: client.SyncResponse{Version: version, VMs: orders}})
}

// find is the one effect of type E in effects, or nil.
func find[E Effect](effects []Effect) *E {
	for _, e := range effects {
		if e, ok := e.(E); ok {
			return &e
		}
	}
	return nil
}

// report is what the last sync said of VM n.
func (d *driver) report(n byte) *client.VMReport {
	d.t.Helper()
	sync := find[SendSync](d.effects)
	if sync == nil {
		d.t.Fatalf("no sync was sent, but %#v", d.effects)
	}
	for _, r := range sync.Request.VMs {
		if r.ID == vmID(n) {
			return &r
		}
	}
	return nil
}

func (d *driver) state1() millrace.VMState { return d.state.VMs[vmID(1)].State }

func TestAJob(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	ref := Ref{ID: vmID(1), Epoch: 1}
	d.now = d.now.Add(3 * time.Second)

	effects := d.answer(1, order(1))
	start := find[StartVM](effects)
	if start == nil || start.Spec.VCPUs != 1 || start.Spec.MemoryMB != 512 || find[FetchJIT](effects) == nil {
		t.Fatalf("an order gave %#v", effects)
	}
	if r := d.report(1); r.State != millrace.VMBooting {
		t.Errorf("reported %+v", find[SendSync](effects).Request)
	}
	d.step(JITReady{Ref: ref, JIT: "config"})
	effects = d.step(VMHello{Ref: ref})
	if c := find[ConfigureVM](effects); c == nil || c.JIT != "config" || c.Hostname != millrace.RunnerName(ref.ID, 1) {
		t.Fatalf("hello gave %#v", effects)
	}
	d.now = d.now.Add(time.Second)
	if effects := d.step(VMReached{Ref: ref, State: millrace.VMOnline}); find[SendSync](effects) != nil {
		t.Fatalf("online was told at once: %#v", effects)
	}
	if wake := d.state.Wake(); !wake.Equal(d.now.Add(tellsWithin)) {
		t.Errorf("online is told after %v", wake.Sub(d.now))
	}
	if d.after(tellsWithin); d.report(1).State != millrace.VMOnline {
		t.Errorf("reported %+v", d.report(1))
	}
	d.answer(1, order(1))
	d.step(VMReached{Ref: ref, State: millrace.VMBusy})
	d.step(VMUsage{Ref: ref, Usage: millrace.Metering{CPUMillis: 70}})
	zero := 0
	d.step(VMExit{Ref: ref, Code: &zero})
	d.now = d.now.Add(time.Second)
	d.step(VMDone{Ref: ref})
	want := &client.VMReport{
		ID: ref.ID, Epoch: 1, State: millrace.VMGone, ExitCode: &zero, Usage: millrace.Metering{CPUMillis: 70},
		Steps: []client.StepReport{
			{State: millrace.VMBooting, AgeMS: 3000},
			{State: millrace.VMOnline, AgeMS: 2000},
			{State: millrace.VMBusy, AgeMS: 1000},
			{State: millrace.VMGone},
		},
	}
	if diff := cmp.Diff(want, d.report(1)); diff != "" {
		t.Error(diff)
	}
	d.answer(2)
	if len(d.state.VMs) != 0 || d.report(1) != nil {
		t.Errorf("a confirmed end is still known: %+v", d.state.VMs)
	}
}

func TestAnEndIsToldUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	d.answer(1, order(1))
	d.step(VMDone{Ref: Ref{vmID(1), 1}, Reason: "no such image"})
	d.after(cutAfter)
	if r := d.report(1); r.State != millrace.VMGone || r.Reason != "no such image" {
		t.Fatalf("reported %+v", r)
	}
	d.step(CallFailed{Call: d.state.Call.N, Jitter: 1})
	d.after(firstRetry)
	if d.report(1) == nil {
		t.Fatal("a lost call was taken for a confirmation")
	}
	d.now = d.now.Add(2 * time.Second)
	d.answer(2, order(1)) // the server still wants it: it has not understood
	if d.report(1) == nil {
		t.Fatal("it was forgotten while it is ordered")
	}
	d.answer(3)
	if len(d.state.VMs) != 0 {
		t.Error("it was never forgotten")
	}
}

// A host that always has news leaves a slow server the time to answer: calls that are cut are no answers, and cost it as much. One that
// answers at once is told at once again.
func TestASlowServerIsLeftTimeToAnswer(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	news := func() {
		d.state.VMs[vmID(1)] = VM{Order: order(1), State: millrace.VMBusy}
		d.step(VMDone{Ref: Ref{vmID(1), 1}})
	}
	// left is how long the call in flight is left when there is news all the time.
	left := func() time.Duration {
		for call, began := d.state.Call.N, d.now; ; d.now = d.now.Add(10 * time.Millisecond) {
			if news(); d.state.Call.N != call {
				return d.now.Sub(began)
			}
		}
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 40, 40} {
		if got := left(); got != want*cutAfter {
			t.Fatalf("a call was left %v, want %v", got, want*cutAfter)
		}
	}
	for n, c := range []struct{ answered, want time.Duration }{
		{300 * time.Millisecond, 600 * time.Millisecond},
		{time.Second, 1200 * time.Millisecond},
		{time.Millisecond, cutAfter},
		{300 * time.Millisecond, 2 * cutAfter},
		{heldAfter, cutAfter}, // it was held
	} {
		d.now = d.now.Add(c.answered)
		d.answer(int64(n + 1))
		if got := left(); got != c.want {
			t.Errorf("after an answer within %v a call was left %v, want %v", c.answered, got, c.want)
		}
	}
	d.now = d.now.Add(heldAfter)
	news() // tells it at once, for the call was held that long
	if got := left(); got != cutAfter {
		t.Errorf("after a call that was held a call was left %v", got)
	}
	left()
	d.step(Stop{})
	if got := left(); got != cutAfter {
		t.Errorf("when it stops a call was left %v", got)
	}
}

// A VM is ordered and vanishes at every point of its life: it is killed, once, and ends as gone.
func TestAnOrderVanishes(t *testing.T) {
	t.Parallel()
	ref := Ref{ID: vmID(1), Epoch: 1}
	life := []Event{
		Timer{},
		JITReady{Ref: ref, JIT: "config"},
		VMHello{Ref: ref},
		VMReached{Ref: ref, State: millrace.VMOnline},
		VMReached{Ref: ref, State: millrace.VMBusy},
		VMExit{Ref: ref},
	}
	for n := range life {
		d := newDriver(t)
		d.answer(1, order(1))
		for _, ev := range life[:n+1] {
			d.step(ev)
		}
		if k := find[KillVM](d.answer(2)); k == nil || k.Ref != ref {
			t.Fatalf("after %T: not killed but %#v", life[n], d.effects)
		}
		for _, late := range life {
			for _, e := range d.step(late) {
				switch e.(type) {
				case SendSync, Record, DismissVM:
				default:
					t.Errorf("after %T and the kill, %T gave %#v", life[n], late, e)
				}
			}
		}
		if d.answer(2); find[SendSync](d.effects) == nil {
			d.after(idleSpacing)
		}
		if r := d.report(1); r == nil || r.State == millrace.VMGone {
			t.Errorf("after %T: reported %+v before the machine was gone", life[n], r)
		}
		d.step(VMDone{Ref: ref})
		d.after(cutAfter)
		if r := d.report(1); r.State != millrace.VMGone || !strings.Contains(r.Reason, "withdrew") {
			t.Errorf("after %T: reported %+v", life[n], r)
		}
	}
}

func TestAnUnreachableControlPlaneKillsNothing(t *testing.T) {
	t.Parallel()
	for _, code := range []millrace.Code{"", millrace.Internal, millrace.Unauthenticated, millrace.Conflict, millrace.Gone, millrace.NotFound} {
		d := newDriver(t)
		ref := Ref{ID: vmID(1), Epoch: 1}
		d.answer(1, order(1))
		d.step(VMHello{Ref: ref})
		d.step(VMReached{Ref: ref, State: millrace.VMBusy})
		calls := 0
		for end := d.now.Add(24 * time.Hour); d.now.Before(end); {
			d.step(CallFailed{Call: d.state.Call.N, Code: code, Jitter: 0.5})
			d.now = d.state.Wake()
			for _, e := range d.step(Timer{}) {
				switch e.(type) {
				case SendSync, SendStart:
					calls++
				default:
					t.Fatalf("%q: %#v", code, e)
				}
			}
		}
		if perHour := calls / 24; perHour < 300 || perHour > 900 {
			t.Errorf("%q: %d calls an hour", code, perHour)
		}
		if d.state1() != millrace.VMBusy {
			t.Errorf("%q: the VM is %s", code, d.state1())
		}
	}
}

func TestAForgottenEpochIsRenewed(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	d.answer(1, order(1))
	d.step(CallFailed{Call: d.state.Call.N, Code: millrace.Conflict, Jitter: 1})
	start := find[SendStart](d.after(firstRetry))
	if start == nil {
		t.Fatalf("got %#v", d.effects)
	}
	d.step(Started{Call: start.Call})
	if r := d.report(1); r == nil || r.State != millrace.VMBooting {
		t.Errorf("reported %+v", r)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	with := func(change func(*client.VMOrder)) client.VMOrder {
		o := order(1)
		change(&o)
		return o
	}
	for name, o := range map[string]client.VMOrder{
		"too many vCPUs":    with(func(o *client.VMOrder) { o.MilliCPU = 2001 }),
		"absurdly many":     with(func(o *client.VMOrder) { o.MilliCPU = 1 << 62 }),
		"too much memory":   with(func(o *client.VMOrder) { o.MemoryMB = 1025 }),
		"absurdly much":     with(func(o *client.VMOrder) { o.MemoryMB = 1<<63 - 1 }),
		"no vCPU":           with(func(o *client.VMOrder) { o.MilliCPU = 0 }),
		"negative memory":   with(func(o *client.VMOrder) { o.MemoryMB = -1 }),
		"no epoch":          with(func(o *client.VMOrder) { o.Epoch = 0 }),
		"another arch":      with(func(o *client.VMOrder) { o.Arch = millrace.ARM64 }),
		"any arch":          with(func(o *client.VMOrder) { o.Arch = millrace.ArchAny }),
		"begun by another":  with(func(o *client.VMOrder) { o.State = millrace.VMBusy }),
		"lost by a restart": with(func(o *client.VMOrder) { o.State = millrace.VMLost }),
	} {
		d := newDriver(t)
		effects := d.answer(1, o)
		if len(effects) != 2 || find[Record](effects) == nil {
			t.Errorf("%s: %#v", name, effects)
			continue
		}
		if r := d.report(1); r.State != millrace.VMGone || r.Reason == "" {
			t.Errorf("%s: reported %+v", name, r)
		}
	}

	emulating := newDriver(t)
	emulating.state.Facts.Emulates = []millrace.Arch{millrace.ARM64}
	if start := find[StartVM](emulating.answer(1, with(func(o *client.VMOrder) { o.Arch = millrace.ARM64 }))); start == nil || start.Spec.Arch != millrace.ARM64 {
		t.Errorf("a host that emulates arm64 began %+v", start)
	}

	d := newDriver(t)
	d.answer(1, order(1), order(2), order(3), order(3), client.VMOrder{Epoch: 1})
	if d.state.Live() != 2 || len(d.state.VMs) != 3 {
		t.Errorf("of three orders that exceed the offer these live: %+v", d.state.VMs)
	}
	if r := d.report(3); r.State != millrace.VMGone || !strings.Contains(r.Reason, "offer") {
		t.Errorf("reported %+v", r)
	}

	one := newDriver(t)
	one.state.Facts.MaxVMs = 1
	one.answer(1, order(1), order(2))
	if r := one.report(2); one.state.Live() != 1 || r.State != millrace.VMGone || !strings.Contains(r.Reason, "1 VM)") {
		t.Errorf("of two orders for a host of one VM these live: %+v", one.state.VMs)
	}
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	second := order(1)
	second.Epoch = 2
	d.answer(1, second)
	old := Ref{ID: vmID(1), Epoch: 1}
	before := d.state
	for _, ev := range []Event{
		VMHello{Ref: old},
		VMReached{old, millrace.VMBusy},
		VMUsage{old, millrace.Metering{CPUMillis: 1}},
		VMExit{Ref: old},
		VMDone{Ref: old},
		JITReady{old, "config"},
		JITFailed{Ref: old, Code: millrace.Gone},
	} {
		if effects := d.step(ev); len(effects) != 0 {
			t.Errorf("%T of an older epoch gave %#v", ev, effects)
		}
	}
	if diff := cmp.Diff(before, d.state); diff != "" {
		t.Error(diff)
	}
	if effects := d.answer(2, order(1)); find[StartVM](effects) != nil || find[KillVM](effects) != nil {
		t.Errorf("an order of an older epoch gave %#v", effects)
	}

	third := order(1)
	third.Epoch = 3
	if k := find[KillVM](d.answer(3, third)); k == nil || k.Epoch != 2 {
		t.Fatalf("a newer epoch gave %#v", d.effects)
	}
	if s := find[StartVM](d.step(VMDone{Ref: Ref{vmID(1), 2}})); s == nil || s.Epoch != 3 {
		t.Errorf("the old machine's end gave %#v", d.effects)
	}
}

func TestWatchdogs(t *testing.T) {
	t.Parallel()
	ref := Ref{ID: vmID(1), Epoch: 1}
	zero := 0
	for _, tt := range []struct {
		name   string
		events []Event
		within time.Duration
		reason string
	}{
		{"no kernel", []Event{JITReady{ref, "config"}}, helloWithin, "kernel did not come up"},
		{"no registration", []Event{VMHello{Ref: ref}, JITFailed{Ref: ref, Code: millrace.Unavailable, Message: "GitHub is down."}}, onlineWithin, "GitHub is down."},
		{"no runner", []Event{VMHello{Ref: ref}, JITReady{ref, "config"}}, onlineWithin, "did not come online"},
		{"no power off", []Event{VMHello{Ref: ref}, VMReached{ref, millrace.VMBusy}, VMExit{Ref: ref, Code: &zero}}, offWithin, "did not power off"},
	} {
		d := newDriver(t)
		d.answer(1, order(1))
		for _, ev := range tt.events {
			d.step(ev)
		}
		end := d.now.Add(tt.within)
		for d.now.Before(end) {
			if k := find[KillVM](d.effects); k != nil {
				t.Fatalf("%s: killed %v early: %s", tt.name, end.Sub(d.now), k.Reason)
			}
			if wake := d.state.Wake(); wake.Before(end) {
				d.now = wake
			} else {
				d.now = end
			}
			d.step(Timer{})
			if f := find[FetchJIT](d.effects); f != nil {
				d.step(JITFailed{Ref: ref, Code: millrace.Unavailable, Message: "GitHub is down.", Jitter: 0.5})
			}
		}
		if k := find[KillVM](d.effects); k == nil || !strings.Contains(k.Reason, tt.reason) {
			t.Errorf("%s: after %v: %#v", tt.name, tt.within, d.effects)
		}
	}

	d := newDriver(t)
	d.answer(1, order(1))
	d.step(VMHello{Ref: ref})
	d.step(JITReady{ref, "config"})
	d.step(VMReached{ref, millrace.VMOnline})
	d.answer(1, order(1))
	if d.after(24 * time.Hour); find[KillVM](d.effects) != nil {
		t.Errorf("an idle runner was killed: %#v", d.effects)
	}
}

func TestAVMNoLongerWantedGetsNoRegistration(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	d.answer(1, order(1))
	if k := find[KillVM](d.step(JITFailed{Ref: Ref{vmID(1), 1}, Code: millrace.Gone, Message: "The job is over."})); k == nil {
		t.Errorf("got %#v", d.effects)
	}
}

func TestUsageAloneWaits(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	ref := Ref{ID: vmID(1), Epoch: 1}
	d.answer(1, order(1))
	d.step(VMHello{Ref: ref})
	d.after(cutAfter)
	for s := range 4 {
		d.now = d.now.Add(time.Second)
		if effects := d.step(VMUsage{ref, millrace.Metering{CPUMillis: int64(s + 1)}}); len(effects) != 0 {
			t.Fatalf("usage gave %#v", effects)
		}
	}
	d.now = d.state.Wake()
	d.step(Timer{})
	if r := d.report(1); r == nil || r.Usage.CPUMillis != 4 {
		t.Errorf("reported %+v", r)
	}
}

func TestAServerWithNothingToSayIsNotAskedAgainAtOnce(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	calls := 0
	for end := d.now.Add(time.Minute); d.now.Before(end); {
		if d.state.Call.N != 0 {
			calls++
			d.answer(0)
			continue
		}
		d.now = d.state.Wake()
		d.step(Timer{})
	}
	if calls > 61 {
		t.Errorf("%d calls in a minute", calls)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	d.answer(1, order(1), order(2))
	d.step(VMDone{Ref: Ref{vmID(2), 1}})
	if k := find[KillVM](d.step(Stop{})); k == nil || k.ID != vmID(1) || d.state.Stopped() {
		t.Fatalf("stop gave %#v", d.effects)
	}
	d.step(VMUsage{Ref{vmID(1), 1}, millrace.Metering{CPUMillis: 1}})
	d.after(usageEvery)
	d.answer(2)
	if wake := d.state.Wake(); !wake.IsZero() {
		t.Errorf("it wants to wake at %v, with nothing to say", wake)
	}
	d.step(VMDone{Ref: Ref{vmID(1), 1}})
	if r := d.report(1); r.Reason != "The agent was stopped." || find[SendSync](d.effects).Request.Have != 0 {
		t.Errorf("reported %+v", r)
	}
	if effects := d.answer(2, order(3)); len(effects) != 1 || find[Forget](effects) == nil || !d.state.Stopped() {
		t.Errorf("the last answer gave %#v; stopped: %v", effects, d.state.Stopped())
	}

	idle := newDriver(t)
	if idle.step(Stop{}); !idle.state.Stopped() {
		t.Error("an idle agent didn't stop at once")
	}
}

func TestAnEndBeforeOnlineHasAReason(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	ref := Ref{vmID(1), 1}
	one := 1
	d.answer(1, order(1))
	d.step(VMHello{Ref: ref})
	d.step(VMExit{Ref: ref, Code: &one})
	d.step(VMDone{Ref: ref})
	d.after(cutAfter)
	if r := d.report(1); r.Reason == "" || r.ExitCode == nil {
		t.Errorf("reported %+v", r)
	}
}

// Whether somebody watches a VM is told to it once, and is said back, so that the server needn't say it again.
func TestWatched(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	watched := func(watched bool) client.VMOrder { o := order(1); o.Watched = watched; return o }
	for i, step := range []struct {
		order client.VMOrder
		want  *WatchVM
	}{
		{watched(true), &WatchVM{Ref{vmID(1), 1}, true}},
		{watched(true), nil},
		{watched(false), &WatchVM{Ref{vmID(1), 1}, false}},
		{watched(true), &WatchVM{Ref{vmID(1), 1}, true}},
		{watched(false), &WatchVM{Ref{vmID(1), 1}, false}},
		{watched(false), nil},
	} {
		d.after(10 * time.Second)
		d.answer(int64(i+1), step.order)
		if diff := cmp.Diff(step.want, find[WatchVM](d.effects)); diff != "" {
			t.Errorf("%d: %s", i, diff)
		}
		if r := d.report(1); r.Watched != step.order.Watched {
			t.Errorf("%d: it reports that it is watched: %v", i, r.Watched)
		}
	}
	d.step(VMDone{Ref: Ref{vmID(1), 1}})
	if d.answer(9, watched(true)); find[WatchVM](d.effects) != nil {
		t.Error("a VM that is gone is watched")
	}
}

// What the control plane may ask of an agent beside VMs: to start anew, which leaves VMs alone; to reboot, which waits for them
// and for the host's owner; and to end, because the host is none any more.
func TestRotationEndsTheAgent(t *testing.T) {
	t.Parallel()
	for _, unsure := range []bool{false, true} { // whether the present keys hold
		d := newDriver(t)
		d.state.Unsure = unsure
		d.step(CallFailed{Call: d.state.Call.N, Code: millrace.Unauthenticated})
		if (d.state.Ended() == EndRestart) != unsure {
			t.Errorf("unsure %v: %q", unsure, d.state.Ended())
		}
	}
	d := newDriver(t)
	d.answer(1, order(1))
	d.step(Synced{Call: d.state.Call.N, Response: client.SyncResponse{Version: 2, VMs: []client.VMOrder{order(1)}, Rotate: true}})
	if d.state.Ended() != EndRotate || d.state.Live() != 1 {
		t.Errorf("%q with %d VMs", d.state.Ended(), d.state.Live())
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	asked := func(d *driver, restart, reboot bool, orders ...client.VMOrder) End {
		d.after(time.Minute)
		d.step(Synced{Call: d.state.Call.N, Response: client.SyncResponse{Version: 7, VMs: orders, Restart: restart, Reboot: reboot}})
		return d.state.Ended()
	}
	d := newDriver(t)
	d.answer(1, order(1))
	if end := asked(d, true, false, order(1)); end != EndRestart || find[KillVM](d.effects) != nil || d.state.Live() != 1 {
		t.Errorf("a restart: %q, %#v", end, d.effects)
	}

	d = newDriver(t)
	if end := asked(d, false, true); end != "" {
		t.Errorf("a reboot that the owner doesn't allow: %q", end)
	}
	d = newDriver(t)
	d.state.Reboots = true
	d.answer(1, order(1))
	if end := asked(d, false, true, order(1)); end != "" || find[KillVM](d.effects) != nil {
		t.Errorf("a reboot with a VM: %q, %#v", end, d.effects)
	}
	d.step(VMDone{Ref: Ref{vmID(1), 1}})
	if end := d.state.Ended(); end != "" { // its end isn't told yet
		t.Errorf("a reboot with something to say: %q", end)
	}
	d.after(cutAfter)
	if end := asked(d, false, true); end != EndReboot {
		t.Errorf("a reboot: %q", end)
	}

	d = newDriver(t)
	d.answer(1, order(1))
	d.step(CallFailed{Call: d.state.Call.N, Code: millrace.HostRemoved})
	if k := find[KillVM](d.effects); k == nil || d.state.Ended() != "" || find[SendSync](d.effects) != nil || find[SendStart](d.effects) != nil {
		t.Errorf("a host that was removed does %#v, %q", d.effects, d.state.Ended())
	}
	if wake := d.state.Wake(); !wake.IsZero() && find[SendSync](d.after(time.Hour)) != nil {
		t.Error("it asks again")
	}
	if d.step(VMDone{Ref: Ref{vmID(1), 1}}); d.state.Ended() != EndRemoved {
		t.Errorf("without VMs: %q", d.state.Ended())
	}
}

// A VM may reach what its order says, if the agent knows what that is.
func TestEgress(t *testing.T) {
	t.Parallel()
	for egress, refused := range map[millrace.Egress]bool{"": false, millrace.EgressInternet: false, millrace.EgressNone: false, "moon": true} {
		d := newDriver(t)
		o := order(1)
		o.Egress = egress
		d.answer(1, o)
		if start := find[StartVM](d.effects); (start == nil) != refused || start != nil && start.Spec.Egress != egress {
			t.Errorf("%q: %#v", egress, d.effects)
		}
	}
}
