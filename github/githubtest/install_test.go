package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func (l *loop) control(path, body string, want int) {
	l.t.Helper()
	l.call("", "POST", "/_standin/"+path, body, want, nil)
}

func TestTheAppIsUninstalledAndSuspended(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	auth := l.asInstallation(l.owner)
	at := fmt.Sprintf(api+"/app/installations/%d", l.owner.ID)
	l.out = nil
	l.control("installations", `{"owner":"calm","action":"suspend"}`, http.StatusOK)
	l.control("installations", `{"owner":"calm","action":"suspend"}`, http.StatusOK)
	l.wantEvents("installation suspend")
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusForbidden, nil)
	var one struct {
		SuspendedAt *string `json:"suspended_at"`
	}
	if l.call(l.asApp(), "GET", at, "", http.StatusOK, &one); one.SuspendedAt == nil {
		t.Error("it is not suspended")
	}
	l.queue("x")
	l.faults(githubtest.Faults{Suspended: githubtest.Owners{"calm"}})
	l.faults(githubtest.Faults{})
	l.wantEvents() // it is suspended, fault or not
	l.control("installations", `{"owner":"calm","action":"unsuspend"}`, http.StatusOK)
	l.wantEvents("installation unsuspend")
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusOK, nil)

	l.call(l.asInstallation(l.owner), "DELETE", at, "", http.StatusUnauthorized, nil)
	l.call(l.asApp(), "DELETE", at, "", http.StatusNoContent, nil)
	l.wantEvents("installation deleted")
	l.call(l.asApp(), "DELETE", at, "", http.StatusNotFound, nil)
	l.call(l.asApp(), "GET", at, "", http.StatusNotFound, nil)
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusUnauthorized, nil)
	l.queue("x")
	l.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"calm"}})
	l.faults(githubtest.Faults{})
	l.wantEvents()
	l.control("installations", `{"owner":"calm","action":"uninstall"}`, http.StatusNotFound)
	l.control("installations", `{"owner":"calm","action":"suspend"}`, http.StatusNotFound)
	for _, body := range []string{`{"owner":"calm","action":"x"}`, `{"owner":"calm","action":"install","person":"nobody"}`} {
		l.control("installations", body, http.StatusUnprocessableEntity)
	}

	before := l.owner
	l.control("installations", `{"owner":"calm","action":"install","person":"calm-admin"}`, http.StatusOK)
	l.owner = l.AddOwner("calm", millrace.Organization)
	l.wantEvents("installation created")
	if l.owner.ID == before.ID || l.owner.OwnerID != before.OwnerID {
		t.Errorf("%+v, before %+v", l.owner, before)
	}
	l.asInstallation(l.owner)
}

// TestAMemberRequestsTheApp: nothing is installed, and the App is told nothing but by the browser.
func TestAMemberRequestsTheApp(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	b.AddPerson("mona")
	if err := b.SetMember("large", "mona", "member"); err != nil {
		t.Fatal(err)
	}
	b.out = nil
	b.open("/apps/millrace/installations/new?state=st")
	b.press(1, "Sign in as mona")
	u, err := url.Parse(b.press(1, "Request"))
	if err != nil || u.Path != "/setup" || u.RawQuery != "setup_action=request&state=st" || len(b.out) != 0 {
		t.Errorf("it leads to %v, and %d events", u, len(b.out))
	}
	if _, err := b.Install("large", "mona"); err == nil {
		t.Error("mona installed it")
	}
}

func TestAnOwnerIsRenamed(t *testing.T) {
	t.Parallel()
	for _, kind := range []millrace.OwnerType{millrace.Organization, millrace.Personal} {
		l := newSite(t)
		login := "calm"
		if kind == millrace.Personal {
			login = "zoe"
			l.owner = l.AddOwner(login, kind)
		}
		job := l.queueAt(login, "engine", "x")
		l.queueAt(login, "website", "nobody-has-it")
		auth := l.asInstallation(l.owner)
		at := map[millrace.OwnerType]string{millrace.Organization: "/orgs/", millrace.Personal: "/repos/"}[kind]
		repo := map[millrace.OwnerType]string{millrace.Organization: "", millrace.Personal: "/engine"}[kind]
		idle := l.online(auth, at+login+repo, "vm", "y")
		l.out = nil
		l.control("owners", fmt.Sprintf(`{"login":"still","rename":%q}`, strings.ToUpper(login)), http.StatusOK)
		if kind == millrace.Organization {
			l.wantEvents("organization renamed", "installation_target renamed")
		} else {
			l.wantEvents("installation_target renamed")
		}
		now := l.AddOwner("still", kind)
		if now.ID != l.owner.ID || now.OwnerID != l.owner.OwnerID || now.OwnerLogin != "still" {
			t.Errorf("%+v, before %+v", now, l.owner)
		}
		var list struct {
			Repositories []struct {
				FullName string `json:"full_name"`
				Owner    struct{ Login string }
			}
		}
		l.call(auth, "GET", api+"/installation/repositories", "", http.StatusOK, &list)
		if len(list.Repositories) != 2 || list.Repositories[0].FullName != "still/engine" || list.Repositories[0].Owner.Login != "still" {
			t.Errorf("%+v", list)
		}
		for _, owner := range []string{login, "still"} { // the old name leads to it
			if status, body := l.follow("GET", fmt.Sprintf("%s/repos/%s/engine/actions/jobs/%d", api, owner, job), auth, ""); status != http.StatusOK {
				t.Errorf("%s: %d %s", owner, status, body)
			}
		}
		var runners struct{ Runners []struct{ ID int64 } }
		l.call(auth, "GET", api+at+"still"+repo+"/actions/runners", "", http.StatusOK, &runners)
		if len(runners.Runners) != 1 || runners.Runners[0].ID != idle.id {
			t.Errorf("%+v", runners)
		}
		l.assigned = nil
		if wants := l.queueAt("still", "engine", "y"); len(l.assigned) != 1 || l.assigned[0] != [2]int64{idle.id, wants} {
			t.Errorf("an idle runner was given %v, want job %d", l.assigned, wants)
		}
		l.online(auth, at+"still"+repo, "vm2", "x")
		if len(l.assigned) != 2 || l.assigned[1][1] != job {
			t.Errorf("a job that waited was not given: %v", l.assigned)
		}

		// Whoever takes the old login is another.
		other := l.AddOwner(login, kind)
		if other.ID == now.ID || other.OwnerID == now.OwnerID {
			t.Errorf("%+v is %+v", other, now)
		}
		if r := l.asInstallation(other); r == "" {
			t.Error("no token")
		}
		for body, want := range map[string]int{
			`{"login":"x","rename":"nobody"}`: 404, `{"login":"","rename":"still"}`: 422, `{"login":"a/b","rename":"still"}`: 422, fmt.Sprintf(`{"login":%q,"rename":"still"}`, login): 422,
		} {
			l.control("owners", body, want)
		}
		l.control("owners", `{"login":"Still","rename":"still"}`, http.StatusOK)
		if now := l.AddOwner("still", kind); now.OwnerLogin != "Still" || now.ID != l.owner.ID {
			t.Errorf("%+v", now)
		}
		l.call(auth, "GET", api+"/repos/still/engine/actions/runs", "", http.StatusOK, nil)
	}
}

// TestRepositoriesAreTold: of what is done to repositories the App hears, in GitHub's shapes.
func TestRepositoriesAreTold(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	l.control("repositories", `{"owner":"calm","name":"engine"}`, http.StatusCreated)
	l.wantEvents("repository created", "installation_repositories added")
	l.control("repositories", `{"owner":"calm","name":"engine"}`, http.StatusCreated)
	l.wantEvents()
	l.control("repositories", `{"owner":"calm","name":"engine","public":true}`, http.StatusCreated)
	l.wantEvents("repository publicized")
	l.control("repositories", `{"owner":"nobody","name":"engine"}`, http.StatusNotFound)
	if err := l.MoveRepository("calm", "engine", "calm", "motor"); err != nil {
		t.Fatal(err)
	}
	var e struct {
		Changes struct {
			Repository struct{ Name struct{ From string } }
			Owner      struct {
				From struct{ Organization struct{ Login string } }
			}
		}
		Repository struct {
			FullName string `json:"full_name"`
		}
		Removed []struct {
			FullName string `json:"full_name"`
		} `json:"repositories_removed"`
		Added        []struct{ ID int64 } `json:"repositories_added"`
		Installation struct{ ID int64 }
		Sender       struct{ Login string }
	}
	read := func(i int) {
		t.Helper()
		e.Installation.ID = 0
		if err := json.Unmarshal(l.out[i].Body, &e); err != nil {
			t.Fatal(err)
		}
	}
	read(0)
	if e.Changes.Repository.Name.From != "engine" || e.Repository.FullName != "calm/motor" || e.Sender.Login != "calm-admin" {
		t.Errorf("%s", l.out[0].Body)
	}
	l.wantEvents("repository renamed")

	other := l.AddOwner("other", millrace.Organization)
	if err := l.MoveRepository("calm", "motor", "other", "motor"); err != nil {
		t.Fatal(err)
	}
	if len(l.out) != 3 {
		t.Fatalf("%d events", len(l.out))
	}
	read(0)
	if l.out[0].Event != "installation_repositories" || e.Installation.ID != l.owner.ID || len(e.Removed) != 1 || e.Removed[0].FullName != "other/motor" || len(e.Added) != 0 {
		t.Errorf("%s", l.out[0].Body)
	}
	read(1)
	if l.out[1].Event != "installation_repositories" || e.Installation.ID != other.ID || len(e.Added) != 1 {
		t.Errorf("%s", l.out[1].Body)
	}
	read(2)
	if l.out[2].Event != "repository" || e.Installation.ID != other.ID || e.Changes.Owner.From.Organization.Login != "calm" || e.Repository.FullName != "other/motor" {
		t.Errorf("%s", l.out[2].Body)
	}
}

func TestInstallationsOutliveARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	synctest.Test(t, func(t *testing.T) {
		keep := func(c *githubtest.Config) { c.StateFile = file }
		h := newHub(t, keep)
		h.AddOwner("other", millrace.Organization)
		h.AddOwner("third", millrace.Organization)
		h.AddPerson("mona")
		h.AddRepository("third", "engine", false)
		for _, err := range []error{
			h.Suspend("calm", true), h.Uninstall("other"), h.RenameOwner("third", "still"), h.SetCollaborator("still", "engine", "mona", true),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		still := h.AddOwner("still", millrace.Organization)
		h.Close()

		h = newHub(t, keep)
		defer h.Close()
		if again := h.AddOwner("still", millrace.Organization); again != still {
			t.Errorf("%+v, before %+v", again, still)
		}
		var one struct {
			SuspendedAt *string `json:"suspended_at"`
		}
		h.call(h.asApp(), "GET", fmt.Sprintf(api+"/app/installations/%d", h.owner.ID), "", http.StatusOK, &one)
		if one.SuspendedAt == nil {
			t.Error("calm is suspended no more")
		}
		if h.Uninstall("other") == nil {
			t.Error("it was installed at other")
		}
		if err := h.SetCollaborator("still", "engine", "mona", false); err != nil {
			t.Error(err)
		}
	})
}
