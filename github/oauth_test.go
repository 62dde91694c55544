package github_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

const (
	callback = "http://millrace.test/sign-in/github"
	verifier = "0123456789-0123456789-0123456789-0123456789"
)

// front is a stand-in GitHub, and people who sign in there. meddle, if set, may answer a call in its place.
type front struct {
	*githubtest.GitHub
	*github.OAuth
	t      *testing.T
	calm   githubtest.Owner
	clock  atomic.Int64 // seconds that have passed
	meddle func(*http.Request) *http.Response
	next   http.RoundTripper
}

func newFront(t *testing.T) *front {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	transport := &http.Transport{}
	f := &front{t: t, next: transport}
	began := time.Now()
	gh, err := githubtest.New(githubtest.Config{
		URL: "http://" + srv.Listener.Addr().String(), CallbackURLs: []string{callback},
		Now: func() time.Time { return began.Add(time.Duration(f.clock.Load()) * time.Second) },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = gh
	srv.Start()
	t.Cleanup(func() {
		gh.Close()
		transport.CloseIdleConnections()
		srv.Close()
	})
	f.GitHub, f.calm = gh, gh.AddOwner("calm", millrace.Organization)
	f.OAuth = f.oauth(callback, gh.ClientSecret())
	gh.AddOwner("mona", millrace.Personal)
	return f
}

func (f *front) oauth(redirect, secret string) *github.OAuth {
	f.t.Helper()
	o, err := github.NewOAuth(github.OAuthConfig{
		URL: f.URL() + "/", APIURL: f.APIURL(), ClientID: f.ClientID(), ClientSecret: millrace.Secret(secret), RedirectURL: redirect, Transport: f,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return o
}

func (f *front) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.meddle != nil {
		if resp := f.meddle(r); resp != nil {
			return resp, nil
		}
	}
	return f.next.RoundTrip(r)
}

func answerWith(r *http.Request, status int, kind, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(bytes.NewBufferString(body)), Request: r,
	}
}

// code is what the browser of somebody who agrees brings back.
func (f *front) code(login string) string {
	f.t.Helper()
	to, err := f.Approve(f.AuthCodeURL("state", verifier, false), login)
	if err != nil {
		f.t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil || u.Query().Get("state") != "state" {
		f.t.Fatalf("it leads to %s", to)
	}
	return u.Query().Get("code")
}

func (f *front) signIn(login string) millrace.GitHubPerson {
	f.t.Helper()
	p, err := f.Exchange(f.t.Context(), f.code(login), verifier)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// where is where a person is somebody: a star says that they are an admin, a question mark that they are no member.
func where(p millrace.GitHubPerson) string {
	var list []string
	for _, at := range p.Installations {
		name := at.OwnerLogin
		if at.Admin {
			name += "*"
		}
		if !at.Member {
			name += "?"
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (f *front) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	u, err := url.Parse(f.AuthCodeURL("st", verifier, true))
	f.must(err)
	if q := u.Query(); q.Get("prompt") != "select_account" || q.Get("code_challenge_method") != "S256" || q.Get("state") != "st" || q.Get("redirect_uri") != callback || strings.Contains(u.String(), verifier) {
		t.Errorf("a browser is sent to %s", u)
	}
	f.must(f.SetMember("calm", "mona", "member"))
	f.AddOwner("other", millrace.Organization)
	p := f.signIn("mona")
	mona := f.AddPerson("mona")
	if p.User != (millrace.User{GitHubID: mona.ID, Login: "mona", Name: "mona"}) || p.Email != mona.Email || where(p) != "calm mona*" || len(p.Hidden) != 0 {
		t.Errorf("%+v", p)
	}
	if at := p.Installations[0]; at.Installation != f.calm.Installation {
		t.Errorf("%+v, want %+v", at.Installation, f.calm.Installation)
	}
	admin := f.signIn("calm-admin")
	if admin.User.GitHubID != f.calm.SenderID || where(admin) != "calm*" {
		t.Errorf("%+v", admin)
	}

	// GitHub is asked anew each time.
	f.must(f.SetMember("calm", "mona", "admin"))
	f.must(f.RenamePerson("calm-admin", "carla"))
	if p := f.signIn("mona"); where(p) != "calm* mona*" {
		t.Errorf("%+v", p)
	}
	if carla := f.signIn("carla"); carla.User.GitHubID != admin.User.GitHubID || carla.User.Login != "carla" {
		t.Errorf("renamed, %+v is %+v", admin, carla)
	}
	f.AddPerson("calm-admin") // takes the login that is free
	if p := f.signIn("calm-admin"); p.User.GitHubID == admin.User.GitHubID || where(p) != "" {
		t.Errorf("whoever takes a login has what its owner had: %+v", p)
	}
	f.must(f.SetFaults(githubtest.Faults{Suspended: githubtest.Owners{"calm"}}))
	if p := f.signIn("mona"); p.Installations[0].SuspendedAt.IsZero() {
		t.Errorf("calm is suspended: %+v", p)
	}
}

func TestSignInReadsAllPages(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	for i := range 205 {
		org := fmt.Sprintf("org-%03d", i)
		f.AddOwner(org, millrace.Organization)
		f.must(f.SetMember(org, "mona", []string{"admin", "member"}[i%2]))
	}
	p := f.signIn("mona")
	admin := 0
	for _, at := range p.Installations {
		if at.Admin {
			admin++
		}
	}
	if len(p.Installations) != 206 || admin != 104 {
		t.Errorf("%d installations, admin of %d", len(p.Installations), admin)
	}
}

// TestSignInForgetsTheToken: it is sent to GitHub's API and nowhere else, and the person that is returned has none of it.
func TestSignInForgetsTheToken(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	var calls []string
	token := ""
	f.meddle = func(r *http.Request) *http.Response {
		calls = append(calls, r.Method+" "+r.URL.Path)
		if auth := r.Header.Get("Authorization"); auth != "" {
			token = strings.TrimPrefix(auth, "Bearer ")
		}
		return nil
	}
	p := f.signIn("mona")
	want := []string{"POST /login/oauth/access_token", "GET /api/v3/user", "GET /api/v3/user/installations", "GET /api/v3/user/memberships/orgs"}
	if !slices.Equal(calls, want) {
		t.Errorf("called %q", calls)
	}
	if !strings.HasPrefix(token, "ghu_") || strings.Contains(fmt.Sprintf("%#v %#v", p, f.OAuth), token) {
		t.Errorf("the token %.4s… is kept", token)
	}
}

func TestSignInThatComesToNothing(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	used := f.code("mona")
	_, err := f.Exchange(t.Context(), used, verifier)
	f.must(err)
	old := f.code("mona")
	f.clock.Add(601)
	for name, c := range map[string]struct{ code, verifier string }{
		"used": {used, verifier}, "expired": {old, verifier}, "made up": {"0123", verifier}, "none": {"", verifier},
		"another browser's": {f.code("mona"), verifier + "x"}, "no verifier": {f.code("mona"), ""},
	} {
		if _, err := f.Exchange(t.Context(), c.code, c.verifier); millrace.CodeOf(err) != millrace.Gone || !strings.Contains(millrace.MessageOf(err), "Begin again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]*github.OAuth{
		"the secret is wrong": f.oauth(callback, "wrong"), "the callback is another": f.oauth(callback+"/other", f.ClientSecret()),
	} {
		_, err := o.Exchange(t.Context(), f.code("mona"), verifier)
		wantCode(t, err, millrace.Internal)
		if err == nil || strings.Contains(err.Error(), "wrong\"") {
			t.Errorf("%s: %v", name, err)
		}
	}

	// GitHub is away, at any of its calls.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Exchange(cancelled, f.code("mona"), verifier)
	wantCode(t, err, millrace.Unavailable)
	for _, path := range []string{"access_token", "/user", "/installations", "/orgs"} {
		for name, resp := range map[string]func(*http.Request) *http.Response{
			"500": func(r *http.Request) *http.Response {
				return answerWith(r, 500, "application/json", `{"message":"Server Error"}`)
			},
			"unicorn": func(r *http.Request) *http.Response {
				return answerWith(r, 502, "text/html", "<html>"+strings.Repeat("unicorn", 1000))
			},
			"garbage": func(r *http.Request) *http.Response { return answerWith(r, 200, "application/json", "<") },
			"limit": func(r *http.Request) *http.Response {
				return answerWith(r, 429, "application/json", `{"message":"API rate limit exceeded"}`)
			},
		} {
			code := f.code("mona")
			f.meddle = func(r *http.Request) *http.Response {
				if strings.HasSuffix(r.URL.Path, path) {
					return resp(r)
				}
				return nil
			}
			_, err := f.Exchange(t.Context(), code, verifier)
			if f.meddle = nil; millrace.CodeOf(err) != millrace.Unavailable || len(err.Error()) > 1000 {
				t.Errorf("%s at %s: %.2000v", name, path, err)
			}
		}
	}

	// What GitHub says of nobody, or refuses for want of a permission, signs nobody in.
	for body, want := range map[string]millrace.Code{`{}`: millrace.Unavailable, `{"id":1}`: millrace.Unavailable, `{"login":"mona"}`: millrace.Unavailable} {
		code := f.code("mona")
		f.meddle = func(r *http.Request) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/user") {
				return answerWith(r, 200, "application/json", body)
			}
			return nil
		}
		p, err := f.Exchange(t.Context(), code, verifier)
		if f.meddle = nil; p.User.GitHubID != 0 {
			t.Errorf("%s signs in %+v", body, p)
		}
		wantCode(t, err, want)
	}
	for status, want := range map[int]millrace.Code{401: millrace.Gone, 403: millrace.Internal, 404: millrace.Internal} {
		code := f.code("mona")
		f.meddle = func(r *http.Request) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/orgs") {
				return answerWith(r, status, "application/json", `{"message":"Resource not accessible by integration"}`)
			}
			return nil
		}
		p, err := f.Exchange(t.Context(), code, verifier)
		if f.meddle = nil; p.User.GitHubID != 0 {
			t.Errorf("%d signs in %+v", status, p)
		}
		wantCode(t, err, want)
	}
}

// TestSignInWithAnOrganisationsOwnSignOn: what it hides is said, and gives no right.
func TestSignInWithAnOrganisationsOwnSignOn(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	f.must(f.SetMember("calm", "mona", "admin"))
	f.AddOwner("open", millrace.Organization)
	f.must(f.SetMember("open", "mona", "admin"))
	f.must(f.SetFaults(githubtest.Faults{SAML: githubtest.Owners{"calm"}}))
	p := f.signIn("mona")
	if where(p) != "mona* open*" || !slices.Equal(p.Hidden, []string{strconv.FormatInt(f.calm.OwnerID, 10)}) {
		t.Errorf("%s, hidden %q", where(p), p.Hidden)
	}
	f.must(f.SetFaults(githubtest.Faults{}))
	f.meddle = func(r *http.Request) *http.Response {
		if !strings.HasSuffix(r.URL.Path, "/orgs") {
			return nil
		}
		resp := answerWith(r, 403, "application/json", `{"message":"Resource protected by organization SAML enforcement. You must grant your OAuth token access to this organization."}`)
		resp.Header.Set("X-GitHub-SSO", "required; url=https://github.com/orgs/calm/sso?authorization_request=AB")
		return resp
	}
	p = f.signIn("mona")
	if where(p) != "calm? mona* open?" || !slices.Equal(p.Hidden, []string{"calm", "open"}) {
		t.Errorf("%s, hidden %q", where(p), p.Hidden)
	}
}

func TestSignInOfADevice(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	secrets := 0
	f.meddle = func(r *http.Request) *http.Response {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			f.must(err)
			secrets += bytes.Count(body, []byte("client_secret"))
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		return nil
	}
	begin := func() millrace.DeviceCode {
		t.Helper()
		d, err := f.DeviceCode(t.Context())
		f.must(err)
		return d
	}
	poll := func(d millrace.DeviceCode, want millrace.Code) millrace.GitHubPerson {
		t.Helper()
		p, err := f.PollDevice(t.Context(), d.Code)
		wantCode(t, err, want)
		return p
	}
	d := begin()
	if d.Interval != 5*time.Second || d.ExpiresIn != 15*time.Minute || d.VerificationURL != f.URL()+"/login/device" || len(d.UserCode) != 9 {
		t.Errorf("%+v", d)
	}
	poll(d, millrace.Conflict)
	poll(d, millrace.LimitReached)
	f.clock.Add(10)
	poll(d, millrace.Conflict)
	if !f.ApproveDevice(d.UserCode, "mona", true) {
		t.Fatal("nobody waits")
	}
	f.clock.Add(10)
	if p := poll(d, ""); p.User.Login != "mona" || where(p) != "mona*" {
		t.Errorf("%+v", p)
	}
	poll(d, millrace.Gone)
	poll(millrace.DeviceCode{}, millrace.Gone)
	if secrets != 0 {
		t.Error("a device's sign-in takes no secret")
	}

	d = begin()
	f.ApproveDevice(d.UserCode, "mona", false)
	poll(d, millrace.Forbidden)
	d = begin()
	f.clock.Add(900)
	poll(d, millrace.Gone)

	f.meddle = func(r *http.Request) *http.Response {
		return answerWith(r, 200, "application/json", `{"error":"device_flow_disabled"}`)
	}
	_, err := f.DeviceCode(t.Context())
	wantCode(t, err, millrace.Internal)
	f.meddle = func(r *http.Request) *http.Response { return answerWith(r, 503, "text/html", "away") }
	_, err = f.DeviceCode(t.Context())
	wantCode(t, err, millrace.Unavailable)
}

// TestSignInReachesNobody: the network's own errors say neither the code nor the secret.
func TestSignInReachesNobody(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	code := f.code("mona")
	f.next = failing{}
	_, err := f.Exchange(t.Context(), code, verifier)
	wantCode(t, err, millrace.Unavailable)
	for _, secret := range []string{code, verifier, f.ClientSecret()} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error says %q", secret)
		}
	}
}

type failing struct{}

func (failing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route to host")
}

func TestNewOAuthChecksItsConfiguration(t *testing.T) {
	t.Parallel()
	good := github.OAuthConfig{URL: "https://github.com", APIURL: "https://api.github.com/", ClientID: "Iv1.x", ClientSecret: "x", RedirectURL: callback}
	if _, err := github.NewOAuth(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*github.OAuthConfig){
		"no URL": func(c *github.OAuthConfig) { c.URL = "" }, "no API": func(c *github.OAuthConfig) { c.APIURL = "x" }, "no callback": func(c *github.OAuthConfig) { c.RedirectURL = "/x" },
		"no id": func(c *github.OAuthConfig) { c.ClientID = "" }, "no secret": func(c *github.OAuthConfig) { c.ClientSecret = "" },
	} {
		cfg := good
		if spoil(&cfg); cfg == good {
			t.Fatal("nothing was spoilt")
		}
		if _, err := github.NewOAuth(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestACollaboratorIsNoMember: whom an organisation let into one repository sees the installation, and is nobody there.
func TestACollaboratorIsNoMember(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	f.AddRepository("calm", "engine", false)
	f.must(f.SetCollaborator("calm", "engine", "mona", true))
	if p := f.signIn("mona"); where(p) != "calm? mona*" || len(p.Hidden) != 0 {
		t.Errorf("%s, hidden %q", where(p), p.Hidden)
	}
	f.must(f.SetMember("calm", "mona", "member"))
	if p := f.signIn("mona"); where(p) != "calm mona*" {
		t.Errorf("%s", where(p))
	}
	f.must(f.RemoveMember("calm", "mona"))
	f.must(f.SetCollaborator("calm", "engine", "mona", false))
	if p := f.signIn("mona"); where(p) != "mona*" {
		t.Errorf("%s", where(p))
	}
}

// TestWhoIsAnAdmin: only whom GitHub calls one, now, by the account's id; and so it is with members.
func TestWhoIsAnAdmin(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	mona := f.AddPerson("mona")
	f.meddle = func(r *http.Request) *http.Response {
		switch {
		case strings.HasSuffix(r.URL.Path, "/installations"):
			return answerWith(r, 200, "application/json", fmt.Sprintf(`{"total_count": 8, "installations": [
				{"id": 1, "account": {"id": %d, "login": "own", "type": "User"}},
				{"id": 2, "account": {"id": 20, "login": "a-friend", "type": "User"}},
				{"id": 3, "account": {"id": 30, "login": "admin", "type": "Organization"}},
				{"id": 4, "account": {"id": 40, "login": "invited", "type": "Organization"}},
				{"id": 5, "account": {"id": 50, "login": "recycled", "type": "Organization"}},
				{"id": 6, "account": {"id": 60, "login": "manager", "type": "Organization"}},
				{"id": 7, "account": {"id": %d, "login": "not-a-person", "type": "Organization"}},
				{"id": 8, "account": {"id": 80, "login": "member", "type": "Organization"}},
				{"id": 0, "account": {"id": 30, "login": "none", "type": "Organization"}}, {"id": 9}]}`, mona.ID, mona.ID))
		case strings.HasSuffix(r.URL.Path, "/orgs"):
			return answerWith(r, 200, "application/json", `[
				{"state": "active", "role": "admin", "organization": {"id": 20, "login": "a-friend"}},
				{"state": "active", "role": "admin", "organization": {"id": 30, "login": "renamed"}},
				{"state": "pending", "role": "admin", "organization": {"id": 40, "login": "invited"}},
				{"state": "active", "role": "admin", "organization": {"id": 51, "login": "recycled"}},
				{"state": "active", "role": "member", "organization": {"id": 80, "login": "member"}},
				{"state": "active", "role": "billing_manager", "organization": {"id": 60, "login": "manager"}}]`)
		}
		return nil
	}
	if got := where(f.signIn("mona")); got != "a-friend? admin* invited? manager? member not-a-person? own* recycled?" {
		t.Errorf("%s", got)
	}
}
