package store_test

import (
	"bytes"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// key is 32 bytes that differ by n.
func key(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// TestOneJob goes the whole way of a job through the store.
func TestOneJob(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t)
	ctx := t.Context()
	calm := storetest.MustCreateOrg(t, st, "calm")
	host := storetest.MustEnroll(t, st, calm, "rack-1", key(1), key(2))
	org := st.Org(calm.ID)
	woken := st.Bus.On(store.TopicHost(host.ID))

	storetest.MustIntake(t, st, storetest.Delivery(calm, 1, millrace.JobQueued))
	placed, err := st.Place(ctx, calm.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
		if len(p.Jobs) != 1 || len(p.Hosts) != 1 || len(p.Installations) != 1 || p.Installations[0].JITLeft < 165 {
			t.Fatalf("pass %+v", p)
		}
		return millrace.Decision{Place: []millrace.Placement{{JobID: p.Jobs[0].ID, HostID: p.Hosts[0].ID, Arch: millrace.AMD64}}}
	})
	if err != nil || placed.VMs != 1 {
		t.Fatalf("placed %+v, %v", placed, err)
	}
	<-woken
	desired, err := org.Desired(ctx, host.ID)
	if err != nil || desired.Version != 2 || len(desired.VMs) != 1 {
		t.Fatalf("desired version %d, %d VMs, %v", desired.Version, len(desired.VMs), err)
	}
	vm := desired.VMs[0]
	grant, err := org.BeginJIT(ctx, host.ID, vm.ID, vm.Epoch)
	if err != nil || grant.Target.Owner != "calm" || grant.Sealed != nil {
		t.Fatalf("grant %+v, %v", grant, err)
	}
	if err := org.SaveJIT(ctx, store.JITGrant{VM: millrace.VM{ID: vm.ID, Epoch: vm.Epoch}}, 4711, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if grant, err = org.BeginJIT(ctx, host.ID, vm.ID, vm.Epoch); err != nil || string(grant.Sealed) != "sealed" {
		t.Fatalf("repeated grant %+v, %v", grant, err)
	}
	observe := func(state millrace.VMState) {
		t.Helper()
		_, err := org.Observe(ctx, host.ID, host.Epoch, "", []millrace.Observation{{VMID: vm.ID, Epoch: vm.Epoch, State: state, Usage: millrace.Metering{CPUMillis: 5}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	observe(millrace.VMOnline)
	storetest.MustIntake(t, st, storetest.Delivery(calm, 1, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 4711 }))
	nothing := func(millrace.Pass) millrace.Decision { return millrace.Decision{} }
	if _, err := st.Place(ctx, calm.ID, store.Unknown, nothing); err != nil {
		t.Fatal(err)
	}
	storetest.MustIntake(t, st, storetest.Delivery(calm, 1, millrace.JobCompleted, func(j *millrace.Job) { j.RunnerID = 4711 }))
	observe(millrace.VMGone)
	page, err := org.Jobs(ctx, store.JobFilter{})
	if err != nil || len(page.Jobs) != 1 {
		t.Fatalf("jobs %+v, %v", page, err)
	}
	row := page.Jobs[0]
	if row.Status != millrace.JobCompleted || row.VM == nil || row.VM.State != millrace.VMGone || row.VM.RanJob != row.ID || row.HostName != "rack-1" || row.Tries != 0 {
		t.Errorf("row %+v, VM %+v", row, row.VM)
	}
}
