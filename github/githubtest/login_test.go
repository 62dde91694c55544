package githubtest_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

const (
	callback = "http://millrace.test/sign-in/github"
	verifier = "a verifier that is as long as the RFC wants them, or so"
	// challenge is what `printf %s "$verifier" | openssl dgst -sha256 -binary | base64url` makes of it.
	challenge = "2tE-0_4G3AYfrVps05WYm45SaEi762QhSQ5FuPT7KWE"
)

// newSite is a loop whose App has a sign-in.
func newSite(t testing.TB) *loop {
	t.Helper()
	return newLoop(t, 1, func(c *githubtest.Config) {
		c.CallbackURLs = []string{callback, callback + "/cli"}
		c.SetupURL = "http://millrace.test/setup"
	})
}

// browser keeps one cookie and follows no redirect.
type browser struct {
	*loop
	cookie string
	page   string
}

func (b *browser) do(method, to, form string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, to, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
			b.t.Errorf("the cookie is %v", c)
		}
		if b.cookie = c.Name + "=" + c.Value; c.MaxAge < 0 {
			b.cookie = ""
		}
	}
	b.page = w.Body.String()
	return w
}

// open follows a link as far as it leads within the stand-in, and returns where it leads otherwise; "" when it shows a page.
func (b *browser) open(to string) string {
	b.t.Helper()
	return b.follow(b.do("GET", to, ""))
}

func (b *browser) follow(w *httptest.ResponseRecorder) string {
	b.t.Helper()
	for range 5 {
		to := w.Header().Get("Location")
		if to == "" {
			return ""
		}
		if w.Code != http.StatusFound {
			b.t.Fatalf("%d to %s", w.Code, to)
		}
		if !strings.HasPrefix(to, "/") {
			return to
		}
		w = b.do("GET", to, "")
	}
	b.t.Fatal("it leads nowhere")
	return ""
}

var (
	forms  = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">(.*?)<button>([^<]*)</button>`)
	inputs = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// press presses the n-th button of that name, with what was typed.
func (b *browser) press(n int, button string, typed ...string) string {
	b.t.Helper()
	for _, f := range forms.FindAllStringSubmatch(b.page, -1) {
		if f[3] != button {
			continue
		}
		if n--; n > 0 {
			continue
		}
		form := url.Values{}
		for _, in := range inputs.FindAllStringSubmatch(f[2], -1) {
			form.Set(in[1], html.UnescapeString(in[2]))
		}
		for i := 0; i < len(typed); i += 2 {
			form.Set(typed[i], typed[i+1])
		}
		return b.follow(b.do("POST", f[1], form.Encode()))
	}
	b.t.Fatalf("there is no button %q on the page:\n%s", button, b.page)
	return ""
}

func (b *browser) shows(title string) {
	b.t.Helper()
	if !strings.Contains(b.page, "<h1>"+title+"</h1>") {
		b.t.Fatalf("the page is not %q:\n%s", title, b.page)
	}
}

func (l *loop) authorizeURL(more ...string) string {
	q := url.Values{
		"client_id": {l.ClientID()}, "redirect_uri": {callback}, "state": {"s&t"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return site + "/login/oauth/authorize?" + q.Encode()
}

// codeIn is the code that a callback brings, with the state.
func (l *loop) codeIn(to string) string {
	l.t.Helper()
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, callback+"?") || u.Query().Get("state") != "s&t" || u.Query().Get("code") == "" {
		l.t.Fatalf("it leads to %q", to)
	}
	return u.Query().Get("code")
}

// token posts to GitHub's login as JSON is asked for.
func (l *loop) login(path string, form url.Values) map[string]any {
	l.t.Helper()
	r := httptest.NewRequestWithContext(l.t.Context(), "POST", path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	l.ServeHTTP(w, r)
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != http.StatusOK {
		l.t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return out
}

func (l *loop) exchange(code string, more ...string) map[string]any {
	l.t.Helper()
	form := url.Values{
		"client_id": {l.ClientID()}, "client_secret": {l.ClientSecret()}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	return l.login("/login/oauth/access_token", form)
}

// signIn is a person's token.
func (l *loop) signIn(login string) map[string]any {
	l.t.Helper()
	to, err := l.Approve(l.authorizeURL(), login)
	if err != nil {
		l.t.Fatal(err)
	}
	out := l.exchange(l.codeIn(to))
	if out["access_token"] == nil {
		l.t.Fatalf("%v", out)
	}
	return out
}

func bearerOf(token map[string]any) string { return fmt.Sprint("Bearer ", token["access_token"]) }

func TestAPersonSignsIn(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	mona := b.AddPerson("mona")
	b.AddPerson("lisa")

	if to := b.open(b.authorizeURL()); to != "" {
		t.Fatalf("somebody is signed in: %s", to)
	}
	b.shows("Sign in to the stand-in GitHub")
	if to := b.press(1, "Sign in as mona"); to != "" {
		t.Fatalf("they did not ask mona: %s", to)
	}
	b.shows("Authorize Millrace")
	to := b.press(1, "Cancel")
	if u, err := url.Parse(to); err != nil || u.Query().Get("error") != "access_denied" || u.Query().Get("state") != "s&t" || u.Query().Get("code") != "" {
		t.Fatalf("she refused: %s", to)
	}
	b.open(b.authorizeURL())
	w := b.do("GET", b.authorizeURL(), "")
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' http://millrace.test;") {
		t.Errorf("a browser would not follow the form's redirect: %s", csp)
	}
	code := b.codeIn(b.press(1, "Authorize Millrace"))
	got := b.exchange(code)
	if got["token_type"] != "bearer" || got["scope"] != "" || got["expires_in"] != 28800.0 || got["refresh_token_expires_in"] != 15897600.0 ||
		!strings.HasPrefix(fmt.Sprint(got["access_token"]), "ghu_") || !strings.HasPrefix(fmt.Sprint(got["refresh_token"]), "ghr_") {
		t.Errorf("%v", got)
	}
	var user struct {
		ID                       int64
		Login, Name, Email, Type string
	}
	b.call(bearerOf(got), "GET", api+"/user", "", http.StatusOK, &user)
	if user.ID != mona.ID || user.Login != "mona" || user.Type != "User" || user.Email != "mona@people.test" {
		t.Errorf("%+v", user)
	}

	// The next time it is silent, unless the App asks.
	b.codeIn(b.open(b.authorizeURL()))
	if to := b.open(b.authorizeURL("prompt", "select_account", "login", "lisa")); to != "" {
		t.Fatalf("nobody was asked: %s", to)
	}
	b.shows("Sign in to the stand-in GitHub")
	if strings.Index(b.page, "lisa") > strings.Index(b.page, "mona") {
		t.Error("lisa was suggested, and mona comes first")
	}
	b.codeIn(b.press(1, "Sign in as mona"))
	b.open(b.authorizeURL("prompt", "select_account"))
	b.press(1, "Sign in as lisa")
	b.shows("Authorize Millrace")
	b.open("/people")
	b.press(1, "Sign out")
	b.open(b.authorizeURL())
	b.shows("Sign in to the stand-in GitHub")
}

func TestASignInThatGitHubRefuses(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	b.AddPerson("mona")
	b.open("/login")
	b.press(1, "Sign in as mona")
	for name, more := range map[string][]string{
		"another App":          {"client_id", "Iv1.other"},
		"another callback":     {"redirect_uri", "http://evil.test/"},
		"below the callback":   {"redirect_uri", callback + "/../x"},
		"a challenge in clear": {"code_challenge_method", "plain"},
		"a short challenge":    {"code_challenge", "x"},
	} {
		w := b.do("GET", b.authorizeURL(more...), "")
		if w.Code < 400 || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d to %s", name, w.Code, w.Header().Get("Location"))
		}
		if _, err := b.Approve(b.authorizeURL(more...), "mona"); err == nil {
			t.Errorf("%s: approved", name)
		}
	}
	for _, to := range []string{"http://evil.test/", "//evil.test", `/\evil.test`} {
		b.open("/login?return_to=" + url.QueryEscape(to))
		if to := b.press(1, "Sign in as mona"); to != "" {
			t.Errorf("the sign-in led to %s", to)
		}
	}
}

func TestACodeWorksOnce(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	l.AddPerson("mona")
	fresh := func() string {
		t.Helper()
		to, err := l.Approve(l.authorizeURL(), "mona")
		if err != nil {
			t.Fatal(err)
		}
		return l.codeIn(to)
	}
	code := fresh()
	if out := l.exchange(code, "client_secret", "wrong"); out["error"] != "incorrect_client_credentials" || out["error_description"] == "" || out["error_uri"] == "" {
		t.Errorf("%v", out)
	}
	if out := l.exchange(code); out["error"] != nil {
		t.Errorf("a stranger used mona's code up: %v", out)
	}
	for name, tc := range map[string]struct {
		code, want string
		more       []string
	}{
		"used":           {code, "bad_verification_code", nil},
		"made up":        {"0123", "bad_verification_code", nil},
		"wrong verifier": {fresh(), "bad_verification_code", []string{"code_verifier", verifier + "!"}},
		"no verifier":    {fresh(), "bad_verification_code", []string{"code_verifier", ""}},
		"another App":    {fresh(), "incorrect_client_credentials", []string{"client_id", "x"}},
		"other callback": {fresh(), "redirect_uri_mismatch", []string{"redirect_uri", callback + "/cli"}},
		"no such grant":  {fresh(), "unsupported_grant_type", []string{"grant_type", "password"}},
	} {
		if out := l.exchange(tc.code, tc.more...); out["error"] != tc.want || out["access_token"] != nil {
			t.Errorf("%s: %v", name, out)
		}
	}

	code = fresh()
	l.clock = l.clock.Add(10 * time.Minute)
	if out := l.exchange(code); out["error"] != "bad_verification_code" {
		t.Errorf("after ten minutes: %v", out)
	}

	// Without Accept, GitHub answers a form; and it takes JSON.
	w := l.send(t.Context(), "", "POST", "/login/oauth/access_token?"+url.Values{
		"client_id": {l.ClientID()}, "client_secret": {l.ClientSecret()}, "code": {fresh()}, "code_verifier": {verifier},
	}.Encode(), "")
	if form, err := url.ParseQuery(w.Body.String()); err != nil || !strings.HasPrefix(form.Get("access_token"), "ghu_") || form.Get("expires_in") != "28800" {
		t.Errorf("%s", w.Body)
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/login/oauth/access_token", strings.NewReader(fmt.Sprintf(
		`{"client_id":%q,"client_secret":%q,"code":%q,"code_verifier":%q}`, l.ClientID(), l.ClientSecret(), fresh(), verifier)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	w = httptest.NewRecorder()
	if l.ServeHTTP(w, r); !strings.Contains(w.Body.String(), `"access_token":"ghu_`) {
		t.Errorf("%s", w.Body)
	}

	l.faults(githubtest.Faults{API5xx: 1})
	if w := l.send(t.Context(), "", "POST", "/login/oauth/access_token", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("GitHub is away: %d", w.Code)
	}
}

func TestAPersonsTokenEnds(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	l.AddPerson("mona")
	first := l.signIn("mona")
	renew := func(token map[string]any, secret string) map[string]any {
		t.Helper()
		return l.login("/login/oauth/access_token", url.Values{
			"client_id": {l.ClientID()}, "client_secret": {secret}, "grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(token["refresh_token"])},
		})
	}
	if out := renew(first, "wrong"); out["error"] != "incorrect_client_credentials" {
		t.Errorf("%v", out)
	}
	l.clock = l.clock.Add(8 * time.Hour)
	l.call(bearerOf(first), "GET", api+"/user", "", http.StatusUnauthorized, nil)
	second := renew(first, l.ClientSecret())
	l.call(bearerOf(second), "GET", api+"/user", "", http.StatusOK, nil)
	if out := renew(first, l.ClientSecret()); out["error"] != "bad_refresh_token" {
		t.Errorf("renewed twice: %v", out)
	}
	l.call(fmt.Sprint("Bearer ", second["refresh_token"]), "GET", api+"/user", "", http.StatusUnauthorized, nil)
	for _, auth := range []string{"", l.asApp(), l.asInstallation(l.owner)} {
		l.call(auth, "GET", api+"/user", "", http.StatusUnauthorized, nil)
	}

	l.out = nil
	revoke := func(secret string, want int) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "DELETE", api+"/applications/"+l.ClientID()+"/grant", strings.NewReader(fmt.Sprintf(`{"access_token":%q}`, second["access_token"])))
		r.SetBasicAuth(l.ClientID(), secret)
		w := httptest.NewRecorder()
		if l.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
	}
	revoke("wrong", http.StatusNotFound)
	revoke(l.ClientSecret(), http.StatusNoContent)
	revoke(l.ClientSecret(), http.StatusNotFound)
	l.call(bearerOf(second), "GET", api+"/user", "", http.StatusUnauthorized, nil)
	if len(l.out) != 1 || l.out[0].Event != "github_app_authorization" || !strings.Contains(string(l.out[0].Body), `"action":"revoked"`) {
		t.Errorf("sent %+v", l.out)
	}
	b := &browser{loop: l}
	b.open(b.authorizeURL())
	b.press(1, "Sign in as mona")
	b.shows("Authorize Millrace")
}

func TestADeviceSignsIn(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	b.AddPerson("mona")
	b.signIn("mona") // she has authorised the App
	begin := func() map[string]any {
		t.Helper()
		return b.login("/login/device/code", url.Values{"client_id": {b.ClientID()}})
	}
	poll := func(d map[string]any) map[string]any {
		t.Helper()
		return b.login("/login/oauth/access_token", url.Values{
			"client_id": {b.ClientID()}, "device_code": {fmt.Sprint(d["device_code"])}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"},
		})
	}
	if out := b.login("/login/device/code", url.Values{"client_id": {"x"}}); out["error"] != "incorrect_client_credentials" {
		t.Errorf("%v", out)
	}
	d := begin()
	if d["verification_uri"] != site+"/login/device" || d["interval"] != 5.0 || d["expires_in"] != 900.0 || !regexp.MustCompile(`^[A-Z]{4}-[A-Z]{4}$`).MatchString(fmt.Sprint(d["user_code"])) {
		t.Errorf("%v", d)
	}
	for _, want := range []struct {
		wait time.Duration
		err  string
	}{{0, "authorization_pending"}, {4 * time.Second, "slow_down"}, {9 * time.Second, "slow_down"}, {15 * time.Second, "authorization_pending"}} {
		b.clock = b.clock.Add(want.wait)
		if out := poll(d); out["error"] != want.err {
			t.Errorf("after %v: %v, want %s", want.wait, out, want.err)
		}
	}
	b.open("/login/device")
	b.press(1, "Sign in as mona")
	b.press(1, "Continue", "user_code", "AAAA-AAAA")
	if !strings.Contains(b.page, "No device waits") {
		t.Errorf("%s", b.page)
	}
	b.press(1, "Continue", "user_code", strings.ToLower(fmt.Sprint(d["user_code"])))
	b.shows("Authorize Millrace on a device") // never silent
	b.clock = b.clock.Add(time.Minute)
	if out := poll(d); out["error"] != "authorization_pending" {
		t.Errorf("typing the code was enough: %v", out)
	}
	b.press(1, "Authorize Millrace")
	b.shows("Your device is signed in")
	b.clock = b.clock.Add(time.Minute)
	token := poll(d)
	b.call(bearerOf(token), "GET", api+"/user", "", http.StatusOK, nil)
	if out := poll(d); out["error"] != "incorrect_device_code" {
		t.Errorf("twice: %v", out)
	}
	if out := b.login("/login/oauth/access_token", url.Values{
		"client_id": {b.ClientID()}, "grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(token["refresh_token"])},
	}); out["error"] != nil {
		t.Errorf("a device has no secret: %v", out)
	}

	d = begin()
	b.open("/login/device")
	b.press(1, "Continue", "user_code", fmt.Sprint(d["user_code"]))
	b.press(1, "Cancel")
	b.shows("You refused")
	if out := poll(d); out["error"] != "access_denied" {
		t.Errorf("%v", out)
	}
	d = begin()
	b.clock = b.clock.Add(15 * time.Minute)
	if out := poll(d); out["error"] != "expired_token" || b.ApproveDevice(fmt.Sprint(d["user_code"]), "mona", true) {
		t.Errorf("%v", out)
	}
	d = begin()
	if !b.ApproveDevice(fmt.Sprint(d["user_code"]), "mona", true) || poll(d)["access_token"] == nil {
		t.Error("mona approved")
	}
}

// TestWhatAPersonSees: accounts where they are somebody and the App is installed, and nothing of the others.
func TestWhatAPersonSees(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	other := l.AddOwner("other", millrace.Organization)
	mona := l.AddOwner("mona", millrace.Personal)
	l.AddRepository("calm", "engine", false)
	for _, m := range [][3]string{{"calm", "mona", "admin"}, {"uninstalled", "mona", "admin"}, {"free", "mona", "admin"}} {
		if err := l.SetMember(m[0], m[1], m[2]); err != nil {
			t.Fatal(err)
		}
	}
	l.AddOwner("uninstalled", millrace.Organization)
	l.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"uninstalled"}})
	token := l.signIn("mona")
	auth := bearerOf(token)
	see := func() (at, as, hidden string) {
		t.Helper()
		var seen struct {
			Total         int `json:"total_count"`
			Installations []struct {
				ID      int64
				Account struct{ Login string }
			}
		}
		var installations, roles []string
		w := l.send(t.Context(), auth, "GET", api+"/user/installations", "")
		if err := json.Unmarshal(w.Body.Bytes(), &seen); err != nil || seen.Total != len(seen.Installations) {
			t.Fatalf("%s", w.Body)
		}
		for _, i := range seen.Installations {
			installations = append(installations, i.Account.Login)
		}
		var list []struct {
			State, Role  string
			Organization struct {
				ID    int64
				Login string
			}
		}
		l.call(auth, "GET", api+"/user/memberships/orgs", "", http.StatusOK, &list)
		for _, m := range list {
			roles = append(roles, m.Organization.Login+" "+m.Role+" "+m.State)
		}
		return strings.Join(installations, " "), strings.Join(roles, " "), w.Header().Get("X-GitHub-SSO")
	}
	if i, r, hidden := see(); i != "calm mona" || r != "calm admin active" || hidden != "" {
		t.Errorf("%q, %q, %q", i, r, hidden)
	}
	l.call(auth, "GET", fmt.Sprintf(api+"/user/installations/%d/repositories", l.owner.ID), "", http.StatusOK, nil)
	l.call(auth, "GET", fmt.Sprintf(api+"/user/installations/%d/repositories", mona.ID), "", http.StatusOK, nil)
	l.call(auth, "GET", fmt.Sprintf(api+"/user/installations/%d/repositories", other.ID), "", http.StatusNotFound, nil)

	// One at a time, both are had by pages.
	w := l.send(t.Context(), auth, "GET", api+"/user/installations?per_page=1", "")
	if !strings.Contains(w.Body.String(), `"total_count":2`) || strings.Contains(w.Body.String(), `"login":"mona"`) || !strings.Contains(w.Header().Get("Link"), `page=2&per_page=1>; rel="next"`) {
		t.Errorf("%s %s", w.Header().Get("Link"), w.Body)
	}

	l.faults(githubtest.Faults{SAML: githubtest.Owners{"calm"}, Uninstalled: githubtest.Owners{"uninstalled"}})
	if i, r, hidden := see(); i != "mona" || r != "" || hidden != fmt.Sprintf("partial-results; organizations=%d", l.owner.OwnerID) {
		t.Errorf("%q, %q, %q", i, r, hidden)
	}
	l.call(auth, "GET", fmt.Sprintf(api+"/user/installations/%d/repositories", l.owner.ID), "", http.StatusForbidden, nil)
	l.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"uninstalled"}})

	// Both roles, and none.
	if err := l.SetMember("calm", "mona", "member"); err != nil {
		t.Fatal(err)
	}
	if i, r, _ := see(); i != "calm mona" || r != "calm member active" {
		t.Errorf("%q, %q", i, r)
	}
	l.out = nil
	if err := l.RemoveMember("calm", "mona"); err != nil {
		t.Fatal(err)
	}
	if i, r, _ := see(); i != "mona" || r != "" {
		t.Errorf("%q, %q", i, r)
	}
	if err := l.SetMember("calm", "mona", "admin"); err != nil {
		t.Fatal(err)
	}
	l.wantEvents("organization member_removed", "organization member_added")
}
