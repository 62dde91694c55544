package githubtest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestPeople(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	mona := l.AddPerson("mona")
	if again := l.AddPerson("Mona"); again != mona {
		t.Errorf("%+v is not %+v", again, mona)
	}
	if other := newSite(t).AddPerson("mona"); other != mona {
		t.Errorf("another run's mona is %+v", other)
	}
	if err := l.RenamePerson("mona", "lisa"); err != nil {
		t.Fatal(err)
	}
	if lisa := l.AddPerson("lisa"); lisa.ID != mona.ID {
		t.Errorf("renamed, mona is %+v", lisa)
	}
	if next := l.AddPerson("mona"); next.ID == mona.ID {
		t.Error("whoever takes mona's login is mona")
	}
	for _, err := range []error{
		l.RenamePerson("nobody", "somebody"), l.RenamePerson("mona", "LISA"), l.RenamePerson("mona", ""),
		l.SetMember("calm", "nobody", "admin"), l.SetMember("calm", "mona", "owner"), l.RemoveMember("calm", "mona"), l.RemoveMember("no", "mona"),
	} {
		if err == nil {
			t.Error("that can't be")
		}
	}

	// An organisation has an admin who installed the App; a personal account is its person.
	admin := l.AddPerson("calm-admin")
	if admin.ID != l.owner.SenderID {
		t.Errorf("calm's admin is %+v, the sender %d", admin, l.owner.SenderID)
	}
	zoe := l.AddOwner("zoe", millrace.Personal)
	if p := l.AddPerson("zoe"); p.ID != zoe.OwnerID || p.ID != zoe.SenderID {
		t.Errorf("%+v has the account %+v", p, zoe)
	}
	if l.RenamePerson("zoe", "zora") == nil {
		t.Error("her repositories stay behind")
	}
	list := l.People()
	for i := 1; i < len(list); i++ {
		if list[i-1].ID >= list[i].ID {
			t.Errorf("%+v", list)
		}
	}

	// A job says who started it.
	l.out = nil
	if _, err := l.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "engine", Labels: []string{"x"}, Actor: "lisa"}); err != nil {
		t.Fatal(err)
	}
	var e struct{ Sender struct{ ID int64 } }
	if err := json.Unmarshal(l.out[0].Body, &e); err != nil || e.Sender.ID != mona.ID {
		t.Errorf("%+v started it", e)
	}
}

func TestPeopleByTheControlInterface(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	var p struct{ ID int64 }
	b.call("", "POST", "/_standin/people", `{"login":"mona"}`, http.StatusCreated, &p)
	b.call("", "POST", "/_standin/people", `{"login":"lisa","rename":"mona"}`, http.StatusCreated, &p)
	if p.ID != b.AddPerson("lisa").ID || p.ID == b.AddPerson("mona").ID {
		t.Error("renamed, it is another person")
	}
	b.call("", "POST", "/_standin/members", `{"org":"calm","login":"lisa","role":"member"}`, http.StatusOK, nil)
	b.open("/people")
	if !strings.Contains(b.page, "member of calm") {
		t.Errorf("%s", b.page)
	}
	b.call("", "POST", "/_standin/members", `{"org":"calm","login":"lisa"}`, http.StatusOK, nil)
	for _, body := range []string{`{"org":"calm","login":"lisa"}`, `{"org":"calm","login":"lisa","role":"owner"}`} {
		b.call("", "POST", "/_standin/members", body, http.StatusUnprocessableEntity, nil)
	}
	for body, want := range map[string]int{`{"login":"a/b"}`: 422, `{"login":""}`: 422, `{"login":"x","rename":"nobody"}`: 422, `{"name":1}`: 400, `x`: 400} {
		b.call("", "POST", "/_standin/people", body, want, nil)
	}
	if page := b.loop.page("/", http.StatusOK); !strings.Contains(page, `href="/people"`) {
		t.Error("the front page has no link")
	}
}

func TestTheAppIsInstalled(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	mona := b.AddPerson("mona")
	for _, m := range [][2]string{{"nimble", "admin"}, {"calm", "member"}, {"large", "member"}} {
		if err := b.SetMember(m[0], "mona", m[1]); err != nil {
			t.Fatal(err)
		}
	}
	b.AddRepository("nimble", "app", true)
	b.out = nil
	b.open("/apps/millrace")
	b.shows("Millrace")
	b.open("/apps/millrace/installations/new?state=s%26t")
	b.shows("Sign in to the stand-in GitHub")
	b.press(1, "Sign in as mona")
	b.shows("Install Millrace")
	if strings.Count(b.page, "<button>Install</button>") != 2 || strings.Count(b.page, "<button>Configure</button>") != 1 || strings.Count(b.page, "an owner&#39;s approval") != 1 {
		t.Fatalf("%s", b.page)
	}
	u, err := url.Parse(b.press(2, "Install"))
	if err != nil || u.Host != "millrace.test" || u.Path != "/setup" || u.Query().Get("setup_action") != "install" || u.Query().Get("state") != "s&t" {
		t.Fatalf("it leads to %v", u)
	}
	if len(b.out) != 1 || b.out[0].Event != "installation" || !strings.Contains(string(b.out[0].Body), `"action":"created"`) {
		t.Errorf("sent %+v", b.out)
	}
	var created struct {
		Installation struct {
			ID      int64
			Account struct{ Login string }
		}
		Sender       struct{ ID int64 }
		Repositories []struct {
			FullName string `json:"full_name"`
		}
	}
	nimble, err := b.Install("nimble", "mona")
	if err != nil || nimble.OwnerType != millrace.Organization || nimble.SenderID != mona.ID || u.Query().Get("installation_id") != strconv.FormatInt(nimble.ID, 10) {
		t.Errorf("%+v, %v, %v", nimble, u, err)
	}
	b.open("/apps/millrace/installations/new")
	if u, err := url.Parse(b.press(1, "Configure")); err != nil || u.Query().Get("setup_action") != "update" {
		t.Errorf("it leads to %v", u)
	}
	b.asInstallation(nimble)

	// Uninstalled and installed again, it has another id, and the old tokens are of no use.
	old := b.asInstallation(nimble)
	b.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"nimble"}})
	b.out = nil
	again, err := b.Install("nimble", "mona")
	if err != nil || again.ID == nimble.ID || again.OwnerID != nimble.OwnerID {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := json.Unmarshal(b.out[0].Body, &created); err != nil || created.Sender.ID != mona.ID || created.Installation.ID != again.ID || created.Installation.Account.Login != "nimble" ||
		len(created.Repositories) != 1 || created.Repositories[0].FullName != "nimble/app" {
		t.Errorf("%s", b.out[0].Body)
	}
	b.call(old, "GET", api+"/installation/repositories", "", http.StatusUnauthorized, nil)
	b.call(b.asInstallation(again), "GET", api+"/installation/repositories", "", http.StatusOK, nil)

	own, err := b.Install("mona", "mona")
	if err != nil || own.OwnerType != millrace.Personal || own.OwnerID != mona.ID {
		t.Errorf("%+v, %v", own, err)
	}
	for _, account := range []string{"large", "other", "elsewhere"} {
		if _, err := b.Install(account, "mona"); err == nil {
			t.Errorf("mona installed it at %s", account)
		}
	}
	b.open("/apps/millrace/installations/new")
	if !strings.Contains(regexp.MustCompile(`(?s)<h3>large</h3>.*?</li>`).FindString(b.page), "<button>Request</button>") {
		t.Error("a member may install it")
	}
	for target, want := range map[string]int{"1": 404, "": 404} {
		if w := b.do("POST", "/apps/millrace/installations/new", "target_id="+target); w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
	}
	b.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"*"}})
	if _, err := b.Install("nimble", "mona"); err == nil {
		t.Error("installed, against the fault")
	}
}
