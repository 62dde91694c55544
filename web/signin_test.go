package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web"
)

// people is a dashboard whose people sign in at a stand-in GitHub.
type people struct {
	*world
	gh *githubtest.GitHub
}

func newPeople(t *testing.T) *people {
	t.Helper()
	site := httptest.NewUnstartedServer(nil)
	at := "http://" + site.Listener.Addr().String()
	var gh *githubtest.GitHub
	w := newWorldWith(t, func(dashboard string) millrace.SignIn {
		callback := dashboard + web.SignInCallback
		var err error
		if gh, err = githubtest.New(githubtest.Config{URL: at, CallbackURLs: []string{callback}, SetupURL: dashboard + web.SetupPath}); err != nil {
			t.Fatal(err)
		}
		o, err := github.NewOAuth(github.OAuthConfig{
			URL: gh.URL(), APIURL: gh.APIURL(), ClientID: gh.ClientID(), ClientSecret: millrace.Secret(gh.ClientSecret()), RedirectURL: callback,
		})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}, at+"/apps/millrace/installations/new")
	site.Config.Handler = gh
	site.Start()
	t.Cleanup(func() {
		site.Close()
		gh.Close()
	})
	owner := gh.AddOwner("robots", millrace.Organization)
	_, _, err := w.Store.CreateOrg(t.Context(), store.NewOrg{
		Slug: "robots", Name: "Robots", DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512},
		Owner: millrace.User{GitHubID: owner.SenderID, Login: "robots-admin"}, Installations: []millrace.Installation{owner.Installation},
	})
	if err != nil {
		t.Fatal(err)
	}
	gh.AddPerson("mona")
	if err := gh.SetMember("robots", "mona", "member"); err != nil {
		t.Fatal(err)
	}
	gh.AddPerson("stranger")
	return &people{w, gh}
}

// authorize is the address at GitHub that the dashboard sends b to.
func (p *people) authorize(b *http.Client) string {
	p.t.Helper()
	res, _ := p.get(b, "/sign-in/github")
	to := res.Header.Get("Location")
	if res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, p.gh.URL()+"/login/oauth/authorize?") {
		p.t.Fatalf("%s, to %s", res.Status, to)
	}
	return to
}

// back is where GitHub sends the browser of somebody who agrees.
func (p *people) back(authorize, login string) string {
	p.t.Helper()
	callback, err := p.gh.Approve(authorize, login)
	if err != nil {
		p.t.Fatal(err)
	}
	return callback
}

func sessionOf(res *http.Response) string {
	for _, c := range res.Cookies() {
		if c.Name == "millrace" && c.MaxAge >= 0 {
			return c.Value
		}
	}
	return ""
}

func TestSignInAtGitHub(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	b := browser(t)
	p.get(b, "/o/robots/usage")
	_, page := p.get(b, "/sign-in")
	contains(t, page, "Sign in with GitHub", "With another GitHub account", "link that works once")

	to := p.authorize(b)
	q, _ := url.ParseQuery(strings.SplitN(to, "?", 2)[1])
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || len(q.Get("state")) < 26 || q.Get("prompt") != "" {
		t.Errorf("GitHub is asked with %v", q)
	}
	if res, _ := p.get(browser(t), "/sign-in/github?account=choose"); !strings.Contains(res.Header.Get("Location"), "prompt=select_account") {
		t.Errorf("another account: %s", res.Header.Get("Location"))
	}
	res, _ := p.get(b, p.back(to, "mona"))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/o/robots/usage" {
		t.Fatalf("signed in: %s to %s", res.Status, res.Header.Get("Location"))
	}
	first := sessionOf(res)
	if res, page := p.get(b, "/o/robots/usage"); res.StatusCode != http.StatusOK || !strings.Contains(page, "mona") {
		t.Errorf("her page: %s", res.Status)
	}
	if res, _ := p.get(b, "/o/calm/jobs"); res.StatusCode != http.StatusNotFound {
		t.Errorf("an org that she isn't in: %s", res.Status)
	}

	// Signing in once more makes another session, and ends the one that there was.
	res, _ = p.get(b, p.back(p.authorize(b), "mona"))
	if second := sessionOf(res); second == "" || second == first {
		t.Error("the session is the same")
	}
	if res, _ := p.get(browser(t), "/o/robots/jobs", "Cookie", "millrace="+first); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the former session: %s", res.Status)
	}

	// Somebody else, who belongs nowhere.
	other := browser(t)
	if res, _ := p.get(other, p.back(p.authorize(other), "stranger")); res.Header.Get("Location") != "/" {
		t.Errorf("a stranger is led to %s", res.Header.Get("Location"))
	}
	if res, _ := p.get(other, "/"); res.Header.Get("Location") != "/new" {
		t.Errorf("a stranger's first page: %s", res.Status)
	}
	_, page = p.get(other, "/new")
	contains(t, page, "GitHub shows us no account of yours", "isn't installed yet", "approve", "SAML", "account=choose", "/apps/millrace/installations/new")

	// She left the organisation: at her next sign-in the org is gone.
	if err := p.gh.RemoveMember("robots", "mona"); err != nil {
		t.Fatal(err)
	}
	p.get(b, p.back(p.authorize(b), "mona"))
	if res, _ := p.get(b, "/o/robots/jobs"); res.StatusCode != http.StatusNotFound {
		t.Errorf("after she left: %s", res.Status)
	}
}

// What doesn't come from the GitHub that this browser was sent to, as it was sent, signs nobody in.
func TestSignInThatWasForged(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	with := func(callback, name, value string) string {
		u, err := url.Parse(callback)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set(name, value)
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, forge := range map[string]func(b *http.Client) (callback string){
		"in a browser that began nothing": func(*http.Client) string { return p.back(p.authorize(browser(t)), "mona") },
		"with another browser's state": func(b *http.Client) string {
			p.authorize(b)
			return p.back(p.authorize(browser(t)), "mona")
		},
		"without PKCE's verifier": func(b *http.Client) string {
			callback := p.back(p.authorize(b), "mona")
			u, _ := url.Parse(p.URL)
			for _, c := range b.Jar.Cookies(u) {
				if c.Name == "millrace-github" {
					c.Value, _, _ = strings.Cut(c.Value, ".")
					c.Path = "/"
					b.Jar.SetCookies(u, []*http.Cookie{c})
				}
			}
			return callback
		},
		"without a state":     func(b *http.Client) string { return with(p.back(p.authorize(b), "mona"), "state", "") },
		"with an old state":   func(b *http.Client) string { old := p.back(p.authorize(b), "mona"); p.authorize(b); return old },
		"without a code":      func(b *http.Client) string { return with(p.back(p.authorize(b), "mona"), "code", "") },
		"with a made-up code": func(b *http.Client) string { return with(p.back(p.authorize(b), "mona"), "code", "0123456789") },
		"with another browser's code": func(b *http.Client) string { // PKCE: its verifier is elsewhere
			stolen, err := url.Parse(p.back(p.authorize(browser(t)), "mona"))
			if err != nil {
				t.Fatal(err)
			}
			return with(p.back(p.authorize(b), "stranger"), "code", stolen.Query().Get("code"))
		},
		"with a code that was used": func(b *http.Client) string {
			used := p.back(p.authorize(b), "mona")
			p.get(b, used)
			again, err := url.Parse(p.authorize(b))
			if err != nil {
				t.Fatal(err)
			}
			return with(used, "state", again.Query().Get("state"))
		},
		"with an error of GitHub's": func(b *http.Client) string {
			return with(with(p.back(p.authorize(b), "mona"), "code", ""), "error", "application_suspended")
		},
	} {
		b := browser(t)
		res, page := p.get(b, forge(b))
		if res.StatusCode != http.StatusBadRequest || sessionOf(res) != "" || !strings.Contains(page, "Begin again") {
			t.Errorf("%s: %s, session %t", name, res.Status, sessionOf(res) != "")
		}
	}
	b := browser(t)
	refused := with(with(p.back(p.authorize(b), "mona"), "code", ""), "error", "access_denied")
	if res, page := p.get(b, refused); res.StatusCode != http.StatusForbidden || sessionOf(res) != "" || !strings.Contains(page, "did not let us know") {
		t.Errorf("she refused: %s", res.Status)
	}
	if res, _ := p.get(b, refused); res.StatusCode != http.StatusBadRequest {
		t.Errorf("the same once more: %s", res.Status)
	}
}

// away is a GitHub that does not answer, or whose answer is a mistake of ours.
type away struct {
	millrace.SignIn
	err error
}

func (away) AuthCodeURL(state, _ string, _ bool) string { return "/?state=" + state }

func (a away) Exchange(context.Context, string, string) (millrace.GitHubPerson, error) {
	return millrace.GitHubPerson{}, a.err
}

func TestSignInWhenGitHubFails(t *testing.T) {
	t.Parallel()
	for want, err := range map[int]error{
		http.StatusServiceUnavailable:  millrace.Errorf(millrace.Unavailable, "GitHub does not answer. Try again in a moment."),
		http.StatusForbidden:           millrace.Errorf(millrace.Forbidden, "GitHub wants you to verify your email address there first."),
		http.StatusInternalServerError: context.DeadlineExceeded,
	} {
		w := newWorldWith(t, func(string) millrace.SignIn { return away{err: err} })
		b := browser(t)
		res, _ := w.get(b, "/sign-in/github")
		if res, page := w.get(b, "/sign-in/github/callback?code=1&state="+strings.TrimPrefix(res.Header.Get("Location"), "/?state=")); res.StatusCode != want ||
			sessionOf(res) != "" || strings.Contains(page, "deadline") {
			t.Errorf("%v: %s", err, res.Status)
		}
	}
	w := newWorld(t) // no GitHub is configured
	for _, path := range []string{"/sign-in/github", "/sign-in/github/callback?code=1&state=1"} {
		if res, _ := w.get(browser(t), path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if _, page := w.get(browser(t), "/sign-in"); strings.Contains(page, "/sign-in/github") {
		t.Error("a sign-in is offered that isn't there")
	}
}
