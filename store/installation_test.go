package store_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// shows is an installation as GitHub shows it to somebody.
func shows(i millrace.Installation, admin bool) millrace.PersonInstallation {
	return millrace.PersonInstallation{Installation: i, Member: true, Admin: admin}
}

// account is a GitHub organisation of which nobody here knows.
func account(n int64) millrace.Installation {
	return millrace.Installation{ID: 50_000 + n, OwnerID: 60_000 + n, OwnerLogin: fmt.Sprintf("Windmill-%d", n), OwnerType: millrace.Organization}
}

// person signs somebody in at GitHub, who shows them that.
func (w *world) person(login string, githubID int64, at ...millrace.PersonInstallation) millrace.User {
	w.t.Helper()
	secret, err := w.st.SignInPerson(w.t.Context(), millrace.GitHubPerson{User: millrace.User{GitHubID: githubID, Login: login}, Installations: at}, millrace.Device{})
	if err != nil {
		w.t.Fatal(err)
	}
	session, err := w.st.SessionUser(w.t.Context(), secret.Reveal())
	if err != nil {
		w.t.Fatal(err)
	}
	return session.User
}

// orgsOf are somebody's orgs and their roles there.
func (w *world) orgsOf(user millrace.UserID) string {
	w.t.Helper()
	orgs, err := w.st.Memberships(w.t.Context(), user)
	if err != nil {
		w.t.Fatal(err)
	}
	var list []string
	for _, m := range orgs {
		list = append(list, m.Slug+" "+string(m.Role))
	}
	return strings.Join(list, ", ")
}

func (w *world) want(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func actor(u millrace.User) millrace.Actor {
	return millrace.Actor{Kind: millrace.ActorUser, ID: u.ID.String(), Name: u.Login}
}

// Whoever is an installation's admin at GitHub makes an org of it, and its other members are in it at once.
func TestFoundOrg(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := account(1)
	lisa := w.person("lisa", 71, shows(at, false))
	boss := w.person("boss", 72, shows(at, true))
	mona := w.person("mona", 73, shows(at, true))
	guest := w.person("guest", 74, millrace.PersonInstallation{Installation: at})
	slug, err := w.st.SuggestSlug(t.Context(), at.OwnerLogin)
	if err != nil || slug != "windmill-1" {
		t.Fatal(slug, err)
	}
	org, err := w.st.FoundOrg(t.Context(), actor(mona), mona.ID, store.FoundOrg{InstallationID: at.ID, Slug: slug, Name: " Windmill "})
	if err != nil {
		t.Fatal(err)
	}
	want := millrace.Org{
		ID: org.ID, Slug: slug, Name: "Windmill", Plan: millrace.PlanTrial, Concurrency: 5, DefaultSize: millrace.Size{MilliCPU: 2000, MemoryMB: 4096}, CreatedAt: org.CreatedAt,
	}
	if diff := cmp.Diff(want, org); diff != "" {
		t.Error(diff)
	}
	w.want("the founder", w.orgsOf(mona.ID), "windmill-1 owner")
	w.want("another admin", w.orgsOf(boss.ID), "windmill-1 admin")
	w.want("a member", w.orgsOf(lisa.ID), "windmill-1 member")
	w.want("a collaborator", w.orgsOf(guest.ID), "")
	if got := column[string](t, w.root, `SELECT action FROM audit WHERE org_id = $1 AND actor_id = $2 ORDER BY action`, org.ID, mona.ID.String()); !cmp.Equal(got, []string{"installation.linked", "org.created"}) {
		t.Errorf("audit %v", got)
	}
	list, err := w.st.Org(org.ID).LinkedInstallations(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != at.ID || list[0].OrgID != org.ID || !list[0].DeletedAt.IsZero() {
		t.Errorf("installations %+v, %v", list, err)
	}
	if other, err := w.org.Installations(t.Context()); err != nil || len(other) != 1 || other[0].ID != w.Installation.ID {
		t.Errorf("another tenant's installations %+v, %v", other, err)
	}
	if again, err := w.st.SuggestSlug(t.Context(), "Windmill_1"); err != nil || again != "windmill-1-2" {
		t.Errorf("suggested %q, %v", again, err)
	}
	for login, want := range map[string]string{"": "org", "Ä--Ö": "org", strings.Repeat("a", 60): strings.Repeat("a", 35), "calm": "calm-2"} {
		if got, err := w.st.SuggestSlug(t.Context(), login); err != nil || got != want {
			t.Errorf("suggested %q, %v for %q, want %q", got, err, login, want)
		}
	}
}

// What GitHub shows somebody, and what became of it here.
func TestUserInstallations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	free, stranger := account(1), storetest.MustCreateOrg(t, w.st, "brisk")
	suspended := account(2)
	suspended.SuspendedAt = w.now()
	secret, err := w.st.SignInPerson(t.Context(), millrace.GitHubPerson{User: millrace.User{GitHubID: 71, Login: "lisa"}, Hidden: []string{"secretive"}, Installations: []millrace.PersonInstallation{
		shows(free, true), shows(w.Installation, false), {Installation: stranger.Installation}, shows(suspended, true),
	}}, millrace.Device{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := w.st.SessionUser(t.Context(), secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	list, hidden, read, err := w.st.UserInstallations(t.Context(), session.User.ID)
	want := []millrace.UserInstallation{
		{PersonInstallation: millrace.PersonInstallation{Installation: stranger.Installation}, SeenAt: w.now(), LinkedElsewhere: true},
		{PersonInstallation: shows(w.Installation, false), SeenAt: w.now(), Org: &millrace.Membership{OrgID: w.ID, Slug: "calm", Name: "calm", Role: millrace.RoleMember}},
		{PersonInstallation: shows(free, true), SeenAt: w.now()},
		{PersonInstallation: shows(suspended, true), SeenAt: w.now()},
	}
	want[0].OrgID = 0
	if diff := cmp.Diff(want, list); diff != "" || err != nil || !cmp.Equal(hidden, []string{"secretive"}) || !read.Equal(w.now()) {
		t.Errorf("%v, %v, %v\n%s", hidden, read, err, diff)
	}
}

// An installation's id proves nothing: what is refused changes nothing.
func TestProofOfInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	free, other, paused := account(1), account(2), account(3)
	paused.SuspendedAt = w.now()
	brisk := storetest.MustCreateOrg(t, w.st, "brisk")
	gone := storetest.MustCreateOrg(t, w.st, "gone")
	if err := w.st.InstallationGone(t.Context(), gone.Installation.ID, w.now()); err != nil {
		t.Fatal(err)
	}
	again := gone.Installation
	again.ID += 5000
	stale := w.person("stale", 72)
	w.advance(millrace.ProofLength + time.Second)
	lisa := w.person("lisa", 71, shows(other, true), shows(free, false), shows(brisk.Installation, true), shows(paused, true), shows(again, true))
	caller := func(u millrace.User, role millrace.Role) millrace.Caller {
		return millrace.Caller{Actor: actor(u), UserID: u.ID, Role: role}
	}
	tables := []string{"orgs", "installations", "memberships", "audit", "user_installations"}
	count := func() (n []int) {
		for _, table := range tables {
			n = append(n, scalar[int](t, w.root, `SELECT count(*) FROM `+table))
		}
		return n
	}
	before := count()
	for _, tc := range []struct {
		what string
		user millrace.User
		id   int64
		want millrace.Code
	}{
		{"no admin of it", lisa, free.ID, millrace.Forbidden},
		{"GitHub does not show it", lisa, 4711, millrace.Forbidden},
		{"another tenant's", lisa, brisk.Installation.ID, millrace.Conflict},
		{"suspended", lisa, paused.ID, millrace.Conflict},
		{"an account that comes back is its org's", lisa, again.ID, millrace.Conflict},
		{"zero", lisa, 0, millrace.Forbidden},
		{"negative", lisa, -1, millrace.Forbidden},
		{"not asked for long", stale, free.ID, millrace.Forbidden},
		{"nobody", millrace.User{}, other.ID, millrace.Forbidden},
	} {
		_, err := w.st.FoundOrg(t.Context(), actor(tc.user), tc.user.ID, store.FoundOrg{InstallationID: tc.id, Slug: "new", Name: "New"})
		if millrace.CodeOf(err) != tc.want || errors.Is(err, millrace.ErrAskGitHub) != (tc.user == stale) {
			t.Errorf("founding, %s: %v", tc.what, err)
		}
		if tc.user.Login == "" {
			continue
		}
		err = w.org.LinkInstallation(t.Context(), caller(tc.user, millrace.RoleAdmin), tc.id)
		if millrace.CodeOf(err) != tc.want || errors.Is(err, millrace.ErrAskGitHub) != (tc.user == stale) {
			t.Errorf("linking, %s: %v", tc.what, err)
		}
	}
	code(t, w.org.LinkInstallation(t.Context(), caller(lisa, millrace.RoleMember), other.ID), millrace.Forbidden)
	code(t, w.org.LinkInstallation(t.Context(), millrace.Caller{Role: millrace.RoleAdmin, Token: &millrace.APIToken{Scopes: millrace.Scopes()}}, other.ID), millrace.Forbidden)
	for slug, want := range map[string]millrace.Code{"calm": millrace.Conflict, "Calm": millrace.Invalid} {
		_, err := w.st.FoundOrg(t.Context(), actor(lisa), lisa.ID, store.FoundOrg{InstallationID: other.ID, Slug: slug, Name: "New"})
		code(t, err, want)
	}
	_, err := w.st.FoundOrg(t.Context(), actor(lisa), lisa.ID, store.FoundOrg{InstallationID: other.ID, Slug: "new", Name: "a\nb"})
	code(t, err, millrace.Unprocessable)
	if after := count(); !cmp.Equal(before, after) {
		t.Errorf("%v had %v rows and have %v", tables, before, after)
	}

	if err := w.org.LinkInstallation(t.Context(), caller(lisa, millrace.RoleAdmin), other.ID); err != nil {
		t.Fatal(err)
	}
	w.want("after it is linked", w.orgsOf(lisa.ID), "brisk admin, calm admin")
	if err := w.org.LinkInstallation(t.Context(), caller(lisa, millrace.RoleAdmin), other.ID); err != nil {
		t.Errorf("linked again: %v", err)
	}
	w.advance(millrace.ProofLength + time.Second)
	if err := w.org.LinkInstallation(t.Context(), caller(lisa, millrace.RoleAdmin), other.ID); !errors.Is(err, millrace.ErrAskGitHub) {
		t.Errorf("later: %v", err)
	}
	if got := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE org_id = $1 AND action = 'installation.linked'`, w.ID); got != 1 {
		t.Errorf("%d audit entries", got)
	}
}

// However many make an org of one account at the same time, there is one; and one of those who link it gets it.
func TestFoundOrgAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, further := account(1), account(2)
	people := make([]millrace.User, 20)
	for i := range people {
		people[i] = w.person(fmt.Sprintf("p%d", i), int64(100+i), shows(at, true), shows(further, true))
	}
	race := func(do func(i int) error) int64 {
		var all sync.WaitGroup
		var won atomic.Int64
		for i := range people {
			all.Go(func() {
				switch err := do(i); {
				case err == nil:
					won.Add(1)
				case millrace.CodeOf(err) != millrace.Conflict:
					t.Error(err)
				}
			})
		}
		all.Wait()
		return won.Load()
	}
	if n := race(func(i int) error {
		_, err := w.st.FoundOrg(t.Context(), actor(people[i]), people[i].ID, store.FoundOrg{InstallationID: at.ID, Slug: fmt.Sprintf("org-%d", i%10), Name: "x"})
		return err
	}); n != 1 {
		t.Errorf("%d made an org", n)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM orgs WHERE slug LIKE 'org-%'`); n != 1 {
		t.Errorf("%d orgs", n)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM memberships m JOIN installations i USING (org_id) WHERE i.installation_id = $1`, at.ID); n != len(people) {
		t.Errorf("%d members", n)
	}
	orgs := []storetest.Tenant{w.Tenant, storetest.MustCreateOrg(t, w.st, "brisk")}
	race(func(i int) error {
		u := people[i]
		return w.st.Org(orgs[i%2].ID).LinkInstallation(t.Context(), millrace.Caller{Actor: actor(u), UserID: u.ID, Role: millrace.RoleOwner}, further.ID)
	})
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'installation.linked' AND subject = $1`, strconv.FormatInt(further.ID, 10)); n != 1 {
		t.Errorf("it was linked %d times", n)
	}
}

func TestRename(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	member := w.Caller()
	member.Role = millrace.RoleMember
	code(t, w.org.Rename(t.Context(), member, "Other"), millrace.Forbidden)
	code(t, w.org.HideChecklist(t.Context(), member, true), millrace.Forbidden)
	for _, name := range []string{"", " ", "a\x00b", "a\u202eb", strings.Repeat("ä", 101)} {
		code(t, w.org.Rename(t.Context(), w.Caller(), name), millrace.Unprocessable)
	}
	for range 2 {
		if err := w.org.Rename(t.Context(), w.Caller(), " Cälm & Co. "); err != nil {
			t.Fatal(err)
		}
	}
	org, err := w.st.OrgBySlug(t.Context(), "calm")
	if err != nil || org.Name != "Cälm & Co." {
		t.Errorf("%+v, %v", org, err)
	}
	page, err := w.org.Audit(t.Context(), store.AuditFilter{Action: "org.renamed"})
	if err != nil || len(page.Entries) != 1 || !cmp.Equal(page.Entries[0].Changes, []millrace.Change{{Field: "name", Before: "calm", After: "Cälm & Co."}}) {
		t.Errorf("audit %+v, %v", page.Entries, err)
	}
}

func TestFirstSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	steps := func(org millrace.OrgID) millrace.FirstSteps {
		t.Helper()
		f, err := w.st.Org(org).FirstSteps(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	lisa := w.person("lisa", 71, shows(account(1), true))
	fresh, err := w.st.FoundOrg(t.Context(), actor(lisa), lisa.ID, store.FoundOrg{InstallationID: account(1).ID, Slug: "fresh"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(millrace.FirstSteps{Installations: 1, Some: []millrace.Repository{}}, steps(fresh.ID)); diff != "" {
		t.Error(diff)
	}
	token, _, err := w.st.Org(fresh.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	if got := steps(fresh.ID); got.Token == nil || got.Token.ID != token.ID || !got.TokenMade {
		t.Errorf("with a token: %+v", got)
	}

	first := w.queue(1)
	w.advance(time.Second)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobCompleted))
	if err := w.st.OpenIncident(t.Context(), w.Installation.ID, 0, "", millrace.Condition{Code: millrace.WaitSelfHostedDisabled}); err != nil {
		t.Fatal(err)
	}
	w.pass(func(p millrace.Pass) millrace.Decision {
		return millrace.Decision{Wait: map[millrace.JobID]millrace.WaitReason{first: {Code: millrace.WaitNoHost}}}
	})
	if err := w.org.HideChecklist(t.Context(), w.Caller(), true); err != nil {
		t.Fatal(err)
	}
	want := millrace.FirstSteps{
		Hidden: true, Installations: 1, Repositories: 1, Some: []millrace.Repository{{OrgID: w.ID, ID: 77, InstallationID: w.Installation.ID, FullName: "calm/app", Private: true}}, TokenMade: true, Hosts: 1, HostsOnline: 1,
		FirstJob:   &millrace.StepJob{ID: first, Status: millrace.JobQueued},
		FirstGreen: &millrace.StepJob{ID: w.jobID(2), Status: millrace.JobCompleted, Conclusion: "success"},
		Causes:     []millrace.WaitCode{millrace.WaitSelfHostedDisabled, millrace.WaitNoHost},
	}
	got := steps(w.ID)
	if got.FirstGreen.CompletedAt.IsZero() || got.HostSeenAt.IsZero() || got.HeardAt.IsZero() {
		t.Errorf("%+v", got)
	}
	got.HeardAt = time.Time{}
	got.FirstJob.QueuedAt, got.FirstGreen.QueuedAt, got.FirstGreen.CompletedAt, got.HostSeenAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	w.advance(time.Hour)
	if got := steps(w.ID); got.HostsOnline != 0 || got.Hosts != 1 {
		t.Errorf("an hour later: %+v", got)
	}
	if got := steps(fresh.ID); got.Token != nil || !got.TokenMade || got.Hosts != 0 || got.FirstJob != nil {
		t.Errorf("another tenant an hour later: %+v", got)
	}
}
