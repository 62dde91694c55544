package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Two passes for one org never look at the same facts: the second sees what the first has decided.
func TestPassesOfOneOrgTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	second := storetest.OpenAt(t, w.db, w.now)
	inside, waiting := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(millrace.Pass) millrace.Decision {
			close(inside)
			<-waiting
			return millrace.Decision{Place: []millrace.Placement{{JobID: job, HostID: w.host.ID, Arch: millrace.AMD64}}}
		})
		first <- err
	}()
	<-inside
	seen := make(chan millrace.Pass, 1)
	var ended sync.WaitGroup
	ended.Go(func() {
		_, err := second.Place(t.Context(), w.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
			seen <- p
			return millrace.Decision{}
		})
		if err != nil {
			t.Error(err)
		}
	})
	const waits = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	for scalar[int](t, w.root, waits) == 0 {
		select {
		case <-seen:
			t.Fatal("two passes at the same time")
		default:
		}
	}
	// Another org's pass doesn't wait for this one.
	other := storetest.MustCreateOrg(t, w.st, "brisk")
	if _, err := w.st.Place(t.Context(), other.ID, store.Unknown, nothing); err != nil {
		t.Fatal(err)
	}
	close(waiting)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if p := <-seen; len(p.VMs) != 1 || p.VMs[0].ForJob != job {
		t.Errorf("the second pass saw %+v", p.VMs)
	}
	ended.Wait()
}

// Where no job is queued and no VM waits for one nothing is decided. A job, or a VM that hasn't run one, has it decide.
func TestIdlePass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	decides := func() (decided bool) {
		t.Helper()
		placed, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(millrace.Pass) millrace.Decision {
			decided = true
			return millrace.Decision{}
		})
		if err != nil || placed.VMs != 0 || !placed.NextAt.IsZero() {
			t.Errorf("%+v, %v", placed, err)
		}
		return decided
	}
	if decides() {
		t.Error("an org without jobs is decided about")
	}
	job := w.queue(1)
	if !decides() {
		t.Error("a job is queued, and nothing is decided")
	}
	vm := w.place(job)
	w.register(vm, 7)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 7 }))
	if decides() { // which ties them
		t.Error("all jobs run, and something is decided")
	}
	if v := w.vm(vm); v.RanJob != job || v.State != millrace.VMBusy {
		t.Errorf("a VM whose runner has the job: %+v", v)
	}
	other := w.place(w.queue(2))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobCompleted))
	if w.vm(other).State != millrace.VMPending || !decides() {
		t.Error("a VM has no job any more, and nothing is decided")
	}
	if err := w.st.DeleteOrg(t.Context(), storetest.System, w.ID, w.Slug); err != nil {
		t.Fatal(err)
	}
	if decides() {
		t.Error("a deleted org is decided about")
	}
}

// Where each queued job has its VM, and each VM its job, only rules that changed have it decide.
func TestSettledPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.heard(w.st)
	w.st.Bus.TakeDemand()
	decides := func() (decided bool) {
		t.Helper()
		w.heard(w.st)
		demand, _ := w.st.Bus.TakeDemand()
		if len(demand[w.ID].Commits) == 0 {
			t.Fatal("nothing was announced")
		}
		_, err := w.st.Place(t.Context(), w.ID, demand[w.ID], func(millrace.Pass) millrace.Decision {
			decided = true
			return millrace.Decision{}
		})
		if err != nil {
			t.Fatal(err)
		}
		return decided
	}
	deliver := func(id int64, status millrace.JobStatus, runner int64) {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, id, status, func(j *millrace.Job) { j.RunnerID = runner }))
	}
	first := w.place(w.queue(1))
	w.place(w.queue(2))
	w.register(first, 11)
	w.heard(w.st)
	w.st.Bus.TakeDemand() // for the jobs, which have their VMs
	deliver(1, millrace.JobInProgress, 11)
	if decides() {
		t.Error("one job runs in its VM, the other has its own, and something is decided")
	}
	if v := w.vm(first); v.RanJob.IsZero() {
		t.Errorf("it is not tied to its job: %+v", v)
	}
	w.observe(millrace.VMGone, first)
	if decides() {
		t.Error("a VM ended that had run its job, and something is decided")
	}
	spread := millrace.Spread
	if _, err := w.org.ChangePlacement(t.Context(), w.Caller(), millrace.PlacementChange{Strategy: &spread}); err != nil {
		t.Fatal(err)
	}
	if !decides() {
		t.Error("a rule changed, and nothing is decided")
	}
	deliver(2, millrace.JobCompleted, 0)
	if !decides() {
		t.Error("a VM's job is over, and nothing is decided")
	}
	w.queue(3)
	if !decides() {
		t.Error("a job has no VM, and nothing is decided")
	}
}

// All servers hear of all demand; one pass, of any of them, is enough for what was committed before it.
func TestPassForAllServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1) // or there is nothing to decide
	second := storetest.OpenAt(t, w.db, w.now)
	next := w.now().Add(time.Minute)
	looks := func(st *store.Store, commits ...uint64) (looked bool) {
		t.Helper()
		placed, err := st.Place(t.Context(), w.ID, store.Asked{Commits: commits, Urgency: store.AtOnce}, func(millrace.Pass) millrace.Decision {
			looked = true
			return millrace.Decision{NextAt: next}
		})
		if err != nil || !placed.At.Equal(w.now()) || !placed.NextAt.Equal(next) {
			t.Errorf("a pass at %s, the next at %s, %v", placed.At, placed.NextAt, err)
		}
		return looked
	}
	const change = `UPDATE orgs SET concurrency = concurrency WHERE org_id = $1 RETURNING pg_current_xact_id()`
	commit := func() uint64 { return scalar[uint64](t, w.root, change, w.ID) }
	first := commit()
	if !looks(w.st, first) {
		t.Error("there was no pass for the first demand")
	}
	if looks(second, first) || looks(w.st, first) || looks(w.st) {
		t.Error("there was another pass for the same demand")
	}
	if !looks(second, first, commit()) {
		t.Error("there was no pass for demand that came later")
	}
	if !looks(second, store.Unknown.Commits...) {
		t.Error("there was no pass when announcements may have been lost")
	}

	// A transaction that began before a pass and commits after it.
	open, err := connect(t, w.db.Superuser).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var early uint64
	if err := open.QueryRow(t.Context(), change, w.ID).Scan(&early); err != nil {
		t.Fatal(err)
	}
	late := scalar[uint64](t, w.root, `SELECT pg_current_xact_id()`)
	if !looks(w.st, late) {
		t.Error("there was no pass for the later of two transactions")
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !looks(second, early) {
		t.Error("there was no pass for a transaction that was open during the last")
	}

	w.advance(time.Minute)
	next = next.Add(time.Hour)
	if !looks(second) || looks(w.st) {
		t.Error("when the time to look again had come there was not one pass")
	}
	last := commit()
	if _, err := w.root.Exec(t.Context(), `UPDATE placements SET snapshot = '1000000000:1000000000:'`); err != nil { // a restored copy
		t.Fatal(err)
	}
	if !looks(w.st, last) || looks(second, last) {
		t.Error("a snapshot of another database counts")
	}
}

// A VM takes what its job says, and a unit of the JIT budget, which refills with time and never overflows.
func TestPlaceReserves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	left := func() float64 {
		t.Helper()
		return w.pass(nothing).Installations[0].JITLeft
	}
	if got := left(); got != millrace.JITPerMinute {
		t.Errorf("a new installation has %v", got)
	}
	vm := w.vm(w.place(job))
	want := millrace.VM{
		OrgID: w.ID, ID: vm.ID, HostID: w.host.ID, ForJob: job, State: millrace.VMPending, Epoch: 1, Zone: millrace.ZonePrivate, Egress: millrace.EgressInternet, Arch: millrace.AMD64,
		Size: w.DefaultSize, Labels: []string{"millrace"}, InstallationID: w.Installation.ID, RepositoryID: 77, Repository: "calm/app",
		RunnerName: millrace.RunnerName(vm.ID, 1), Stamps: vm.Stamps,
	}
	if diff := cmp.Diff(want, vm); diff != "" {
		t.Errorf("VM:\n%s", diff)
	}
	if !vm.Stamps.Placed.Equal(w.now()) || !vm.Stamps.Changed.Equal(w.now()) {
		t.Errorf("stamps %+v at %s", vm.Stamps, w.now())
	}
	if got := left(); got != millrace.JITPerMinute-1 {
		t.Errorf("after one placement %v are left", got)
	}
	w.advance(100 * time.Millisecond)
	if got := left(); got <= millrace.JITPerMinute-1 || got >= millrace.JITPerMinute {
		t.Errorf("after 100 ms %v are left", got)
	}
	w.advance(time.Hour)
	if got := left(); got != millrace.JITPerMinute {
		t.Errorf("after an hour %v are left", got)
	}
	desired, err := w.org.Desired(t.Context(), w.host.ID)
	if err != nil || desired.Version != w.host.Desired+1 || len(desired.VMs) != 1 || desired.VMs[0].ID != vm.ID {
		t.Errorf("the host is told version %d: %v, %v", desired.Version, desired.VMs, err)
	}
	rows, err := w.org.Hosts(t.Context())
	if err != nil || rows[0].VMs != 1 || rows[0].Committed != w.DefaultSize {
		t.Errorf("host %+v, %v", rows, err)
	}
}

// A job has at most one VM that may take it: a decision to the contrary is refused as a whole.
func TestNoJobIsCoveredTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job, other := w.queue(1), w.queue(2)
	place := func(jobs ...millrace.JobID) error {
		_, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(millrace.Pass) (d millrace.Decision) {
			for _, j := range jobs {
				d.Place = append(d.Place, millrace.Placement{JobID: j, HostID: w.host.ID, Arch: millrace.AMD64})
			}
			return d
		})
		return err
	}
	if place(other, job, job) == nil {
		t.Error("two VMs for one job in one decision")
	}
	if n := len(w.pass(nothing).VMs); n != 0 {
		t.Errorf("%d VMs of a refused decision", n)
	}
	if err := place(job); err != nil {
		t.Fatal(err)
	}
	if place(job) == nil {
		t.Error("a second VM for a job that has one")
	}
	vm := w.job(job).VM.ID
	w.observe(millrace.VMGone, vm)
	if err := place(job); err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
}

// Stealing: GitHub gave job 2 to the VM that was meant for job 1. The VM is tied to job 2 by its runner's id.
func TestStolenJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.queue(1), w.queue(2)
	thief, left := w.place(first), w.place(second)
	w.register(thief, 11)
	w.register(left, 12)
	w.observe(millrace.VMOnline, thief, left)
	w.advance(time.Second)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 11 }))
	p := w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Cover: []millrace.Binding{{VMID: left, JobID: first}}}
	})
	if len(p.Jobs) != 1 || p.Jobs[0].ID != first || len(p.VMs) != 2 {
		t.Fatalf("pass %+v", p)
	}
	if v := w.vm(thief); v.RanJob != second || v.ForJob != first || v.State != millrace.VMBusy || !v.Stamps.Busy.Equal(w.now()) {
		t.Errorf("the thief: %+v", v)
	}
	if v := w.vm(left); v.ForJob != first || !v.RanJob.IsZero() {
		t.Errorf("the other: %+v", v)
	}
	if row := w.job(second); row.VM == nil || row.VM.ID != thief || row.HostName != "rack-1" {
		t.Errorf("the stolen job shows %+v", row.VM)
	}
	if row := w.job(first); row.VM == nil || row.VM.ID != left {
		t.Errorf("the job left shows %+v", row.VM)
	}
}

// A VM without a runner is stopped at once; one with a runner is unregistered first, by a task.
func TestRetire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bare, registered := w.place(w.queue(1)), w.place(w.queue(2))
	w.register(registered, 12)
	before, err := w.org.Desired(t.Context(), w.host.ID)
	if err != nil {
		t.Fatal(err)
	}
	told, relay := w.st.Bus.On(store.TopicHost(w.host.ID)), w.st.Bus.On(store.TopicTasks())
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: bare, Reason: "surplus"}, {VMID: registered, Reason: "surplus"}}}
	})
	closed(t, told, "the host's new list")
	closed(t, relay, "the task")
	if v := w.vm(bare); v.State != millrace.VMStopping || v.RetireReason != "surplus" {
		t.Errorf("without a runner: %+v", v)
	}
	if v := w.vm(registered); v.State != millrace.VMBooting || v.RetireReason != "surplus" {
		t.Errorf("with a runner: %+v", v)
	}
	if diff := cmp.Diff([]string{"vm.retire"}, w.tasks()); diff != "" {
		t.Errorf("tasks:\n%s", diff)
	}
	desired, err := w.org.Desired(t.Context(), w.host.ID)
	if err != nil || desired.Version != before.Version+1 || len(desired.VMs) != 1 || desired.VMs[0].ID != registered {
		t.Errorf("the host is told version %d after %d: %+v, %v", desired.Version, before.Version, desired.VMs, err)
	}
	r, err := w.st.Retiring(t.Context(), w.ID, registered)
	if err != nil || r.VM.RunnerID != 12 || r.Target != (millrace.RunnerTarget{InstallationID: w.Installation.ID, Owner: "calm"}) {
		t.Errorf("retiring %+v, %v", r, err)
	}
	if err := w.st.Unregistered(t.Context(), w.ID, registered); err != nil {
		t.Fatal(err)
	}
	if v := w.vm(registered); v.State != millrace.VMStopping || v.Reason != "surplus" {
		t.Errorf("unregistered: %+v", v)
	}
	if err := w.st.Unregistered(t.Context(), w.ID, registered); err != nil {
		t.Errorf("once more: %v", err)
	}
	// The host reports neither: both are gone, and the jobs' tries don't count it.
	w.observe(millrace.VMGone)
	for _, vm := range []millrace.VMID{bare, registered} {
		if v := w.vm(vm); v.State != millrace.VMGone {
			t.Errorf("at last: %+v", v)
		}
		if row := w.job(w.vm(vm).ForJob); row.Tries != 0 {
			t.Errorf("job %+v", row.Job)
		}
	}
}

// What GitHub calls busy stays, and so does what ran a job.
func TestBusyIsNotRetired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.register(vm, 11)
	w.observe(millrace.VMOnline, vm)
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: vm, Reason: "surplus"}}}
	})
	if err := w.st.KeepBusy(t.Context(), w.ID, vm); err != nil {
		t.Fatal(err)
	}
	if v := w.vm(vm); v.RetireReason != "" || v.State == millrace.VMStopping {
		t.Errorf("kept: %+v", v)
	}
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 11 }))
	w.pass(nothing)
	_, err := w.root.Exec(t.Context(), `UPDATE vms SET retire_reason = 'surplus'`) // the pass didn't see yet that it began
	w.must(err)
	if err := w.st.Unregistered(t.Context(), w.ID, vm); err != nil {
		t.Fatal(err)
	}
	if v := w.vm(vm); v.State != millrace.VMBusy || v.RetireReason != "" {
		t.Errorf("after its job began: %+v", v)
	}
}

// Reasons are written when they change, and not otherwise: a row that is written for nothing is WAL, and a page that
// reloads for nothing.
func TestWaitIsWrittenWhenItChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	wait := func(text string) {
		t.Helper()
		w.pass(func(millrace.Pass) millrace.Decision {
			return millrace.Decision{Wait: map[millrace.JobID]millrace.WaitReason{job: {Code: millrace.WaitNoCapacity, Text: text}}}
		})
	}
	version := func() string { return scalar[string](t, w.root, `SELECT xmin::text FROM jobs`) }
	shown := w.st.Bus.On(store.TopicOrg(w.ID))
	wait("full")
	closed(t, shown, "a new reason")
	if got := w.job(job).Wait; got != (millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: "full"}) {
		t.Errorf("waits %+v", got)
	}
	before := version()
	wait("full")
	if version() != before {
		t.Error("the same reason was written again")
	}
	wait("fuller")
	if version() == before || w.job(job).Wait.Text != "fuller" {
		t.Error("another reason was not written")
	}
	w.place(job)
	if got := w.job(job).Wait; got != (millrace.WaitReason{}) {
		t.Errorf("a job with a VM waits %+v", got)
	}
}

// A pass sees what waits and what is live, in the order of their IDs; nothing that is over.
func TestPassIsOrdered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range int64(20) {
		w.advance(time.Millisecond)
		w.queue(i + 1)
	}
	w.queue(50)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 50, millrace.JobCompleted))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 51, millrace.JobWaiting))
	gone := w.place(w.jobID(1))
	w.observe(millrace.VMGone, gone)
	w.place(w.jobID(20))
	p := w.pass(nothing)
	if len(p.Jobs) != 20 || len(p.VMs) != 1 || len(p.Hosts) != 1 || p.Org.ID != w.ID || !p.Now.Equal(w.now()) {
		t.Fatalf("%d jobs, %d VMs, %d hosts at %s", len(p.Jobs), len(p.VMs), len(p.Hosts), p.Now)
	}
	for i, j := range p.Jobs[1:] {
		if j.ID.UUID() <= p.Jobs[i].ID.UUID() {
			t.Errorf("job %s is after %s", j.ID, p.Jobs[i].ID)
		}
	}
	demand, err := w.st.OrgsWithDemand(t.Context())
	if err != nil || !cmp.Equal(demand, store.Demand{w.ID: store.Unknown}) {
		t.Errorf("demand of %v, %v", demand, err)
	}
}

// A placement tells the hosts that it touched and no other.
func TestPlacementTellsItsHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	idle := storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4))
	jobs := []millrace.JobID{w.queue(1), w.queue(2)}
	listener := connect(t, w.db.Superuser)
	if _, err := listener.Exec(t.Context(), `LISTEN millrace`); err != nil {
		t.Fatal(err)
	}
	told, untold := w.st.Bus.On(store.TopicHost(w.host.ID)), w.st.Bus.On(store.TopicHost(idle.ID))
	w.pass(func(millrace.Pass) (d millrace.Decision) {
		for _, j := range jobs {
			d.Place = append(d.Place, millrace.Placement{JobID: j, HostID: w.host.ID, Arch: millrace.AMD64})
		}
		return d
	})
	closed(t, told, "the host's new list")
	select {
	case <-untold:
		t.Error("a host without news was woken")
	default:
	}
	for told := false; !told; { // after what the queueing announced, or with it
		n, err := listener.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told = strings.Contains(n.Payload, store.TopicHost(w.host.ID))
		if strings.Contains(n.Payload, store.TopicHost(idle.ID)) || told && !strings.Contains(n.Payload, store.TopicOrg(w.ID)) {
			t.Errorf("announced %q: want the host and its org", n.Payload)
		}
	}
	if desired, err := w.org.Desired(t.Context(), w.host.ID); err != nil || desired.Version != w.host.Desired+1 {
		t.Errorf("version %d, %v: one pass is one version", desired.Version, err)
	}
}

// Which job a VM ran becomes known while its end is being written: the job that it stood for doesn't wait for what is known.
func TestTiedWhileItEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	meant, ran := w.queue(1), w.queue(2)
	v := w.place(meant)
	w.register(v, 11)
	w.observe(millrace.VMBusy, v)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 11 }))
	jobs := w.hold(`SELECT FROM jobs WHERE job_id = $1 FOR UPDATE`, meant.UUID())
	var g errgroup.Group
	g.Go(func() error {
		_, err := w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, "", []millrace.Observation{{VMID: v, Epoch: 1, State: millrace.VMGone, Reason: "its job ended"}})
		return err
	})
	w.waiting(1)
	g.Go(func() error {
		_, err := w.st.Place(t.Context(), w.ID, store.Unknown, nothing)
		return err
	})
	w.waiting(2)
	w.must(jobs.Commit(t.Context()))
	w.must(g.Wait())
	if got := w.vm(v).RanJob; got != ran {
		t.Errorf("it ran %s, not %s", got, ran)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs WHERE retry_at IS NOT NULL`); n != 0 {
		t.Errorf("%d jobs wait", n)
	}
}

// A pass that ties a VM, and covers another job with the one that is left, doesn't wait for a host's report of both: that waits for
// the pass. It looks again soon.
func TestCoverWaitsForNoReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.queue(1), w.queue(2)
	left := w.place(first)
	w.advance(time.Second)
	thief := w.place(second)
	w.register(left, 11)
	w.register(thief, 12)
	w.observe(millrace.VMOnline, left, thief)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 12 }))
	cover := func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Cover: []millrace.Binding{{VMID: left, JobID: second, Wait: millrace.WaitReason{Code: millrace.WaitBooting}}}}
	}
	var g errgroup.Group
	placed, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
		g.Go(func() error {
			_, err := w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, "", []millrace.Observation{
				{VMID: left, Epoch: 1, State: millrace.VMOnline, Usage: millrace.Metering{CPUMillis: 5}}, // before the other, in the order of locks
				{VMID: thief, Epoch: 1, State: millrace.VMBusy, Usage: millrace.Metering{CPUMillis: 5}},
			})
			return err
		})
		w.waiting(1)
		return cover(p)
	})
	w.must(err)
	w.must(g.Wait())
	if v := w.vm(left); v.ForJob != first || placed.NextAt.IsZero() || placed.NextAt.Sub(placed.At) > time.Second {
		t.Errorf("while the host told of it, it was made to stand for %s; the next pass is %v later", v.ForJob, placed.NextAt.Sub(placed.At))
	}
	if w.pass(cover); w.vm(left).ForJob != second {
		t.Error("it doesn't stand for the job that is left")
	}
}

// A pass that ties VMs doesn't wait for a poll of their jobs, nor the poll for the pass, to make no deadlock.
func TestTieWaitsForNoPoll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(3)
	waiting, meant := w.queue(5), w.queue(9)
	v := w.place(meant)
	w.register(v, 11)
	w.observe(millrace.VMBusy, v)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 3, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 11 }))
	poll := store.Poll{OrgID: w.ID, RepositoryID: 77, Target: millrace.RepositoryTarget{InstallationID: w.Installation.ID, FullName: "calm/app"}}
	_, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(millrace.Pass) millrace.Decision {
		_, err := w.st.JoinPoll(t.Context(), poll, millrace.OpenJobs{Jobs: []millrace.JobEvent{
			*storetest.Delivery(w.Tenant, 5, millrace.JobCompleted).Job, *storetest.Delivery(w.Tenant, 9, millrace.JobCompleted).Job,
		}})
		w.must(err)
		return millrace.Decision{Wait: map[millrace.JobID]millrace.WaitReason{waiting: {Code: millrace.WaitPlanLimit, Text: "x"}}}
	})
	w.must(err)
}

// A VM that ends while a pass reads leaves no job for it that seems to have none, and to be free to have another.
func TestEndWhileAPassReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.place(w.queue(1))
	w.register(v, 11)
	w.observe(millrace.VMBusy, v)
	// The pass's statement that reads jobs waits.
	_, err := w.root.Exec(t.Context(), `
		CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
			IF current_query() LIKE '%IS DISTINCT FROM j.wait_code%' THEN PERFORM pg_advisory_xact_lock_shared(99); END IF; RETURN true;
		END $$;
		CREATE POLICY gate ON jobs AS RESTRICTIVE FOR SELECT TO millrace_system USING (gate())`)
	w.must(err)
	gate := w.hold(`SELECT pg_advisory_xact_lock(99)`)
	var g errgroup.Group
	g.Go(func() error {
		placed, err := w.st.Place(t.Context(), w.ID, store.Asked{Commits: []uint64{4_000_000_000}, Urgency: store.AtOnce}, scheduler.Decide)
		if placed.VMs != 0 {
			t.Error("its job got a second VM")
		}
		return err
	})
	w.waiting(1)
	w.observe(millrace.VMGone, v)
	w.must(gate.Commit(t.Context()))
	w.must(g.Wait())
	if !w.job(w.jobID(1)).RetryAt.After(w.now()) {
		t.Error("its job, which may have run, doesn't wait to be known")
	}
}
