package store_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// A registration is granted while the VM is wanted and not yet online, and kept sealed for just as long, so that a lost
// answer can be repeated.
func TestJIT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	begin := func(epoch int64) (store.JITGrant, error) {
		return w.org.BeginJIT(t.Context(), w.host.ID, vm, epoch)
	}
	grant, err := begin(1)
	if err != nil || grant.Sealed != nil || grant.VM.ID != vm || grant.Target != (millrace.RunnerTarget{InstallationID: w.Installation.ID, Owner: "calm"}) {
		t.Fatalf("%+v, %v", grant, err)
	}
	for _, epoch := range []int64{0, 2} {
		_, err := begin(epoch)
		code(t, err, millrace.Gone)
		code(t, w.org.SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: vm, Epoch: epoch}}, 11, []byte("x")), millrace.Gone)
	}
	w.register(vm, 11)
	for range 2 {
		if grant, err = begin(1); err != nil || string(grant.Sealed) != "sealed" || grant.VM.RunnerID != 11 {
			t.Errorf("a repeat: %+v, %v", grant, err)
		}
	}
	w.observe(millrace.VMBooting, vm)
	if grant, err = begin(1); err != nil || string(grant.Sealed) != "sealed" {
		t.Errorf("while it boots: %+v, %v", grant, err)
	}
	w.observe(millrace.VMOnline, vm)
	_, err = begin(1)
	code(t, err, millrace.Conflict)
	if kept := scalar[*[]byte](t, w.root, `SELECT jit_sealed FROM vms`); kept != nil {
		t.Error("the sealed configuration outlives its use")
	}
	w.observe(millrace.VMGone, vm)
	_, err = begin(1)
	code(t, err, millrace.Gone)
	code(t, w.org.SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: vm, Epoch: 1}}, 12, []byte("x")), millrace.Gone)
}

// A host asks for a VM's registration as soon as it boots, and so that it boots is noted with that: its report, which comes at the
// same time, is no news. It is when no registration follows.
func TestJITOfABootingVM(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm, refused := w.place(w.queue(1)), w.place(w.queue(2))
	placed := w.now()
	w.advance(50 * time.Millisecond)
	w.observe(millrace.VMBooting, vm, refused)
	if v := w.vm(vm); v.State != millrace.VMPending {
		t.Errorf("the report is news: %+v", v)
	}
	grant, err := w.org.BeginJIT(t.Context(), w.host.ID, vm, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.advance(time.Second) // GitHub's answer
	told := w.st.Bus.On(store.TopicOrg(w.ID))
	if err := w.org.SaveJIT(t.Context(), grant, 11, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	closed(t, told, "the pages that show the VM")
	if v := w.vm(vm); v.State != millrace.VMBooting || !v.Stamps.Booting.Equal(placed.Add(50*time.Millisecond)) {
		t.Errorf("%+v", v)
	}
	w.advance(2 * time.Second)
	w.observe(millrace.VMBooting, vm, refused)
	if v := w.vm(refused); v.State != millrace.VMBooting {
		t.Errorf("without a registration: %+v", v)
	}
}

// A VM that is retired while GitHub makes its registration is not wanted any more: whoever registered it must undo that.
func TestJITOfARetiredVM(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	if _, err := w.org.BeginJIT(t.Context(), w.host.ID, vm, 1); err != nil {
		t.Fatal(err)
	}
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: vm, Reason: "surplus"}}}
	})
	code(t, w.org.SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: vm, Epoch: 1}}, 11, []byte("sealed")), millrace.Gone)
	_, err := w.org.BeginJIT(t.Context(), w.host.ID, vm, 1)
	code(t, err, millrace.Gone)
	if v := w.vm(vm); v.RunnerID != 0 {
		t.Errorf("%+v", v)
	}
}

// A personal account has no organisation to register at: its runner is one repository's.
func TestJITOfAPersonalAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.root.Exec(t.Context(), `UPDATE installations SET owner_type = 'User'`); err != nil {
		t.Fatal(err)
	}
	vm := w.place(w.queue(1))
	grant, err := w.org.BeginJIT(t.Context(), w.host.ID, vm, 1)
	if want := (millrace.RunnerTarget{InstallationID: w.Installation.ID, Owner: "calm", Repository: "app"}); err != nil || grant.Target != want {
		t.Errorf("%+v, %v", grant.Target, err)
	}
}

// Only the host that a VM is on may ask for its registration.
func TestJITIsTheHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	_, err := w.org.BeginJIT(t.Context(), millrace.NewHostID(new(millrace.Source), w.now()), vm, 1)
	code(t, err, millrace.NotFound)
}

// A registration whose request was slow doesn't replace one that was made since: that one's runner runs.
func TestJITThatComesLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.place(w.queue(1))
	late, err := w.org.BeginJIT(t.Context(), w.host.ID, v, 1)
	w.must(err)
	w.register(v, 12)
	code(t, w.org.SaveJIT(t.Context(), late, 11, []byte("late")), millrace.Gone)
	if got := w.vm(v).RunnerID; got != 12 {
		t.Errorf("its runner is %d", got)
	}
	late.VM.RunnerID = 12 // was removed for this one
	w.must(w.org.SaveJIT(t.Context(), late, 13, []byte("sealed")))
	if got := w.vm(v).RunnerID; got != 13 {
		t.Errorf("its runner is %d", got)
	}
}
