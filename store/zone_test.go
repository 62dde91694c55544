package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A repository that is made public, or turns out to be a fork's, between two events of a job: the job is in the less
// trusted zone, whichever event comes first.
func TestZoneIsTheLessTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := int64(0)
	zone := func(zones ...millrace.Zone) string {
		n++
		for _, z := range zones {
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, n, millrace.JobQueued, func(j *millrace.Job) { j.Zone, j.Private = z, z == millrace.ZonePrivate }))
		}
		return scalar[string](t, w.root, `SELECT zone || ' ' || private FROM jobs WHERE github_job_id = $1`, n)
	}
	const a, b, c = millrace.ZonePrivate, millrace.ZonePublic, millrace.ZoneFork
	got := []string{zone(a), zone(b), zone(c), zone(a, b), zone(b, a), zone(a, c), zone(c, a), zone(b, c), zone(c, b), zone(c, a, b)}
	want := []string{"private true", "public false", "fork false", "public false", "public false", "fork false", "fork false", "fork false", "fork false", "fork false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// allow allows zones, without any egress.
func (w *world) allow(zones ...millrace.Zone) {
	w.t.Helper()
	var changes []millrace.ZoneChange
	for _, z := range zones {
		changes = append(changes, millrace.ZoneChange{Zone: z, Allowed: new(true), Egress: new(millrace.EgressNone)})
	}
	if _, err := w.org.ChangePlacement(w.t.Context(), w.Caller(), millrace.PlacementChange{Zones: changes}); err != nil {
		w.t.Fatal(err)
	}
}

// in is a change of a job that puts it into a zone.
func in(z millrace.Zone, private bool) func(*millrace.Job) {
	return func(j *millrace.Job) { j.Zone, j.Private = z, private }
}

// A job that is refused waits for that, is read no more, and is placed when the setting changes. The statement that passes
// over refused jobs says what the rule says.
func TestRefusedJobs(t *testing.T) {
	t.Parallel()
	for _, allowed := range [][]millrace.Zone{nil, {millrace.ZonePublic}, {millrace.ZoneFork}, {millrace.ZonePublic, millrace.ZoneFork}} {
		w := newWorld(t)
		if _, err := w.root.Exec(t.Context(), `UPDATE hosts SET network = 'tap'`); err != nil { // without any egress they run nowhere else
			t.Fatal(err)
		}
		w.allow(allowed...)
		n := int64(0)
		for _, z := range millrace.Zones {
			for _, private := range []bool{true, false} {
				n++
				storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, n, millrace.JobQueued, in(z, private)))
			}
		}
		var refused, left int
		look := func(p millrace.Pass) millrace.Decision {
			refused, left = 0, len(p.Jobs)
			for _, j := range p.Jobs {
				if p.Settings.Refuses(j.Zone, j.Private) != "" {
					refused++
				}
			}
			d := scheduler.Decide(p)
			d.Place = nil
			return d
		}
		w.pass(look)
		first, all := refused, left
		w.pass(look)
		if all != int(n) || refused != 0 || left != all-first {
			t.Errorf("with %v allowed %d of %d jobs were refused, then %d of %d", allowed, first, all, refused, left)
		}
		w.allow(millrace.ZonePublic, millrace.ZoneFork)
		w.pass(look)
		if refused != 0 || left != int(n) {
			t.Errorf("with all allowed %d of %d are refused", refused, left)
		}
		w.pass(scheduler.Decide)
		if got := scalar[int](t, w.root, `SELECT count(*) FROM vms WHERE egress = CASE WHEN zone = 'private' THEN 'internet' ELSE 'none' END`); got != int(n) {
			t.Errorf("%d VMs with the egress of their zones, want %d", got, n)
		}
	}
}

// GitHub is asked about a run once, and what it says holds for all jobs of the run; jobs of other runs wait on.
func TestTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unknown := func(run int64) func(*millrace.Job) {
		return func(j *millrace.Job) { j.RunID, j.ZoneKnown = run, false }
	}
	for n, run := range []int64{500, 500, 600, 700} {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, int64(n+1), millrace.JobQueued, unknown(run)))
	}
	for range 2 {
		w.pass(scheduler.Decide)
	}
	tasks := column[string](t, w.root, `SELECT kind || ' ' || (args->>'run_id') FROM outbox ORDER BY 1`)
	if diff := cmp.Diff([]string{"run.trace 500", "run.trace 600", "run.trace 700"}, tasks); diff != "" {
		t.Errorf("tasks: %s", diff)
	}
	of := func(run int64) millrace.TraceRun {
		return millrace.TraceRun{OrgID: w.ID, InstallationID: w.Installation.ID, RunID: run}
	}
	at, ok, err := w.st.Untraced(t.Context(), of(500))
	if err != nil || !ok || at.FullName != "calm/app" {
		t.Errorf("at %+v, %v, %v", at, ok, err)
	}
	for run, fork := range map[int64]bool{500: true, 600: false} {
		if err := w.st.Traced(t.Context(), of(run), fork); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := w.st.Untraced(t.Context(), of(run)); ok || err != nil {
			t.Errorf("run %d is still to be asked about: %v", run, err)
		}
	}
	w.pass(scheduler.Decide)
	got := column[string](t, w.root, `SELECT zone || ' ' || wait_code FROM jobs ORDER BY github_job_id`)
	if diff := cmp.Diff([]string{"fork fork_pull_requests_off", "fork fork_pull_requests_off", "private booting", "private zone_unknown"}, got); diff != "" {
		t.Error(diff)
	}
	// A poll reads runs too.
	e := storetest.Delivery(w.Tenant, 4, millrace.JobQueued, unknown(700)).Job
	e.Job.Zone, e.Job.ZoneKnown = millrace.ZoneFork, true
	poll := store.Poll{OrgID: w.ID, RepositoryID: 77, Target: millrace.RepositoryTarget{InstallationID: w.Installation.ID, FullName: "calm/app"}}
	if polled, err := w.st.JoinPoll(t.Context(), poll, millrace.OpenJobs{Jobs: []millrace.JobEvent{*e}}); err != nil || polled.Missed != 0 {
		t.Errorf("%+v, %v", polled, err)
	}
	if zone := scalar[string](t, w.root, `SELECT zone || ' ' || zone_known FROM jobs WHERE github_job_id = 4`); zone != "fork true" {
		t.Errorf("after the poll it is %s", zone)
	}
}

// A job that is over before anybody heard of it is an incident all the same, once.
func TestStrayJobThatIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.register(vm, 50)
	w.observe(millrace.VMGone, vm)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobCompleted, in(millrace.ZonePublic, false), func(j *millrace.Job) { j.RunnerID = 50 }))
	for range 2 {
		w.pass(scheduler.Decide)
	}
	if got := column[string](t, w.root, `SELECT code || ': ' || detail FROM incidents`); len(got) != 1 || got[0] != `zone_mismatch: GitHub gave the job "test" of calm/app, which is one of public repositories, to a VM for private repositories.` {
		t.Errorf("incidents %q", got)
	}
	if state := w.vm(vm).State; state != millrace.VMGone {
		t.Errorf("the VM is %s", state)
	}
}

// GitHub gave a VM for private repositories a job of another zone: the VM is ended in the pass that hears of it, with an
// incident that stops nothing; the job that it was for gets another VM.
func TestStrayJobEndsItsVM(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"known when it began": false, "known later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			job := w.queue(1)
			vm := w.place(job)
			w.register(vm, 50)
			w.observe(millrace.VMOnline, vm)
			desired := scalar[int64](t, w.root, `SELECT desired_version FROM hosts`)
			change := []func(*millrace.Job){in(millrace.ZonePublic, false), func(j *millrace.Job) { j.RunnerID = 50 }}
			if late {
				change[0] = func(j *millrace.Job) { j.ZoneKnown = false }
			}
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, change...))
			w.pass(scheduler.Decide)
			if late {
				state := scalar[string](t, w.root, `SELECT state FROM vms WHERE runner_id = 50`)
				asked := scalar[int](t, w.root, `SELECT count(*) FROM outbox WHERE kind = 'run.trace'`)
				if state != "busy" || asked != 1 {
					t.Fatalf("before GitHub says it the VM is %s, asked about %d", state, asked)
				}
				if err := w.st.Traced(t.Context(), millrace.TraceRun{OrgID: w.ID, InstallationID: w.Installation.ID, RunID: 20}, true); err != nil {
					t.Fatal(err)
				}
				w.pass(scheduler.Decide)
			}
			state := scalar[string](t, w.root, `SELECT state || ': ' || reason FROM vms WHERE runner_id = 50`)
			zone := map[bool]string{false: "public repositories", true: "pull requests from forks"}[late]
			if want := `stopping: GitHub gave the job "test" of calm/app, which is one of ` + zone + `, to a VM for private repositories. The VM was ended.`; state != want {
				t.Errorf("the VM is %s", state)
			}
			if now := scalar[int64](t, w.root, `SELECT desired_version FROM hosts`); now <= desired {
				t.Error("its host is not told")
			}
			if n := scalar[int](t, w.root, `SELECT count(*) FROM vms WHERE for_job = $1::text::uuid AND state = 'pending'`, job.UUID()); n != 1 {
				t.Errorf("the job that it was for has %d VMs", n)
			}
			list, _, err := w.st.OpenIncidents(t.Context(), w.Installation.ID)
			if err != nil || len(list) != 1 || list[0].Code != millrace.WaitZoneMismatch || list[0].RepositoryID != 77 || list[0].Stops(w.Installation.ID, 77) {
				t.Errorf("incidents %+v, %v", list, err)
			}
		})
	}
}

// That a job comes from a fork becomes known while the VM that runs it is being tied to it: its VM is ended all the same.
func TestStrayThatIsTracedWhileTied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.place(w.queue(1))
	w.register(v, 11)
	w.observe(millrace.VMBusy, v)
	untraced := func(j *millrace.Job) { j.RunID, j.ZoneKnown, j.RunnerID = 222, false, 11 }
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, untraced))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted)) // no job waits that a pass would be for
	vms := w.hold(`SELECT FROM vms FOR UPDATE`)
	var g errgroup.Group
	g.Go(func() error {
		_, err := w.st.Place(t.Context(), w.ID, store.Unknown, nothing)
		return err
	})
	w.waiting(1)
	w.must(w.st.Traced(t.Context(), millrace.TraceRun{OrgID: w.ID, InstallationID: w.Installation.ID, RunID: 222}, true))
	w.must(vms.Commit(t.Context()))
	w.must(g.Wait())
	w.pass(nothing) // that it was traced asks for it
	if vm := w.vm(v); vm.RanJob != w.jobID(2) || vm.State != millrace.VMStopping {
		t.Errorf("it runs %s and is %s", vm.RanJob, vm.State)
	}
	if codes := column[string](t, w.root, `SELECT code FROM incidents`); !cmp.Equal(codes, []string{string(millrace.WaitZoneMismatch)}) {
		t.Errorf("incidents %v", codes)
	}
	w.pass(nothing)
	if n := scalar[int](t, w.root, `SELECT count(*) FROM incidents`); n != 1 {
		t.Errorf("%d incidents", n)
	}
}
