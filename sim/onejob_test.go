package sim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// fleet drives the production deciders, the placer's and the agent's, over the store on a real Postgres: one thread, no
// goroutine and no sleep of its own, and a clock that it sets. It does each effect at once and in order; a sync that has
// no news stays open until there is some.
type fleet struct {
	t      *testing.T
	st     *store.Store
	clock  *time.Time
	tenant storetest.Tenant
	host   millrace.Host
	epoch  int64
	placer workers.PlacerState
	agent  agent.State
	open   *agent.SendSync // the long poll
	told   []agent.ConfigureVM
	vm     agent.Ref
	killed []string

	registered int64
}

// runnerID is the first runner's.
const runnerID = 4711

func newFleet(t *testing.T) *fleet {
	t.Helper()
	clock := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	f := &fleet{t: t, clock: &clock}
	f.st = storetest.OpenAt(t, storetest.NewDatabase(t), func() time.Time { return clock })
	f.tenant = storetest.MustCreateOrg(t, f.st, "calm")
	f.host = storetest.MustEnroll(t, f.st, f.tenant, "rack-1", make([]byte, 32), make([]byte, 32))
	f.agent.Facts = storetest.Facts()
	return f
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// announce lets the placer step on an announcement and runs the passes that it wants.
func (f *fleet) announce() {
	f.t.Helper()
	events := []workers.PlacerEvent{workers.Announced{Demand: store.Demand{f.tenant.ID: store.Unknown}}}
	for len(events) > 0 {
		var run []workers.RunPass
		f.placer, run = workers.Step(f.placer, events[0], *f.clock)
		events = events[1:]
		for _, pass := range run {
			placed, err := f.st.Place(f.t.Context(), pass.Org, pass.Asked, scheduler.Decide)
			f.must(err)
			events = append(events, workers.PassDone{Org: pass.Org, NextAt: placed.NextAt, Waits: placed.Waits})
		}
	}
	f.answer()
}

// happen lets the agent step on an event and does all that follows from it.
func (f *fleet) happen(event agent.Event) {
	f.t.Helper()
	var effects []agent.Effect
	f.agent, effects = agent.Step(f.agent, event, *f.clock)
	for _, e := range effects {
		switch e := e.(type) {
		case agent.SendStart:
			epoch, err := f.st.Org(f.tenant.ID).StartHost(f.t.Context(), f.host.ID, "", e.Facts)
			f.must(err)
			f.epoch = epoch
			f.happen(agent.Started{Call: e.Call})
		case agent.SendSync:
			f.open = &e
			seen, err := api.Observations(e.Request.VMs)
			f.must(err)
			_, err = f.st.Org(f.tenant.ID).Observe(f.t.Context(), f.host.ID, f.epoch, e.Request.Refuses, seen)
			f.must(err)
			f.announce() // what the host observed may matter to the placer
		case agent.StartVM:
			f.vm = e.Ref
		case agent.FetchJIT:
			org := f.st.Org(f.tenant.ID)
			_, err := org.BeginJIT(f.t.Context(), f.host.ID, e.ID, e.Epoch)
			f.must(err)
			f.must(org.SaveJIT(f.t.Context(), store.JITGrant{VM: millrace.VM{ID: e.ID, Epoch: e.Epoch}}, runnerID+f.registered, []byte("sealed")))
			f.registered++
			f.happen(agent.JITReady{Ref: e.Ref, JIT: "config"})
		case agent.ConfigureVM:
			f.told = append(f.told, e)
		case agent.KillVM:
			f.killed = append(f.killed, e.Reason)
		}
	}
}

// answer answers the open sync when the list of VMs is another than the agent knows.
func (f *fleet) answer() {
	f.t.Helper()
	if f.open == nil {
		return
	}
	if desired := f.desired(); desired.Version != f.open.Request.Have {
		f.respond(desired)
	}
}

func (f *fleet) desired() store.Desired {
	f.t.Helper()
	desired, err := f.st.Org(f.tenant.ID).Desired(f.t.Context(), f.host.ID)
	f.must(err)
	return desired
}

func (f *fleet) respond(desired store.Desired) {
	f.t.Helper()
	call := f.open.Call
	f.open = nil
	f.happen(agent.Synced{Call: call, Response: api.SyncResponse(desired, nil, *f.clock)})
}

// pass lets time pass: the agent is woken as often as it wants to be.
func (f *fleet) pass(d time.Duration) {
	f.t.Helper()
	end := f.clock.Add(d)
	for {
		wake := f.agent.Wake()
		if wake.IsZero() || wake.After(end) {
			break
		}
		if wake.After(*f.clock) {
			*f.clock = wake
		}
		f.happen(agent.Timer{})
	}
	*f.clock = end
	f.happen(agent.Timer{})
	f.st.Heard(f.tenant.ID, f.host.ID, f.epoch, 1)
	f.must(f.st.FlushHeard(f.t.Context()))
}

func (f *fleet) hear(status millrace.JobStatus, change ...func(*millrace.Job)) {
	f.t.Helper()
	storetest.MustIntake(f.t, f.st, storetest.Delivery(f.tenant, 1, status, change...))
	f.announce()
}

func (f *fleet) job() store.JobRow {
	f.t.Helper()
	page, err := f.st.Org(f.tenant.ID).Jobs(f.t.Context(), store.JobFilter{})
	f.must(err)
	if len(page.Jobs) != 1 {
		f.t.Fatalf("%d jobs", len(page.Jobs))
	}
	return page.Jobs[0]
}

// TestOneJobSingleThreaded drives a whole job through the placer and the agent.
func TestOneJobSingleThreaded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.happen(agent.Timer{}) // the agent starts, syncs, and is told of nothing
	if f.open == nil {
		t.Fatal("the agent doesn't sync")
	}
	onIt := func(j *millrace.Job) { j.RunnerID = runnerID }

	f.hear(millrace.JobQueued)
	if row := f.job(); row.VM == nil || row.VM.State != millrace.VMBooting || f.vm.ID != row.VM.ID {
		t.Fatalf("after the event the VM is %+v, and the agent starts %v", row.VM, f.vm)
	}
	f.pass(2 * time.Second)
	f.happen(agent.VMHello{Ref: f.vm})
	if len(f.told) != 1 || f.told[0].JIT.Reveal() != "config" {
		t.Fatalf("the guest was told %v", f.told)
	}
	f.pass(500 * time.Millisecond)
	f.happen(agent.VMReached{Ref: f.vm, State: millrace.VMOnline})
	f.pass(100 * time.Millisecond)
	f.hear(millrace.JobInProgress, onIt)
	f.happen(agent.VMReached{Ref: f.vm, State: millrace.VMBusy})
	f.pass(time.Minute)
	f.happen(agent.VMUsage{Ref: f.vm, Usage: millrace.Metering{CPUMillis: 60_000, PeakMemory: 1 << 28}})
	f.hear(millrace.JobCompleted, onIt)
	code := 0
	f.happen(agent.VMExit{Ref: f.vm, Code: &code})
	f.happen(agent.VMDone{Ref: f.vm})
	f.pass(time.Second)

	row := f.job()
	v := row.VM
	if row.Status != millrace.JobCompleted || v.State != millrace.VMGone || v.RanJob != row.ID || *v.ExitCode != 0 || v.Usage.CPUMillis != 60_000 {
		t.Fatalf("job %+v, VM %+v", row.Job, v)
	}
	var stages []millrace.Stage
	for _, r := range millrace.Timeline(row.Job, v) {
		stages = append(stages, r.Stage)
	}
	want := []millrace.Stage{millrace.StageQueued, millrace.StagePlaced, millrace.StageBooting, millrace.StageOnline, millrace.StageRunning, millrace.StageDone}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Error(diff)
	}
	if took := v.Stamps.Online.Sub(v.Stamps.Booting); took != 2500*time.Millisecond {
		t.Errorf("from booting to online %v by the agent's ages, want 2.5s", took)
	}
	if len(f.agent.VMs) != 1 || len(f.killed) != 0 {
		t.Errorf("the agent has %v left and killed %v", f.agent.VMs, f.killed)
	}
	f.respond(f.desired()) // after a heartbeat: the end was no change of what the host should have
	if len(f.agent.VMs) != 0 {
		t.Errorf("the agent keeps %v, though the server knows of their ends", f.agent.VMs)
	}
}

// A VM that never comes up is retried, after a pause and with the reason shown.
func TestNeverUpSingleThreaded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.happen(agent.Timer{})
	f.hear(millrace.JobQueued)
	first := f.vm
	f.pass(time.Minute)
	if len(f.killed) != 1 {
		t.Fatalf("after a minute of silence the agent killed %v", f.killed)
	}
	f.happen(agent.VMDone{Ref: first, Reason: "killed"})
	f.pass(time.Second)
	row := f.job()
	if row.Tries != 1 || row.Wait.Code != millrace.WaitRetry || f.vm != first {
		t.Fatalf("tries %d, waits for %+v, the agent starts %v", row.Tries, row.Wait, f.vm)
	}
	for _, want := range []string{"did not come up within 1m", "try 2"} {
		if !strings.Contains(row.Wait.Text, want) {
			t.Errorf("%q doesn't say %q", row.Wait.Text, want)
		}
	}
	f.pass(millrace.Backoff(1))
	f.must(func() error {
		var run []workers.RunPass
		f.placer, run = workers.Step(f.placer, workers.Woken{}, *f.clock)
		if len(run) != 1 {
			t.Fatalf("after the pause the placer runs %v", run)
		}
		_, err := f.st.Place(t.Context(), run[0].Org, run[0].Asked, scheduler.Decide)
		return err
	}())
	f.answer()
	if f.vm == first || f.job().Wait.Code != millrace.WaitBooting {
		t.Errorf("after the pause the agent starts %v and the job waits for %+v", f.vm, f.job().Wait)
	}
}
