package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// These go through the scheduler's own decisions, as the placer does.

func TestDecideStolenJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.queue(1), w.queue(2)
	w.pass(scheduler.Decide)
	a, b := w.job(first).VM.ID, w.job(second).VM.ID
	w.register(a, 11)
	w.register(b, 12)
	w.observe(millrace.VMOnline, a, b)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 11 }))
	w.pass(scheduler.Decide)
	if v := w.vm(a); v.RanJob != second || v.State != millrace.VMBusy {
		t.Errorf("the thief: %+v", v)
	}
	if v := w.vm(b); v.ForJob != first || v.RetireReason != "" {
		t.Errorf("the one whose job was stolen doesn't stand for the other: %+v", v)
	}
	if p := w.pass(scheduler.Decide); len(p.VMs) != 2 {
		t.Errorf("%d VMs for two jobs", len(p.VMs))
	}
}

// A VM whose labels don't cover the job that is left over is retired, and that job gets one of its own.
func TestDecideStolenJobOfAnotherSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.queue(1), w.queue(2)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 3, millrace.JobQueued, func(j *millrace.Job) { j.Labels = []string{"millrace-2cpu-4gb"} }))
	w.pass(scheduler.Decide)
	a, b, c := w.job(first).VM.ID, w.job(second).VM.ID, w.job(w.jobID(3)).VM.ID
	for i, vm := range []millrace.VMID{a, b, c} {
		w.register(vm, int64(11+i))
	}
	w.observe(millrace.VMOnline, a, b, c)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 3, millrace.JobCompleted, func(j *millrace.Job) { j.Conclusion = "cancelled" }))
	w.pass(scheduler.Decide)
	if v := w.vm(c); v.RetireReason == "" || v.State != millrace.VMOnline {
		t.Errorf("the VM of the cancelled job: %+v; it is unregistered before it is stopped", v)
	}
	if w.vm(a).RetireReason != "" || w.vm(b).RetireReason != "" {
		t.Error("VMs that are needed were retired")
	}
}

func TestDecideCancelledWhileQueued(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	w.pass(scheduler.Decide)
	vm := w.job(job).VM.ID
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted, func(j *millrace.Job) { j.Conclusion = "cancelled" }))
	w.pass(scheduler.Decide)
	if v := w.vm(vm); v.State != millrace.VMStopping || v.RetireReason == "" {
		t.Errorf("%+v", v)
	}
	code(t, w.org.SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: vm, Epoch: 1}}, 11, []byte("late")), millrace.Gone)
	w.observe(millrace.VMGone)
	if p := w.pass(scheduler.Decide); len(p.VMs) != 0 {
		t.Errorf("VMs %+v", p.VMs)
	}
}

func TestDecideSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roomy := storetest.Facts()
	roomy.Offer = millrace.Size{MilliCPU: 100_000, MemoryMB: 100_000}
	epoch, err := w.org.StartHost(t.Context(), w.host.ID, "", roomy)
	if err != nil {
		t.Fatal(err)
	}
	w.host.Epoch = epoch
	var vms []millrace.VMID
	for i := range int64(w.Concurrency) {
		w.queue(i + 1)
	}
	w.advance(time.Second)
	// Of another size, so that no VM that is there can stand for it.
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, int64(w.Concurrency)+1, millrace.JobQueued, func(j *millrace.Job) { j.Labels = []string{"millrace-2cpu-4gb"} }))
	w.pass(scheduler.Decide)
	for i := range int64(w.Concurrency) {
		vms = append(vms, w.job(w.jobID(i+1)).VM.ID)
	}
	last := w.jobID(int64(w.Concurrency) + 1)
	if row := w.job(last); row.VM != nil || row.Wait.Code != millrace.WaitPlanLimit {
		t.Errorf("the job beyond the plan: VM %+v, waits %+v", row.VM, row.Wait)
	}
	// A VM that is being stopped holds its slot until it is gone.
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted))
	w.pass(scheduler.Decide)
	if row := w.job(last); row.VM != nil {
		t.Error("the slot of a stopping VM was given away")
	}
	w.observe(millrace.VMBooting, vms[1:]...)
	w.pass(scheduler.Decide)
	if row := w.job(last); row.VM == nil || row.Wait.Code != millrace.WaitBooting {
		t.Errorf("with a free slot: VM %+v, waits %+v", row.VM, row.Wait)
	}
}

// A host that takes no VM says so with the first order that it refuses: that costs the job one try, and no more come until
// it takes VMs again.
func TestDecideRefusingHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	w.pass(scheduler.Decide)
	vm := w.job(job).VM.ID
	const full = "its disk is nearly full (1.2 GB free)"
	say := func(refuses string, list ...millrace.Observation) {
		t.Helper()
		if _, err := w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, refuses, list); err != nil {
			t.Fatal(err)
		}
		w.pass(scheduler.Decide)
	}
	say(full, millrace.Observation{VMID: vm, Epoch: 1, State: millrace.VMGone, Reason: "The host takes no VM now: " + full + "."})
	for range 2 {
		w.advance(10 * time.Second)
		say(full)
		row := w.job(job)
		if row.VM.ID != vm || row.Tries != 1 || row.Wait.Code != millrace.WaitHostUnavailable || !strings.Contains(row.Wait.Text, "takes none: "+full) {
			t.Errorf("VM %+v, %d tries, waits %+v", row.VM, row.Tries, row.Wait)
		}
	}
	if host, err := w.org.Host(t.Context(), w.host.ID); err != nil || host.Refuses != full {
		t.Errorf("the host refuses because %q, %v", host.Refuses, err)
	}
	say("")
	if row := w.job(job); row.VM.ID == vm || row.Tries != 1 {
		t.Errorf("once it takes VMs again: VM %+v, %d tries", row.VM, row.Tries)
	}
}

func TestDecideJITBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.root.Exec(t.Context(), `UPDATE installations SET jit_left = 1.5, jit_at = $1`, w.now()); err != nil {
		t.Fatal(err)
	}
	jobs := []millrace.JobID{w.queue(1), w.queue(2)}
	state := func() (got []string) {
		for _, id := range jobs {
			row := w.job(id)
			got = append(got, fmt.Sprintf("%t %s", row.VM != nil, row.Wait.Code))
		}
		return got
	}
	placed, err := w.st.Place(t.Context(), w.ID, store.Unknown, scheduler.Decide)
	if err != nil || placed.VMs != 1 || !placed.NextAt.After(w.now()) {
		t.Fatalf("%+v at %s, %v", placed, w.now(), err)
	}
	placedFirst := []string{"true booting", "false github_rate_limited"}
	placedSecond := []string{"false github_rate_limited", "true booting"}
	if got := state(); !cmp.Equal(got, placedFirst) && !cmp.Equal(got, placedSecond) {
		t.Errorf("jobs %v", got)
	}
	w.advance(placed.NextAt.Sub(w.now()) + time.Millisecond)
	w.pass(scheduler.Decide)
	if diff := cmp.Diff([]string{"true booting", "true booting"}, state()); diff != "" {
		t.Errorf("at the time that the pass named:\n%s", diff)
	}
}

// A pass decides on what it read. What it then retires may have ended meanwhile: the end stands.
func TestRetireOfWhatEndedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.pass(func(millrace.Pass) millrace.Decision {
		w.observe(millrace.VMGone, vm)
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: vm, Reason: "surplus"}}}
	})
	if v := w.vm(vm); v.State != millrace.VMGone {
		t.Errorf("a VM that is gone became %s", v.State)
	}
}

// A registration that was saved between a pass's reading and its writing is removed at GitHub before the VM is stopped.
func TestRetireOfWhatWasRegisteredMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.pass(func(millrace.Pass) millrace.Decision {
		w.register(vm, 11)
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: vm, Reason: "surplus"}}}
	})
	if v := w.vm(vm); v.State != millrace.VMBooting || v.RetireReason != "surplus" || v.RunnerID != 11 {
		t.Errorf("%+v", v)
	}
	if diff := cmp.Diff([]string{millrace.RetireVM{}.Kind()}, w.tasks()); diff != "" {
		t.Error(diff)
	}
}
