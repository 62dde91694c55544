package workers_test

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/workers"
)

// people are users by login.
type people map[string]millrace.User

// joins has people join calm at GitHub and sign in here.
func (h *hub) joins(roles map[string]string) people {
	h.t.Helper()
	users := people{}
	for _, login := range slices.Sorted(maps.Keys(roles)) {
		h.AddPerson(login)
		h.must(h.SetMember("calm", login, roles[login]))
		users[login] = h.signsIn(login, millrace.PersonInstallation{Installation: h.owner.Installation, Member: true, Admin: roles[login] == "admin"})
	}
	h.answer(http.StatusOK)
	h.relay()
	return users
}

// signsIn signs a person of GitHub's in, to whom it shows that.
func (h *hub) signsIn(login string, at ...millrace.PersonInstallation) millrace.User {
	h.t.Helper()
	p := h.AddPerson(login)
	secret, err := h.st.SignInPerson(h.t.Context(), millrace.GitHubPerson{User: millrace.User{GitHubID: p.ID, Login: p.Login}, Installations: at}, millrace.Device{})
	h.must(err)
	session, err := h.st.SessionUser(h.t.Context(), secret.Reveal())
	h.must(err)
	return session.User
}

// wantOrgs wants somebody to be that, in all their orgs.
func (h *hub) wantOrgs(when string, user millrace.User, want string) {
	h.t.Helper()
	orgs, err := h.st.Memberships(h.t.Context(), user.ID)
	h.must(err)
	var list []string
	for _, m := range orgs {
		list = append(list, m.Slug+" "+string(m.Role))
	}
	if got := strings.Join(list, ", "); got != want {
		h.t.Errorf("%s: %s is %q, want %q", when, user.Login, got, want)
	}
}

// hears takes in all deliveries and does what follows, until nothing does.
func (h *hub) hears() {
	h.t.Helper()
	for h.answer(http.StatusOK)+len(h.relay()) > 0 {
	}
}

// installations are the org's by login, each with its state.
func (h *hub) installations() (list []string) {
	h.t.Helper()
	all, err := h.org.LinkedInstallations(h.t.Context())
	h.must(err)
	for _, i := range all {
		state := " live"
		switch {
		case !i.DeletedAt.IsZero():
			state = " deleted"
		case !i.SuspendedAt.IsZero():
			state = " suspended"
		}
		list = append(list, i.OwnerLogin+state)
	}
	return list
}

func (h *hub) wantInstallations(when string, want ...string) {
	h.t.Helper()
	if got := h.installations(); !cmp.Equal(got, want) {
		h.t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// G8: whoever is taken out of an organisation at GitHub is out here with the webhook, and within five minutes without it.
func TestMembersFollowGitHub(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		learn func(h *hub)
	}{
		{"by webhook", (*hub).hears},
		{"without it", func(h *hub) { h.sent = nil; h.do(millrace.SweepMembers{}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			users := h.joins(map[string]string{"lisa": "member", "boss": "admin", "tom": "member"})
			guest := h.signsIn("guest", millrace.PersonInstallation{Installation: h.owner.Installation})
			h.wantOrgs("at first", users["lisa"], "calm member")
			h.silence(time.Second)
			h.must(h.RemoveMember("calm", "lisa"))
			tc.learn(h)
			h.wantOrgs("removed", users["lisa"], "")
			h.wantOrgs("others stay", users["tom"], "calm member")
			h.wantOrgs("others stay", users["boss"], "calm admin")
			if _, hidden, _, err := h.st.UserInstallations(t.Context(), guest.ID); err != nil || len(hidden) != 0 {
				t.Error(hidden, err)
			}
			if list, _, _, err := h.st.UserInstallations(t.Context(), guest.ID); err != nil || len(list) != 1 {
				t.Errorf("a collaborator sees %v, %v", list, err)
			}
			// A change of roles is told by no webhook.
			h.must(h.SetMember("calm", "tom", "admin"))
			h.do(millrace.SweepMembers{})
			h.wantOrgs("raised", users["tom"], "calm admin")
			// Whoever is back is in once they sign in: a list of members brings in nobody.
			h.must(h.SetMember("calm", "lisa", "member"))
			h.hears()
			h.do(millrace.SweepMembers{})
			h.wantOrgs("back", users["lisa"], "")
		})
	}
}

func TestSweepMembers(t *testing.T) {
	t.Parallel()
	asked := func(h *hub, since time.Time) int { return len(h.calls(since, "/orgs/calm/members?role=all")) }
	t.Run("the schedule keeps to five minutes", func(t *testing.T) {
		t.Parallel()
		i := slices.IndexFunc(workersSchedule(), func(s scheduled) bool { return s.kind == millrace.SweepMembers{}.Kind() })
		if i < 0 || workersSchedule()[i].every > 4*time.Minute {
			t.Error("members are not swept within five minutes")
		}
	})
	t.Run("what has not changed is free", func(t *testing.T) {
		t.Parallel()
		h := newHub(t)
		h.joins(map[string]string{"lisa": "member"})
		h.do(millrace.SweepMembers{})
		h.silence(4 * time.Minute)
		since := h.now()
		h.do(millrace.SweepMembers{})
		calls := h.calls(since, "/orgs/calm/members")
		if len(calls) != 2 {
			t.Errorf("calls %+v", calls)
		}
		for _, c := range calls {
			if c.Status != http.StatusNotModified {
				t.Errorf("%s %s: %d", c.Method, c.Path, c.Status)
			}
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		t.Parallel()
		h := newHub(t)
		h.do(millrace.SweepMembers{})
		h.joins(map[string]string{"lisa": "member"})
		h.silence(millrace.SessionIdle + time.Minute)
		since := h.now()
		h.do(millrace.SweepMembers{})
		if n := asked(h, since); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("somebody has a token", func(t *testing.T) {
		t.Parallel()
		h := newHub(t)
		lisa := h.joins(map[string]string{"lisa": "member"})["lisa"]
		_, token, err := h.org.CreateAPIToken(t.Context(), millrace.Caller{Actor: asUser(lisa), UserID: lisa.ID, Role: millrace.RoleMember}, millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.JobsRead}})
		h.must(err)
		h.silence(millrace.SessionIdle + time.Minute)
		since := h.now()
		h.must(h.RemoveMember("calm", "lisa"))
		h.sent = nil
		h.do(millrace.SweepMembers{})
		if asked(h, since) != 1 {
			t.Error("not asked")
		}
		h.wantOrgs("removed", lisa, "")
		_, err = h.st.TokenAuth(t.Context(), token.Reveal(), millrace.Device{})
		code(t, err, millrace.Unauthenticated)
	})
	t.Run("a personal account has no members", func(t *testing.T) {
		t.Parallel()
		h := newHubOf(t, millrace.Personal)
		calm := h.signsIn("calm", millrace.PersonInstallation{Installation: h.owner.Installation, Member: true, Admin: true})
		h.do(millrace.SweepMembers{}, millrace.ReadMembers{InstallationID: h.owner.ID})
		h.wantOrgs("as before", calm, "calm admin")
		if calls := h.calls(time.Time{}, "members"); len(calls) != 0 {
			t.Errorf("asked: %+v", calls)
		}
	})
	t.Run("GitHub is away", func(t *testing.T) {
		t.Parallel()
		h := newHub(t)
		users := h.joins(map[string]string{"lisa": "member"})
		h.cut = true
		if err := h.work.Do(t.Context(), millrace.SweepMembers{}); millrace.CodeOf(err) != millrace.Unavailable {
			t.Error(err)
		}
		h.wantOrgs("as before", users["lisa"], "calm member")
	})
	t.Run("GitHub does not say", func(t *testing.T) {
		t.Parallel()
		h := newHub(t)
		users := h.joins(map[string]string{"lisa": "member"})
		for _, f := range []githubtest.Faults{{Suspended: []string{"*"}}, {IPAllowList: []string{"*"}}} {
			h.faults(f)
			h.do(millrace.SweepMembers{}, millrace.ReadMembers{InstallationID: h.owner.ID})
			h.wantOrgs("as before", users["lisa"], "calm member")
		}
	})
}

// G9: an organisation that hides itself from somebody's token stays hidden, though the App sees that they are in it.
func TestHiddenOrganisationStaysHidden(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	lisa := h.joins(map[string]string{"lisa": "admin", "tom": "member"})["lisa"]
	h.silence(time.Second)
	h.signsIn("lisa") // GitHub shows nothing: they have not signed on there
	h.wantOrgs("hidden", lisa, "")
	h.do(millrace.SweepMembers{}, millrace.ReadMembers{InstallationID: h.owner.ID})
	h.must(h.RemoveMember("calm", "lisa"))
	h.must(h.SetMember("calm", "lisa", "admin"))
	h.hears()
	h.wantOrgs("hidden still", lisa, "")
	// Nor does the App's coming back show it.
	h.must(h.Uninstall("calm"))
	h.hears()
	_, err := h.Install("calm", "tom")
	if err == nil {
		t.Fatal("a member installed it")
	}
	_, err = h.Install("calm", "lisa")
	h.must(err)
	h.hears()
	h.do(millrace.SweepMembers{})
	h.wantOrgs("hidden still", lisa, "")
}

// An App that is taken away and installed again comes back to the org of its account, with all that it had.
func TestReinstall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		learn func(h *hub)
	}{
		{"by webhook", (*hub).hears},
		{"without it", func(h *hub) { h.sent = nil; h.do(millrace.SweepInstallations{}); h.hears() }},
		{"out of order, twice", func(h *hub) {
			h.sent = append(h.sent, h.sent...)
			slices.Reverse(h.sent)
			h.hears()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			users := h.joins(map[string]string{"lisa": "member", "boss": "admin"})
			v := h.connect(h.launch())
			running := h.githubID(v)
			h.PickUp(v.RunnerID)
			h.hears()
			h.silence(time.Minute)
			former := h.owner.ID

			h.must(h.Uninstall("calm"))
			tc.learn(h)
			h.wantInstallations("uninstalled", "calm deleted")
			h.wantOpen("uninstalled", millrace.WaitSuspended)
			h.wantOrgs("uninstalled", users["lisa"], "")
			h.wantOrgs("its owner stays", millrace.User{ID: h.founder(), Login: "mona"}, "calm owner")
			h.silence(time.Minute)

			again, err := h.Install("calm", "boss")
			h.must(err)
			tc.learn(h)
			h.wantInstallations("installed again", "calm live", "calm deleted")
			h.wantOpen("installed again")
			h.wantOrgs("installed again", users["lisa"], "calm member")
			h.wantOrgs("installed again", users["boss"], "calm admin")
			if again.ID == former {
				t.Fatal("the id is the same")
			}

			// The job that ran goes on as the new installation's, and ends once, as does what is told late of the old one.
			h.Finish(v.RunnerID, "success")
			h.hears()
			job := h.job(running)
			if job.InstallationID != again.ID || job.Status != millrace.JobCompleted || len(h.jobs()) != 1 {
				t.Errorf("the job is %+v of %d", job, len(h.jobs()))
			}
			h.do(millrace.RetireVM{OrgID: h.tenant.ID, VMID: v.ID})
			if h.Registered(v.RunnerID) {
				t.Error("its runner is left over")
			}
			queued := h.queue()
			h.silence(30 * time.Second)
			h.sent = nil
			h.poll(3 * time.Minute)
			if j := h.job(queued); j == nil || j.InstallationID != again.ID {
				t.Errorf("a new job is %+v", j)
			}
		})
	}
}

// founder is the org's owner.
func (h *hub) founder() (id millrace.UserID) {
	h.t.Helper()
	list, err := h.org.Members(h.t.Context())
	h.must(err)
	for _, m := range list {
		if m.Login == "mona" {
			id = m.ID
		}
	}
	return id
}

// What is told of an installation after it was installed again is the new one's.
func TestLateDeliveryOfFormerInstallation(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.AddPerson("boss")
	h.must(h.SetMember("calm", "boss", "admin"))
	h.hears()
	job := h.queue()
	late := h.sent
	h.sent = nil
	h.must(h.Uninstall("calm"))
	again, err := h.Install("calm", "boss")
	h.must(err)
	h.hears()
	h.poll(time.Minute)
	h.sent = late
	h.hears()
	if j := h.job(job); j == nil || j.InstallationID != again.ID || len(h.jobs()) != 1 {
		t.Errorf("the job is %+v of %d", j, len(h.jobs()))
	}
}

// Suspended and unsuspended, with and without webhooks.
func TestSuspend(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		learn func(h *hub)
	}{
		{"by webhook", (*hub).hears},
		{"without it", func(h *hub) { h.sent = nil; h.do(millrace.SweepInstallations{}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			users := h.joins(map[string]string{"lisa": "member"})
			for range 2 {
				h.must(h.Suspend("calm", true))
				tc.learn(h)
				h.wantInstallations("suspended", "calm suspended")
				h.wantOpen("suspended", millrace.WaitSuspended)
				h.wantOrgs("suspended", users["lisa"], "calm member")
				h.must(h.Suspend("calm", false))
				h.silence(time.Second)
				tc.learn(h)
				h.wantInstallations("unsuspended", "calm live")
				h.wantOpen("unsuspended")
			}
			// The probe finds it too, and placement goes on.
			h.must(h.Suspend("calm", true))
			tc.learn(h)
			h.must(h.Suspend("calm", false))
			h.sent = nil
			h.silence(2 * time.Minute)
			h.do(millrace.ProbeIncidents{})
			h.pass(0)
			h.launch()
		})
	}
}

// G10: a renamed organisation is who it is, and whoever takes its old login gets nothing of it.
func TestRenamedOrganisation(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	users := h.joins(map[string]string{"lisa": "member"})
	job := h.queue()
	h.hears()
	h.silence(time.Minute)
	h.must(h.RenameOwner("calm", "serene"))
	h.sent = nil
	h.do(millrace.SweepMembers{}) // meets the old login first
	h.wantInstallations("renamed", "serene live")
	h.wantOrgs("renamed", users["lisa"], "calm member")
	h.hears()

	h.AddPerson("squatter")
	h.must(h.SetMember("calm", "squatter", "admin"))
	squat, err := h.Install("calm", "squatter")
	h.must(err)
	if squat.OwnerID == h.owner.OwnerID || squat.ID == h.owner.ID {
		t.Fatalf("%+v", squat)
	}
	h.hears()
	squatter := h.signsIn("squatter", millrace.PersonInstallation{Installation: squat.Installation, Member: true, Admin: true})
	foreign, err := h.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "engine", Labels: []string{"millrace"}})
	h.must(err)
	h.hears()
	h.do(millrace.SweepInstallations{}, millrace.SweepMembers{}, millrace.ReadInstallation{InstallationID: squat.ID}, millrace.ReadMembers{InstallationID: squat.ID})
	h.poll(3 * time.Minute)
	h.wantOrgs("the squatter", squatter, "")
	h.wantOrgs("a member", users["lisa"], "calm member")
	h.wantInstallations("squatted", "serene live")
	if h.job(foreign) != nil {
		t.Error("the squatter's job is ours")
	}
	if j := h.job(job); j == nil || j.InstallationID != h.owner.ID {
		t.Errorf("our job is %+v", j)
	}
	code(t, h.org.LinkInstallation(t.Context(), millrace.Caller{UserID: squatter.ID, Role: millrace.RoleMember}, h.owner.ID), millrace.Forbidden)
	_, err = h.st.FoundOrg(t.Context(), asUser(squatter), squatter.ID, store.FoundOrg{InstallationID: h.owner.ID, Slug: "mine"})
	code(t, err, millrace.Forbidden)
	if _, err := h.st.FoundOrg(t.Context(), asUser(squatter), squatter.ID, store.FoundOrg{InstallationID: squat.ID, Slug: "mine"}); err != nil {
		t.Errorf("of their own account: %v", err)
	}
}

func asUser(u millrace.User) millrace.Actor {
	return millrace.Actor{Kind: millrace.ActorUser, ID: u.ID.String(), Name: u.Login}
}

func code(t *testing.T, err error, want millrace.Code) {
	t.Helper()
	if millrace.CodeOf(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// T15: what a repository that is transferred to another org's account had stays, and what happens in it now is the other's,
// whether everybody may read it or not.
func TestTransferToAnotherOrg(t *testing.T) {
	t.Parallel()
	for name, public := range map[string]bool{"public": true, "private": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			brisk := h.AddOwner("brisk", millrace.Organization)
			tenant, _, err := h.st.CreateOrg(t.Context(), store.NewOrg{
				Slug: "brisk", Name: "brisk", Owner: millrace.User{GitHubID: 2, Login: "lisa"}, DefaultSize: h.tenant.DefaultSize, Installations: []millrace.Installation{brisk.Installation},
			})
			h.must(err)
			v := h.connect(h.launch())
			running := h.githubID(v)
			h.PickUp(v.RunnerID)
			waiting := h.queue()
			h.hears()
			h.AddRepository("calm", "engine", public)
			h.poll(time.Minute)

			h.must(h.MoveRepository("calm", "engine", "brisk", "engine"))
			h.hears()
			after, err := h.Queue(githubtest.QueueRequest{Owner: "brisk", Repo: "engine", Labels: []string{"millrace"}, Public: public})
			h.must(err)
			h.sent = nil // polls alone
			h.poll(4 * time.Minute)
			theirs := func(id int64) *store.JobRow {
				t.Helper()
				page, err := h.st.Org(tenant.ID).Jobs(t.Context(), store.JobFilter{})
				h.must(err)
				for _, j := range page.Jobs {
					if j.GitHubID == id {
						return &j
					}
				}
				return nil
			}
			if h.job(after) != nil || theirs(after) == nil {
				t.Errorf("a job after: ours %v, theirs %v", h.job(after), theirs(after))
			}
			if j := theirs(waiting); j == nil || j.Status != millrace.JobQueued {
				t.Errorf("the job that waited: theirs %v", j)
			}
			h.Finish(v.RunnerID, "success")
			h.sent = nil
			h.poll(2 * time.Minute)
			if j := h.job(running); j == nil || j.Repository != "calm/engine" {
				t.Errorf("the job that ran: %+v", j)
			}
			for range 40 {
				h.poll(time.Minute)
				h.do(millrace.GiveUpJobs{})
			}
			if j := h.job(waiting); j.Status != millrace.JobCompleted || j.Conclusion != millrace.ConclusionStale {
				t.Errorf("the job that waited: ours %+v", j)
			}
			h.silence(15 * time.Minute)
			h.do(millrace.PollRepositories{})
			since := h.now()
			h.poll(30 * time.Minute)
			for _, c := range h.calls(since, "/repos/calm/engine/") {
				t.Errorf("it is polled under its old name: %s %s", c.Method, c.Path)
				break
			}
			names, err := h.org.Repositories(t.Context())
			if err != nil || !slices.Contains(names, "calm/engine") {
				t.Errorf("its history: %v, %v", names, err)
			}
		})
	}
}

// A repository that comes under another installation of the same org is one repository, and its jobs are not two.
func TestTransferWithinAnOrg(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	brisk := h.AddOwner("brisk", millrace.Organization)
	_, _, err := h.st.CreateOrg(t.Context(), store.NewOrg{
		Slug: "calm", Name: "calm", Concurrency: 1000, Owner: millrace.User{GitHubID: 1, Login: "mona"}, DefaultSize: h.tenant.DefaultSize, Installations: []millrace.Installation{brisk.Installation},
	})
	h.must(err)
	job := h.queue()
	h.hears()
	h.poll(time.Minute)
	h.must(h.MoveRepository("calm", "engine", "brisk", "engine"))
	h.hears()
	h.poll(2 * time.Minute)
	if j := h.job(job); j == nil || j.InstallationID != brisk.ID || len(h.jobs()) != 1 {
		t.Errorf("the job is %+v of %d", j, len(h.jobs()))
	}
}

// Whatever comes of the deliveries of a turbulent day, in any order and twice, the end is what is true.
func TestAnyOrderOfHints(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		h := newHub(t)
		users := h.joins(map[string]string{"lisa": "member", "boss": "admin", "tom": "member"})
		h.must(h.Suspend("calm", true))
		h.must(h.Suspend("calm", false))
		h.must(h.RemoveMember("calm", "tom"))
		h.must(h.RenameOwner("calm", "serene"))
		h.must(h.Uninstall("serene"))
		again, err := h.Install("serene", "boss")
		h.must(err)
		h.must(h.SetMember("serene", "tom", "member"))
		h.must(h.RemoveMember("serene", "lisa"))
		r := rand.New(rand.NewPCG(seed, 1))
		h.sent = append(h.sent, h.sent...)
		r.Shuffle(len(h.sent), func(i, j int) { h.sent[i], h.sent[j] = h.sent[j], h.sent[i] })
		for len(h.sent) > 0 { // with the work done in between, some of the time
			rest := h.sent[1:]
			h.sent = h.sent[:1]
			h.answer(http.StatusOK)
			h.sent = append(rest, h.sent...)
			if r.IntN(2) == 0 {
				h.silence(time.Second)
				h.relay()
			}
		}
		h.hears()
		h.do(millrace.SweepMembers{})
		h.wantInstallations("in the end", "serene live", "calm deleted")
		list, err := h.org.LinkedInstallations(t.Context())
		if err != nil || list[0].ID != again.ID {
			t.Errorf("seed %d: %+v, %v", seed, list, err)
		}
		h.wantOpen("in the end")
		h.wantOrgs("in the end", users["lisa"], "")
		h.wantOrgs("in the end", users["boss"], "calm admin")
	}
}

// The App's own mistakes are no reason to think that it was uninstalled everywhere.
func TestWrongAppDeletesNothing(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.faults(githubtest.Faults{})
	h.cut = true
	for _, task := range []millrace.ReadInstallation{{InstallationID: h.owner.ID}} {
		if err := h.work.Do(t.Context(), task); err == nil {
			t.Error("no answer is an answer")
		}
	}
	h.cut = false
	h.wantInstallations("after no answer", "calm live")
	// Of an id that is nobody's nothing comes.
	h.do(millrace.ReadInstallation{InstallationID: 4711}, millrace.ReadMembers{InstallationID: 4711})
	h.wantInstallations("after an unknown id", "calm live")
}

type scheduled struct {
	every time.Duration
	kind  string
}

func workersSchedule() (list []scheduled) {
	for _, s := range workers.Schedule {
		if s.Task != nil {
			list = append(list, scheduled{s.Every, s.Task.Kind()})
		}
	}
	return list
}
