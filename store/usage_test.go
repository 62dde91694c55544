package store_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Usage is what completed jobs used: build time is wall clock and unrounded, waiting is by nearest rank, and a job that
// never started counts but used nothing.
func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	midnight := w.now().Truncate(24 * time.Hour)
	n := int64(0)
	run := func(repository int64, actor, conclusion string, queued time.Time, wait, build time.Duration, labels string) {
		t.Helper()
		n++
		for range 2 { // a delivery may come twice
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, n, millrace.JobCompleted, func(j *millrace.Job) {
				j.RepositoryID, j.Repository, j.Actor, j.Conclusion, j.Labels = repository, "calm/"+string(rune('a'+repository)), actor, conclusion, []string{labels}
				j.QueuedAt, j.StartedAt, j.CompletedAt = queued, queued.Add(wait), queued.Add(wait+build)
				if wait > 0 {
					j.RunnerID = 100 + n
				}
			}))
		}
	}
	const s = time.Second
	for i := range 20 { // waits 1 s to 20 s
		run(0, "mona", "success", midnight.Add(-time.Hour), time.Duration(i+1)*s, 10*s, "millrace-4cpu-8gb")
	}
	run(0, "hubot", "failure", midnight.Add(-time.Hour), s, 1*s, "millrace")
	run(1, "hubot", "timed_out", midnight.Add(-time.Minute), s, 5*time.Minute, "millrace-2cpu-4gb") // ends on the next day
	run(1, "mona", "cancelled", midnight.Add(-time.Hour), 0, 0, "millrace")                         // while queued
	run(1, "mona", "skipped", midnight.Add(time.Hour), 2*s, 3*s, "millrace")
	usage := func(by millrace.UsageBy, from, to time.Time) []millrace.Usage {
		t.Helper()
		list, err := w.org.Usage(t.Context(), by, from, to)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	from, to := midnight.Add(-24*time.Hour), midnight.Add(24*time.Hour)
	want := []millrace.Usage{
		{Key: "calm/b", Jobs: 3, Failed: 1, Cancelled: 1, BuildTime: 303 * s, VCPUTime: 603 * s, WaitP50: s, WaitP95: 2 * s},
		{Key: "calm/a", Jobs: 21, Succeeded: 20, Failed: 1, BuildTime: 201 * s, VCPUTime: 801 * s, WaitP50: 10 * s, WaitP95: 19 * s},
	}
	if diff := cmp.Diff(want, usage(millrace.ByRepository, from, to)); diff != "" {
		t.Errorf("by repository:\n%s", diff)
	}
	want = []millrace.Usage{
		{Key: "hubot", Jobs: 2, Failed: 2, BuildTime: 301 * s, VCPUTime: 601 * s, WaitP50: s, WaitP95: s},
		{Key: "mona", Jobs: 22, Succeeded: 20, Cancelled: 1, BuildTime: 203 * s, VCPUTime: 803 * s, WaitP50: 10 * s, WaitP95: 19 * s},
	}
	if diff := cmp.Diff(want, usage(millrace.ByUser, from, to)); diff != "" {
		t.Errorf("by user:\n%s", diff)
	}
	// Days are UTC's, whatever the server's time zone.
	days := usage(millrace.ByDay, from, to)
	if len(days) != 2 || days[0].Key != midnight.Add(-time.Hour).Format(time.DateOnly) || days[0].Jobs != 22 || days[1].Key != midnight.Format(time.DateOnly) || days[1].Jobs != 2 {
		t.Errorf("by day: %+v", days)
	}
	// The window is half open.
	if got := usage(millrace.ByUser, from, midnight.Add(4*time.Minute+s)); len(got) != 2 || got[1].Jobs+got[0].Jobs != 22 {
		t.Errorf("up to an end: %+v", got)
	}
	if got := usage(millrace.ByUser, midnight.Add(4*time.Minute+s), to); len(got) != 2 {
		t.Errorf("from that end on: %+v", got)
	}
	if got := usage(millrace.ByUser, to, from); len(got) != 0 {
		t.Errorf("an empty window: %+v", got)
	}
	_, err := w.org.Usage(t.Context(), "moon", from, to)
	code(t, err, millrace.Unprocessable)
}

// A job that isn't completed has no facts, and a fact names the VM and the host that ran the job.
func TestFactOfJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.register(vm, 11)
	if n := scalar[int](t, w.root, `SELECT count(*) FROM job_facts`); n != 0 {
		t.Errorf("%d facts of a job that is queued", n)
	}
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted, func(j *millrace.Job) {
		j.RunnerID, j.StartedAt, j.CompletedAt = 11, w.now(), w.now().Add(time.Minute)
	}))
	got := scalar[string](t, w.root, `SELECT format('%s %s %s %s', vm_id, host_id, run_ms, started) FROM job_facts`)
	if want := vm.UUID() + " " + w.host.ID.UUID() + " 60000 t"; got != want {
		t.Errorf("fact %q, want %q", got, want)
	}
	// A job that was taken for completed, and of which GitHub says so hours or weeks later, counts once.
	for _, late := range []time.Duration{5 * time.Hour, 30 * 24 * time.Hour} {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted, func(j *millrace.Job) {
			j.RunnerID, j.StartedAt, j.CompletedAt = 11, w.now(), w.now().Add(late)
		}))
		got := column[string](t, w.root, `SELECT run_ms::text FROM job_facts`)
		if want := []string{strconv.FormatInt(late.Milliseconds(), 10)}; !slices.Equal(got, want) {
			t.Errorf("after %v the facts ran for %q ms, want %q", late, got, want)
		}
	}
}
