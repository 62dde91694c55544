package workers_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

// run runs workers over st; stop ends them and waits.
func run(t *testing.T, st *store.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- workers.New(workers.Config{Store: st, GitHub: &registry{}, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Workers that ended leave nothing behind, and write the last heartbeats.
//
//nolint:paralleltest // it counts goroutines
func TestRunEnds(t *testing.T) {
	st := storetest.Open(t)
	tenant := storetest.MustCreateOrg(t, st, "calm")
	host := storetest.MustEnroll(t, st, tenant, "rack-1", make([]byte, 32), make([]byte, 32))
	before := goleak.IgnoreCurrent()
	told := st.Bus.On(store.TopicHost(host.ID))
	stop := run(t, st)
	storetest.MustIntake(t, st, storetest.Delivery(tenant, 1, millrace.JobQueued))
	<-told
	st.Heard(tenant.ID, host.ID, 1, 42)
	stop()
	goleak.VerifyNone(t, before)
	c, err := st.HostCredentials(t.Context(), host.ID)
	if err != nil || c.Sequence != 42 {
		t.Errorf("the last sequence heard is %d, %v", c.Sequence, err)
	}
}

// A database whose clock is behind this process's: what is due later by its clock is not due at once by ours, again and
// again.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	at := time.Now().Add(-time.Hour)
	st := storetest.OpenAt(t, storetest.NewDatabase(t), func() time.Time { asked.Add(1); return at })
	tenant := storetest.MustCreateOrg(t, st, "calm")
	host := storetest.MustEnroll(t, st, tenant, "rack-1", make([]byte, 32), make([]byte, 32))
	told := st.Bus.On(store.TopicHost(host.ID))
	defer run(t, st)()
	storetest.MustIntake(t, st, storetest.Delivery(tenant, 1, millrace.JobQueued))
	<-told
	desired, err := st.Org(tenant.ID).Desired(t.Context(), host.ID)
	if err != nil || len(desired.VMs) != 1 {
		t.Fatal(desired.VMs, err)
	}
	// It never comes up: its job is tried again in 5 s.
	_, err = st.Org(tenant.ID).Observe(t.Context(), host.ID, 1, "", []millrace.Observation{{VMID: desired.VMs[0].ID, Epoch: desired.VMs[0].Epoch, State: millrace.VMGone, Reason: "no"}})
	if err != nil {
		t.Fatal(err)
	}
	waits := func() bool {
		page, err := st.Org(tenant.ID).Jobs(t.Context(), store.JobFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return page.Jobs[0].Wait.Code == millrace.WaitRetry
	}
	for changed := st.Bus.On(store.TopicOrg(tenant.ID)); !waits(); changed = st.Bus.On(store.TopicOrg(tenant.ID)) {
		<-changed
	}
	asked.Store(0)
	<-time.After(300 * time.Millisecond) // nothing is to happen; there is nothing to wait for
	if n := asked.Load(); n > 20 {
		t.Errorf("in 300 ms in which nothing is due the database was asked %d times", n)
	}
}
