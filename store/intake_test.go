package store_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// drawEvent is something that GitHub may say of a job: a status with the facts that come with it, which differ between two
// events only where GitHub's do.
func drawEvent(t *rapid.T) func(*millrace.Job) {
	status := rapid.SampledFrom(millrace.JobStatuses).Draw(t, "status")
	repository := rapid.SampledFrom([]string{"calm/app", "calm/renamed"}).Draw(t, "repository")
	actor := rapid.Int64Range(1, 3).Draw(t, "actor")
	runner := rapid.SampledFrom([]int64{0, 4711}).Draw(t, "runner")
	seconds := time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second
	return func(j *millrace.Job) {
		at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
		j.Status, j.Repository, j.ActorID, j.Actor = status, repository, actor, fmt.Sprintf("user-%d", actor)
		j.QueuedAt = at.Add(seconds)
		if status == millrace.JobInProgress || status == millrace.JobCompleted {
			j.RunnerID, j.StartedAt = runner, at.Add(10*time.Second+seconds)
			if runner != 0 {
				j.RunnerName = "millrace-1"
			}
		}
		if status == millrace.JobCompleted {
			j.CompletedAt, j.Conclusion = at.Add(time.Minute+seconds), rapid.SampledFrom([]string{"success", "cancelled"}).Draw(t, "conclusion")
		}
	}
}

// A job's row is the join of its events: neither their order nor their number matters.
func TestIntakeIsAJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var github int64
	row := func() string {
		return scalar[string](t, w.root, `
			SELECT (to_jsonb(j) - ARRAY['job_id', 'github_job_id', 'run_id', 'received_at'])::text FROM jobs j WHERE github_job_id = $1`, github)
	}
	rapid.Check(t, func(rt *rapid.T) {
		events := make([]func(*millrace.Job), rapid.IntRange(1, 5).Draw(rt, "events"))
		for i := range events {
			// What is drawn inside an event must be the same each time that it is delivered.
			change := drawEvent(rt)
			var job millrace.Job
			change(&job)
			events[i] = func(j *millrace.Job) {
				j.Status, j.Repository, j.ActorID, j.Actor, j.RunnerID, j.RunnerName = job.Status, job.Repository, job.ActorID, job.Actor, job.RunnerID, job.RunnerName
				j.QueuedAt, j.StartedAt, j.CompletedAt, j.Conclusion = job.QueuedAt, job.StartedAt, job.CompletedAt, job.Conclusion
			}
		}
		github++
		for _, e := range events {
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, github, millrace.JobQueued, e))
		}
		want := row()
		github++
		var reached millrace.JobStatus
		again := rapid.SliceOfN(rapid.SampledFrom(events), 0, 3).Draw(rt, "again")
		for _, e := range rapid.Permutation(slices.Concat(events, again)).Draw(rt, "order") {
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, github, millrace.JobQueued, e))
			status := millrace.JobStatus(scalar[string](t, w.root, `SELECT status::text FROM jobs WHERE github_job_id = $1`, github))
			if slices.Index(millrace.JobStatuses, status) < slices.Index(millrace.JobStatuses, reached) {
				rt.Fatalf("the job went back from %s to %s", reached, status)
			}
			reached = status
		}
		if diff := cmp.Diff(want, row()); diff != "" {
			rt.Fatalf("the order of the events matters:\n%s", diff)
		}
	})
}

func TestRerunIsAnotherJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobQueued, func(j *millrace.Job) { j.RunAttempt = 2 }))
	got := column[string](t, w.root, `SELECT run_attempt || ' ' || status FROM jobs WHERE github_job_id = 1 ORDER BY run_attempt`)
	if diff := cmp.Diff([]string{"1 completed", "2 queued"}, got); diff != "" {
		t.Error(diff)
	}
}

// Deliveries that come at the same time share commits; each is durable when its own answer comes, and none waits for a
// deadlock between two commits that lock the same rows in another order.
func TestConcurrentIntake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const jobs, repositories = 200, 7
	for round, status := range []millrace.JobStatus{millrace.JobQueued, millrace.JobInProgress} {
		var wg sync.WaitGroup
		for i := range int64(jobs) {
			for range 2 { // GitHub may deliver twice
				wg.Go(func() {
					d := storetest.Delivery(w.Tenant, i+1, status, func(j *millrace.Job) {
						j.RepositoryID = i%repositories + 1
						j.Repository = fmt.Sprintf("calm/app-%d-%d", i%repositories, i%2) // each renames it
					})
					if result, err := w.st.Intake(t.Context(), d); err != nil || result != store.IntakeStored {
						t.Errorf("job %d: %s, %v", i, result, err)
					}
				})
			}
		}
		wg.Wait()
		if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs WHERE status = $1::text::job_status`, status); n != jobs {
			t.Errorf("%d jobs are %s, want %d", n, status, jobs)
		}
		if n, want := scalar[int](t, w.root, `SELECT count(*) FROM deliveries`), (round+1)*2*jobs; n != want {
			t.Errorf("%d deliveries, want %d", n, want)
		}
	}
	w.noDeadlocks()
}

// noDeadlocks closes the store, for its sessions' statistics are there at the latest when they end. A commit of several deliveries
// that a deadlock ended is made again, one by one: nothing else tells of it.
func (w *world) noDeadlocks() {
	w.t.Helper()
	w.st.Close()
	if n := scalar[int64](w.t, w.root, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		w.t.Errorf("%d deadlocks", n)
	}
}

// A commit that has the new name of a repository further down doesn't hold its jobs against another that has it first.
func TestRenamedFurtherDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	w.queue(2)
	deliver := func(job int64, status millrace.JobStatus, name string) millrace.Delivery {
		return storetest.Delivery(w.Tenant, job, status, func(j *millrace.Job) { j.Repository = name })
	}
	second := w.hold(`SELECT FROM jobs WHERE github_job_id = 2 FOR UPDATE`)
	var g errgroup.Group
	g.Go(func() error {
		return w.st.IntakeTogether(t.Context(), deliver(1, millrace.JobInProgress, "calm/app"), deliver(2, millrace.JobInProgress, "calm/app"), deliver(3, millrace.JobQueued, "calm/renamed"))
	})
	w.waiting(1)
	g.Go(func() error {
		return w.st.IntakeTogether(t.Context(), deliver(1, millrace.JobCompleted, "calm/renamed"))
	})
	w.waiting(2)
	w.must(second.Commit(t.Context()))
	w.must(g.Wait())
	want := []string{"1 completed", "2 in_progress", "3 queued"}
	if diff := cmp.Diff(want, column[string](t, w.root, `SELECT github_job_id || ' ' || status FROM jobs ORDER BY github_job_id`)); diff != "" {
		t.Error(diff)
	}
	if name := scalar[string](t, w.root, `SELECT full_name FROM repositories`); name != "calm/renamed" {
		t.Errorf("the repository is called %s", name)
	}
	w.noDeadlocks()
}

// Two that take in jobs of a repository, and both have a new name for it, don't wait for each other.
func TestRenamedWhileShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	w.queue(2)
	jobs := w.hold(`SELECT FROM jobs FOR UPDATE`)
	poll := store.Poll{OrgID: w.ID, RepositoryID: 77, Target: millrace.RepositoryTarget{InstallationID: w.Installation.ID, FullName: "calm/app"}}
	var g errgroup.Group
	for i := range int64(2) {
		g.Go(func() error {
			_, err := w.st.JoinPoll(t.Context(), poll, millrace.OpenJobs{Jobs: []millrace.JobEvent{
				*storetest.Delivery(w.Tenant, i+1, millrace.JobInProgress).Job,
				*storetest.Delivery(w.Tenant, i+11, millrace.JobQueued, func(j *millrace.Job) { j.Repository = "calm/renamed" }).Job,
			}})
			return err
		})
	}
	w.waiting(2)
	w.must(jobs.Commit(t.Context()))
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs`); n != 4 {
		t.Errorf("%d jobs", n)
	}
}

// Whoever writes several repositories, and who takes in jobs of theirs under new names, don't wait for each other.
func TestWrittenWhileRenamed(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*world) error{
		"listed": func(w *world) error {
			return w.st.SaveRepositories(t.Context(), w.Installation.ID, []millrace.Repository{{ID: 2, FullName: "calm/listed-2"}, {ID: 3, FullName: "calm/listed-3"}})
		},
		"given shares": func(w *world) error {
			var change millrace.PlacementChange
			for _, id := range []int64{2, 3, 1} {
				change.Shares = append(change.Shares, millrace.ShareChange{RepositoryID: id, Priority: new(1)})
			}
			_, err := w.org.ChangePlacement(t.Context(), w.Caller(), change)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			deliver := func(repository int64, name string) millrace.Delivery {
				return storetest.Delivery(w.Tenant, repository, millrace.JobQueued, func(j *millrace.Job) { j.RepositoryID, j.Repository = repository, name })
			}
			for id := range int64(3) {
				storetest.MustIntake(t, w.st, deliver(id+1, "calm/app"))
			}
			third := w.hold(`SELECT FROM repositories WHERE repository_id = 3 FOR UPDATE`)
			var g errgroup.Group
			g.Go(func() error { return write(w) })
			w.waiting(1)
			g.Go(func() error {
				return w.st.IntakeTogether(t.Context(), deliver(1, "calm/renamed-1"), deliver(2, "calm/renamed-2"))
			})
			w.waiting(2)
			w.must(third.Commit(t.Context()))
			w.must(g.Wait())
			if names := column[string](t, w.root, `SELECT full_name FROM repositories WHERE repository_id < 3 ORDER BY repository_id`); !slices.Equal(names, []string{"calm/renamed-1", "calm/renamed-2"}) {
				t.Errorf("the repositories are called %q", names)
			}
			w.noDeadlocks()
		})
	}
}

// A job that is being taken in while its repository moves to another installation is of the same one in the end, whichever is first.
func TestMovedWhileShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	const other = 4242
	_, err := w.root.Exec(t.Context(), `
		INSERT INTO installations (org_id, installation_id, owner_id, owner_login, owner_type, jit_left, jit_at, created_at)
		SELECT org_id, $1, owner_id + 1, 'brisk', owner_type, jit_left, jit_at, created_at FROM installations`, other)
	w.must(err)
	take := func(job, installation int64) func() error {
		d := storetest.Delivery(w.Tenant, job, millrace.JobQueued)
		d.InstallationID = installation
		return func() error {
			_, err := w.st.Intake(t.Context(), d)
			return err
		}
	}
	move := func(installation int64) func() error {
		return func() error {
			return w.st.SaveRepositories(t.Context(), installation, []millrace.Repository{{ID: 77, FullName: "calm/app", Private: true}})
		}
	}
	apart := func() {
		t.Helper()
		const apart = `SELECT count(*) FROM jobs j JOIN repositories r USING (org_id, repository_id) WHERE j.installation_id <> r.installation_id`
		if n := scalar[int](t, w.root, apart); n != 0 {
			t.Errorf("%d jobs are of another installation than their repository", n)
		}
	}
	for _, both := range [][2]func() error{
		{take(2, w.Installation.ID), move(other)},
		{move(w.Installation.ID), take(3, other)},
		{take(4, other), take(5, w.Installation.ID)},
	} {
		jobs := w.hold(`LOCK TABLE jobs IN SHARE MODE`)
		var g errgroup.Group
		g.Go(both[0])
		w.waiting(1)
		g.Go(both[1])
		w.waiting(2)
		w.must(jobs.Commit(t.Context()))
		w.must(g.Wait())
		apart()
	}
	// And in one commit, that of what came last.
	for job, installation := range []int64{w.Installation.ID, other} {
		d := storetest.Delivery(w.Tenant, int64(job+6), millrace.JobQueued)
		known := storetest.Delivery(w.Tenant, 1, millrace.JobQueued)
		d.InstallationID, known.InstallationID = installation, w.Installation.ID+other-installation
		w.must(w.st.IntakeTogether(t.Context(), known, d))
		apart()
		if now := scalar[int64](t, w.root, `SELECT installation_id FROM repositories`); now != installation {
			t.Errorf("the repository is of installation %d, want %d", now, installation)
		}
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs`); n != 7 {
		t.Errorf("%d jobs", n)
	}
}

// One delivery that can't be stored doesn't take those that share its commit with it.
func TestOneBadDeliveryFailsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var wg sync.WaitGroup
	for i := range int64(50) {
		wg.Go(func() {
			bad := i%10 == 0
			_, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, i+1, millrace.JobQueued, func(j *millrace.Job) {
				if bad {
					j.Zone = "nowhere"
				}
			}))
			if bad == (err == nil) {
				t.Errorf("delivery %d, bad %t: %v", i, bad, err)
			}
		})
	}
	wg.Wait()
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs`); n != 45 {
		t.Errorf("%d jobs, want 45", n)
	}
}

func TestIntakeIgnores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := storetest.Delivery(w.Tenant, 1, millrace.JobQueued)
	stranger := good
	stranger.InstallationID = 99
	other := storetest.Delivery(w.Tenant, 1, millrace.JobQueued, func(j *millrace.Job) { j.Labels = []string{"self-hosted", "linux", "millracer"} })
	event := good
	event.Event, event.Job = "star", nil
	for name, c := range map[string]struct {
		d    millrace.Delivery
		want store.IntakeResult
	}{
		"unknown installation":  {stranger, store.IntakeUnknownInstallation},
		"labels that aren't us": {other, store.IntakeIgnored},
		"another event":         {event, store.IntakeIgnored},
	} {
		if got, err := w.st.Intake(t.Context(), c.d); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
	for _, table := range []string{"jobs", "deliveries", "repositories", "outbox"} {
		if n := scalar[int](t, w.root, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
}

// A label of ours that says nothing we understand is kept, so that the job can say why it never starts.
func TestUnparseableLabelIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobQueued, func(j *millrace.Job) { j.Labels = []string{"millrace-4cpu-lots"} }))
	job := w.job(w.jobID(1))
	if job.Wait.Code != millrace.WaitLabelUnparseable || !strings.Contains(job.Wait.Text, `"lots"`) {
		t.Errorf("waits because of %+v", job.Wait)
	}
	if job.Demand.Size != (millrace.Size{}) {
		t.Errorf("demand %+v", job.Demand)
	}
}

func TestIntakeAfterClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.st.Close()
	_, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, 1, millrace.JobQueued))
	code(t, err, millrace.Unavailable)
}

// Deliveries that nobody waits for share their commits.
func TestIntakeGathers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var g errgroup.Group
	const n = 40
	for i := range int64(n) {
		g.Go(func() error {
			_, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, 1+i, millrace.JobCompleted))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if stored := scalar[int](t, w.root, `SELECT count(*) FROM deliveries`); stored != n {
		t.Errorf("%d deliveries are stored", stored)
	}
	if commits := scalar[int](t, w.root, `SELECT count(DISTINCT xmin::text) FROM deliveries`); commits > n/4 {
		t.Errorf("%d deliveries took %d commits", n, commits)
	}
}

// Two deliveries may differ in when the job completed: the later time wins, and the job counts once.
func TestJobCompletedTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.now().Add(-time.Minute)
	for i, at := range []time.Time{first, first.Add(2 * time.Second), first.Add(time.Second), first} {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted, func(j *millrace.Job) {
			j.RunnerID, j.StartedAt, j.CompletedAt = 11, first.Add(-time.Minute), at
		}))
		usage, err := w.org.Usage(t.Context(), millrace.ByRepository, first.Add(-time.Hour), first.Add(time.Hour))
		if err != nil || len(usage) != 1 || usage[0].Jobs != 1 {
			t.Errorf("after delivery %d: %+v, %v", i+1, usage, err)
		}
	}
	if n := scalar[int64](t, w.root, `SELECT sum(run_ms)::bigint FROM job_facts`); n != 62_000 {
		t.Errorf("it ran for %d ms, want 62,000", n)
	}
}

// Intake and the placer write the same jobs at the same time, in the same order.
func TestIntakeWhilePlacing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const jobs = 120
	intake := func(wg *sync.WaitGroup) {
		for i := range int64(jobs) {
			wg.Go(func() {
				_, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, i+1, millrace.JobQueued, func(j *millrace.Job) {
					j.RepositoryID = i%5 + 1
					j.Repository = fmt.Sprintf("calm/app-%d", j.RepositoryID)
				}))
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	var first sync.WaitGroup
	intake(&first)
	first.Wait()
	for round := range 5 {
		var wg sync.WaitGroup
		intake(&wg)
		wg.Go(func() {
			_, err := w.st.Place(t.Context(), w.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
				d := millrace.Decision{Wait: map[millrace.JobID]millrace.WaitReason{}}
				for _, j := range p.Jobs {
					d.Wait[j.ID] = millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: fmt.Sprintf("round %d", round)}
				}
				return d
			})
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
	w.st.Close()
	if n := scalar[int64](t, w.root, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// A job that was held back, by its environment's protection for one, is placed at once when it isn't any more.
func TestReleasedJobIsAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobWaiting))
	demand := w.st.Bus.On(store.TopicDemand(w.ID))
	select {
	case <-demand:
		t.Error("it asks for a VM while it is held back")
	case <-time.After(50 * time.Millisecond):
	}
	w.queue(1)
	closed(t, demand, "that it waits for a VM")
}
