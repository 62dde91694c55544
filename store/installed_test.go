package store_test

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// state is what is known of an installation: "deleted", "suspended", or its login.
func (w *world) state(id int64) string {
	w.t.Helper()
	i, _, err := w.st.KnownInstallation(w.t.Context(), id)
	w.must(err)
	switch {
	case i.OrgID == 0:
		return "unknown"
	case !i.DeletedAt.IsZero():
		return "deleted"
	case !i.SuspendedAt.IsZero():
		return "suspended"
	}
	return i.OwnerLogin
}

// Answers of GitHub's come late and twice: what was asked last is what is known.
func TestAnswersInAnyOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	is := w.Installation
	is.OrgID = 0
	suspended, renamed, again := is, is, is
	suspended.SuspendedAt, renamed.OwnerLogin, again.ID, again.OwnerLogin = w.now(), "serene", is.ID+7000, "serene"
	begin := w.now()
	at := func(minute int) time.Time { return begin.Add(time.Duration(minute) * time.Minute) }
	answers := []func() error{
		func() error { return w.st.SaveInstallation(t.Context(), suspended, at(1)) },
		func() error { return w.st.SaveInstallation(t.Context(), renamed, at(2)) },
		func() error { return w.st.InstallationGone(t.Context(), is.ID, at(3)) },
		func() error { return w.st.SaveInstallation(t.Context(), again, at(4)) },
		func() error { return w.st.InstallationGone(t.Context(), is.ID, at(5)) },
	}
	w.advance(time.Hour)
	for _, order := range [][]int{{0}, {1, 0, 1}, {2, 0, 1, 2}, {3, 2, 1, 0, 3, 3}, {0, 4, 3, 1, 2}, {4, 0, 1, 2, 3}} {
		last := 0
		for _, n := range order {
			w.must(answers[n]())
			last = max(last, n)
		}
		want := []string{"suspended", "serene", "deleted", "deleted", "deleted"}[last]
		if got := w.state(is.ID); got != want {
			t.Errorf("after %v: %s, want %s", order, got, want)
		}
	}
	w.want("the new one", w.state(again.ID), "serene")
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action IN ('installation.reinstalled', 'installation.suspended', 'installation.renamed')`); n != 3 {
		t.Errorf("%d audit entries", n)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM incidents WHERE closed_at IS NULL`); n != 0 {
		t.Errorf("%d incidents", n)
	}
	// It may be that one that was thought gone is there.
	w.must(w.st.InstallationGone(t.Context(), again.ID, at(10)))
	w.want("gone", w.state(again.ID), "deleted")
	w.must(w.st.SaveInstallation(t.Context(), again, at(11)))
	w.want("back", w.state(again.ID), "serene")
	// Another account's id is never that one's, and what is nobody's stays so.
	theft := again
	theft.OwnerID = 99
	w.must(w.st.SaveInstallation(t.Context(), theft, at(12)))
	w.must(w.st.SaveInstallation(t.Context(), account(9), at(12)))
	w.want("nobody's", w.state(account(9).ID), "unknown")
	if n := scalar[int](t, w.root, `SELECT count(*) FROM installations WHERE owner_id = 99`); n != 0 {
		t.Error("it changed its account")
	}
}

// However many are told of a new installation at once, it takes the place of the one before, once.
func TestReinstallAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	again := w.Installation
	again.ID += 7000
	lisa := w.person("lisa", 71, shows(w.Installation, false))
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			var err error
			switch n % 5 {
			case 0:
				err = w.st.InstallationGone(t.Context(), w.Installation.ID, w.now())
			case 1:
				d := storetest.Delivery(w.Tenant, int64(n+100), millrace.JobQueued)
				_, err = w.st.Intake(t.Context(), d)
			case 2:
				_, err = w.st.Intake(t.Context(), millrace.Delivery{GUID: strconv.Itoa(n), InstallationID: again.ID, Body: []byte(`{}`), Installation: &millrace.InstallationEvent{
					InstallationID: again.ID, OwnerID: again.OwnerID, Changed: millrace.InstallationState,
				}})
			default:
				err = w.st.SaveInstallation(t.Context(), again, w.now())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.want("the one before", w.state(w.Installation.ID), "deleted")
	w.want("the new one", w.state(again.ID), "calm")
	w.want("a member", w.orgsOf(lisa.ID), "calm member")
	// A delivery that was being taken in may have put its repository back; the list that is due says whose it is.
	w.must(w.st.SaveRepositories(t.Context(), again.ID, []millrace.Repository{{ID: 77, FullName: "calm/app", Private: true}}))
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs WHERE installation_id <> $1`, again.ID); n != 0 {
		t.Errorf("%d jobs are the former installation's", n)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'installation.reinstalled'`); n != 1 {
		t.Errorf("it came back %d times", n)
	}
}

// Sign-ins, lists of members and the installation's coming and going at once neither fail nor leave somebody in who is out.
func TestPeopleAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lisa := w.person("lisa", 71, shows(w.Installation, false))
	tom := w.person("tom", 72, shows(w.Installation, true))
	asked := w.now()
	w.advance(time.Second)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			var err error
			switch n % 4 {
			case 0:
				_, err = w.st.SignInPerson(t.Context(), millrace.GitHubPerson{User: millrace.User{GitHubID: 71, Login: "lisa"}}, millrace.Device{})
			case 1:
				err = w.st.SaveMembers(t.Context(), w.Installation.ID, []millrace.GitHubMember{{GitHubID: 71}, {GitHubID: 72, Admin: true}, {GitHubID: 73}}, asked)
			case 2:
				err = w.st.SaveMembers(t.Context(), w.Installation.ID, []millrace.GitHubMember{{GitHubID: 72}}, w.now())
			case 3:
				err = w.st.SaveInstallation(t.Context(), w.Installation, w.now())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.want("who left", w.orgsOf(lisa.ID), "")
	w.want("who was lowered", w.orgsOf(tom.ID), "calm member")
	if n := scalar[int](t, w.root, `SELECT count(*) FROM user_installations`); n != 1 {
		t.Errorf("%d are shown it", n)
	}
}

// Only when the last owner is out does an admin at GitHub take their place, and one at that.
func TestAnOrgHasAnOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := account(1)
	mona := w.person("mona", 73, shows(at, true))
	boss, chef := w.person("boss", 74, shows(at, true)), w.person("chef", 75, shows(at, true))
	org, err := w.st.FoundOrg(t.Context(), actor(mona), mona.ID, store.FoundOrg{InstallationID: at.ID, Slug: "mill"})
	w.must(err)
	w.want("another admin", w.orgsOf(boss.ID), "mill admin")
	w.must(w.st.SaveMembers(t.Context(), at.ID, []millrace.GitHubMember{{GitHubID: 74, Admin: true}, {GitHubID: 75, Admin: true}}, w.now()))
	w.want("the founder left", w.orgsOf(mona.ID), "")
	if n := scalar[int](t, w.root, `SELECT count(*) FROM memberships WHERE org_id = $1 AND role = 'owner'`, org.ID); n != 1 {
		t.Errorf("%d owners: %s, %s", n, w.orgsOf(boss.ID), w.orgsOf(chef.ID))
	}
}

// A list that is not as we know them is looked into, and only that.
func TestInstallationsToRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	brisk, mute, gone := storetest.MustCreateOrg(t, w.st, "brisk"), storetest.MustCreateOrg(t, w.st, "mute"), storetest.MustCreateOrg(t, w.st, "gone")
	list := []millrace.Installation{w.Installation, brisk.Installation, mute.Installation, account(1)}
	ids := func() []int64 {
		t.Helper()
		ids, err := w.st.InstallationsToRead(t.Context(), list)
		w.must(err)
		return ids
	}
	if got := ids(); !cmp.Equal(got, []int64{gone.Installation.ID}) {
		t.Errorf("missing: %v", got)
	}
	w.must(w.st.InstallationGone(t.Context(), gone.Installation.ID, w.now()))
	if got := ids(); len(got) != 0 {
		t.Errorf("as we know them: %v", got)
	}
	list[0].OwnerLogin, list[1].SuspendedAt = "other", w.now()
	again := gone.Installation
	again.ID += 7000
	list = append(list, again)
	if got := ids(); !cmp.Equal(got, []int64{w.Installation.ID, brisk.Installation.ID, again.ID}) {
		t.Errorf("renamed, suspended, installed again: %v", got)
	}
}

// Jobs of a repository that is another account's by now: what began here ends here, and nothing else is ours.
func TestPollOfTransferredRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	waiting, running := w.queue(1), w.queue(2)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress))
	w.advance(time.Minute)
	theirs := func(id int64, status millrace.JobStatus) millrace.JobEvent {
		e := *storetest.Delivery(w.Tenant, id, status, func(j *millrace.Job) { j.Repository = "brisk/app" }).Job
		e.OwnerID, e.OwnerLogin = w.Installation.OwnerID+1, "brisk"
		return e
	}
	poll := store.Poll{OrgID: w.ID, RepositoryID: 77, Target: millrace.RepositoryTarget{InstallationID: w.Installation.ID, FullName: "calm/app"}}
	polled, err := w.st.JoinPoll(t.Context(), poll, millrace.OpenJobs{Jobs: []millrace.JobEvent{theirs(1, millrace.JobQueued), theirs(2, millrace.JobInProgress), theirs(3, millrace.JobQueued)}})
	if err != nil || len(polled.Unseen) != 2 || polled.Missed != 0 {
		t.Fatalf("%+v, %v", polled, err)
	}
	for range 3 {
		w.must(w.st.JoinRead(t.Context(), poll, theirs(1, millrace.JobQueued)))
		w.must(w.st.JoinRead(t.Context(), poll, theirs(3, millrace.JobQueued)))
	}
	w.must(w.st.JoinRead(t.Context(), poll, theirs(2, millrace.JobCompleted)))
	if j := w.job(running); j.Status != millrace.JobCompleted || j.Conclusion != "success" || j.Repository != "calm/app" {
		t.Errorf("the job that began here: %+v", j)
	}
	w.advance(16 * time.Minute)
	if n, err := w.st.GiveUpJobs(t.Context()); n != 1 || err != nil || w.job(waiting).Conclusion != millrace.ConclusionStale {
		t.Errorf("given up: %d, %v; %+v", n, err, w.job(waiting))
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs`); n != 2 {
		t.Errorf("%d jobs", n)
	}
	if names, err := w.org.Repositories(t.Context()); err != nil || !cmp.Equal(names, []string{"calm/app"}) {
		t.Errorf("repositories %v, %v", names, err)
	}
}

// What runs when the App is taken away is given up a day later: nobody can tell how it ends.
func TestJobsOfDeletedInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobInProgress))
	w.must(w.st.InstallationGone(t.Context(), w.Installation.ID, w.now()))
	w.advance(24 * time.Hour)
	if n, err := w.st.GiveUpJobs(t.Context()); n != 0 || err != nil {
		t.Errorf("within a day: %d, %v", n, err)
	}
	w.advance(2 * time.Hour)
	if n, err := w.st.GiveUpJobs(t.Context()); n != 1 || err != nil || w.job(job).Conclusion != millrace.ConclusionStale {
		t.Errorf("%d, %v; %+v", n, err, w.job(job))
	}
}

// What tells of an installation is durable: the delivery, and the task that reads what is true.
func TestIntakeOfInstallationEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, nil))
	if _, err := w.st.BeginPolls(t.Context(), 10); err != nil { // it is listed now
		t.Fatal(err)
	}
	intake := func(e millrace.InstallationEvent) store.IntakeResult {
		t.Helper()
		result, err := w.st.Intake(t.Context(), millrace.Delivery{GUID: "x", Event: "installation", InstallationID: e.InstallationID, Body: []byte(`{}`), Installation: &e})
		w.must(err)
		return result
	}
	for _, tc := range []struct {
		event millrace.InstallationEvent
		want  store.IntakeResult
		tasks []string
	}{
		{millrace.InstallationEvent{InstallationID: 4711, OwnerID: 4712, Changed: millrace.InstallationState}, store.IntakeUnknownInstallation, nil},
		{millrace.InstallationEvent{InstallationID: 4711, Changed: millrace.InstallationPeople}, store.IntakeUnknownInstallation, nil},
		{millrace.InstallationEvent{InstallationID: w.Installation.ID, Changed: millrace.InstallationRepositories}, store.IntakeStored, nil},
		{millrace.InstallationEvent{InstallationID: w.Installation.ID, Changed: millrace.InstallationState}, store.IntakeStored, []string{"installation.read"}},
		{millrace.InstallationEvent{InstallationID: w.Installation.ID, Changed: millrace.InstallationPeople, PersonID: 3}, store.IntakeStored, []string{"members.read"}},
		{millrace.InstallationEvent{InstallationID: 4711, OwnerID: w.Installation.OwnerID, Changed: millrace.InstallationState}, store.IntakeStored, []string{"installation.read"}},
	} {
		_, err := w.root.Exec(t.Context(), `DELETE FROM outbox`)
		w.must(err)
		if got := intake(tc.event); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.event, got, tc.want)
		}
		if got := w.tasks(); len(got) != 0 && !cmp.Equal(got[:1], tc.tasks) || len(got) == 0 && len(tc.tasks) != 0 {
			t.Errorf("%+v: tasks %v, want %v", tc.event, got, tc.tasks)
		}
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM deliveries`); n != 4 {
		t.Errorf("%d deliveries", n)
	}
	round, err := w.st.BeginPolls(t.Context(), 10)
	if err != nil || !cmp.Equal(round.Unlisted, []int64{w.Installation.ID}) {
		t.Errorf("to be listed: %v, %v", round.Unlisted, err)
	}
}

// A repository that GitHub lists no more is not polled, and is again when it is listed or heard of.
func TestUnlistedRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app := millrace.Repository{ID: 77, FullName: "calm/app", Private: true}
	due := func() int {
		t.Helper()
		w.advance(20 * time.Minute)
		round, err := w.st.BeginPolls(t.Context(), 10)
		w.must(err)
		return len(round.Due)
	}
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, []millrace.Repository{app}))
	if due() != 1 {
		t.Error("it is not polled")
	}
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, nil))
	if due() != 0 {
		t.Error("it is polled though it is not listed")
	}
	w.queue(1)
	if due() != 1 {
		t.Error("it is not polled though it has a job")
	}
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, nil))
	if due() != 1 {
		t.Error("its open job is not asked for")
	}
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobCompleted)) // which is to be heard of
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, nil))
	if due() != 0 {
		t.Error("it is polled though its job is over")
	}
	w.must(w.st.SaveRepositories(t.Context(), w.Installation.ID, []millrace.Repository{app}))
	if due() != 1 {
		t.Error("it is not polled though it is listed")
	}
}

// A poll and a delivery that both have a repository's new name don't wait for each other.
func TestRenamedWhilePolled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	renamed := func(j *millrace.Job) { j.Repository = "calm/renamed" }
	jobs := w.hold(`SELECT FROM jobs FOR UPDATE`)
	var g errgroup.Group
	g.Go(func() error {
		poll := store.Poll{OrgID: w.ID, RepositoryID: 77, Target: millrace.RepositoryTarget{InstallationID: w.Installation.ID, FullName: "calm/app"}}
		_, err := w.st.JoinPoll(t.Context(), poll, millrace.OpenJobs{Jobs: []millrace.JobEvent{*storetest.Delivery(w.Tenant, 1, millrace.JobQueued, renamed).Job}})
		return err
	})
	w.waiting(1)
	g.Go(func() error {
		_, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, 1, millrace.JobCompleted, renamed))
		return err
	})
	w.waiting(2)
	w.must(jobs.Commit(t.Context()))
	w.must(g.Wait())
}

// An installation that came anew is linked by a person and read by a task, both after a pass: neither waits for the other.
func TestLinkedWhileRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lisa := w.person("lisa", 71, shows(w.Installation, true))
	again := w.Installation
	again.ID += 7000
	w.advance(time.Second)
	w.person("lisa", 71, shows(again, true)) // signs in anew
	caller := w.Caller()
	caller.UserID = lisa.ID
	pass := w.hold(`SELECT pg_advisory_xact_lock(1, $1::bigint::integer)`, w.ID)
	var g errgroup.Group
	g.Go(func() error { return w.org.LinkInstallation(t.Context(), caller, again.ID) })
	w.waiting(1)
	g.Go(func() error { return w.st.SaveInstallation(t.Context(), again, w.now()) })
	w.waiting(2)
	w.must(pass.Commit(t.Context()))
	w.must(g.Wait())
}
