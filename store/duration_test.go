package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A pass knows how long the jobs took that succeeded, how long their hosts' VMs needed to be online, and neither of another org.
func TestLearn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rival := storetest.MustCreateOrg(t, w.st, "rival")
	const second = time.Second
	run := func(tenant storetest.Tenant, id int64, conclusion string, took time.Duration) {
		t.Helper()
		storetest.MustIntake(t, w.st, storetest.Delivery(tenant, id, millrace.JobCompleted, func(j *millrace.Job) {
			j.Conclusion, j.RunnerID = conclusion, id
			j.StartedAt, j.CompletedAt = w.now(), w.now().Add(took)
		}))
	}
	for i := range int64(4) {
		vm := w.place(w.queue(1 + i))
		w.register(vm, 1+i)
		w.advance(time.Duration(1+i) * second)
		w.observe(millrace.VMOnline, vm)
		run(w.Tenant, 1+i, "success", time.Duration(10+i)*second)
		w.observe(millrace.VMGone, vm)
	}
	run(w.Tenant, 5, "failure", 99*second)
	run(w.Tenant, 6, "skipped", 0)
	run(rival, 7, "success", 77*second)
	queued := w.queue(8)
	other := storetest.Delivery(w.Tenant, 9, millrace.JobQueued, func(j *millrace.Job) { j.Name = "another" })
	storetest.MustIntake(t, w.st, other)
	if p := w.pass(nothing); len(p.Queue)+len(p.Boots)+len(p.Runs) != 0 {
		t.Errorf("known before anything was learned: %v, %v, %v", p.Queue, p.Boots, p.Runs)
	}
	if err := w.st.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := millrace.Durations{N: 4, P50: 11 * second, P90: 13 * second}
	p := w.pass(nothing)
	if diff := cmp.Diff(map[millrace.JobID]millrace.Durations{queued: took}, p.Queue); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[millrace.HostID]millrace.Durations{w.host.ID: {N: 4, P50: 2 * second, P90: 4 * second}}, p.Boots); diff != "" {
		t.Error(diff)
	}

	// Of a VM at work too.
	vm := w.place(queued)
	w.register(vm, 8)
	w.observe(millrace.VMBusy, vm)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 8, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 8 }))
	if diff := cmp.Diff(map[millrace.VMID]millrace.Durations{vm: took}, w.pass(nothing).Runs); diff != "" {
		t.Error(diff)
	}

	// The next run is learned too, and estimates rest on the last ones alone.
	for i := range int64(50) {
		run(w.Tenant, 100+i, "success", 20*second)
		w.advance(second)
	}
	if err := w.st.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := w.pass(nothing).Runs[vm], (millrace.Durations{N: 50, P50: 20 * second, P90: 20 * second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
