package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/web"
)

// maker is somebody with a browser, who creates the App at a stand-in GitHub as millraced says.
type maker struct {
	*githubtest.GitHub
	t      *testing.T
	client *http.Client
	out    string
	here   string // what millraced serves
	ended  chan error
	said   strings.Builder // by millraced, once it has ended
	silent chan struct{}   // closed then
	stop   context.CancelFunc

	at     *url.URL // the page that the browser shows
	status int
	header http.Header
	page   string
}

// newMaker starts millraced; it waits for the browser.
func newMaker(t *testing.T, flags ...string) *maker {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	gh, err := githubtest.New(githubtest.Config{URL: "http://" + srv.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = gh
	srv.Start()
	gh.AddPerson("mona")
	if err := gh.SetMember("calm", "mona", "admin"); err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	m := &maker{GitHub: gh, t: t, client: &http.Client{Jar: jar, Transport: transport}, out: filepath.Join(t.TempDir(), "the app"), ended: make(chan error, 1), silent: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	m.stop = stop
	said, tell := io.Pipe()
	go func() {
		args := append([]string{"create-app", "--url", "https://millrace.test/", "--github-url", gh.URL() + "/", "--out", m.out}, flags...)
		err := run(ctx, args, nil, tell, tell)
		tell.Close()
		m.ended <- err
	}()
	lines := bufio.NewReader(said)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", err, <-m.ended)
	}
	m.here = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(first)
	go func() {
		defer close(m.silent)
		io.Copy(&m.said, lines) //nolint:errcheck // what is missing is missed below
	}()
	t.Cleanup(func() {
		stop()
		<-m.silent
		gh.Close()
		transport.CloseIdleConnections()
		srv.Close()
	})
	return m
}

func (m *maker) do(method, to string, form url.Values) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, to, strings.NewReader(form.Encode()))
	if err != nil {
		m.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := m.client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	m.at, m.status, m.header, m.page = resp.Request.URL, resp.StatusCode, resp.Header, string(content)
}

var (
	pageForms  = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">(.*?)<button>([^<]*)</button>`)
	pageInputs = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// press presses a button of the page.
func (m *maker) press(button string) {
	m.t.Helper()
	for _, f := range pageForms.FindAllStringSubmatch(m.page, -1) {
		if f[3] != button {
			continue
		}
		to, err := m.at.Parse(html.UnescapeString(f[1]))
		if err != nil {
			m.t.Fatal(err)
		}
		form := url.Values{}
		for _, in := range pageInputs.FindAllStringSubmatch(f[2], -1) {
			form.Set(in[1], html.UnescapeString(in[2]))
		}
		m.do("POST", to.String(), form)
		return
	}
	m.t.Fatalf("there is no button %q on the page:\n%s", button, m.page)
}

// toGitHub goes as far as GitHub's button.
func (m *maker) toGitHub() {
	m.t.Helper()
	m.do("GET", m.here+"/", nil)
	m.press("Create the App at GitHub")
	if strings.Contains(m.page, "Sign in as mona") {
		m.press("Sign in as mona")
	}
}

// written are the files there are.
func (m *maker) written() (names []string) {
	m.t.Helper()
	list, err := os.ReadDir(m.out)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

func (m *maker) wantEnd() error {
	m.t.Helper()
	select {
	case err := <-m.ended:
		<-m.silent
		return err
	case <-time.After(20 * time.Second):
		m.t.Fatal("it does not end")
		return nil
	}
}

func TestCreateApp(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"a person's": nil, "an organization's": {"--organization", "calm", "--name", "Calm CI"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMaker(t, flags...)
			m.do("GET", m.here+"/", nil)
			csp := m.header.Get("Content-Security-Policy")
			if !strings.HasPrefix(csp, "default-src 'none'; style-src 'self'; form-action "+m.URL()+";") || strings.Contains(csp, "unsafe") || strings.Contains(m.page, "<script") || strings.Contains(m.page, "style=") {
				t.Errorf("%s\n%s", csp, m.page)
			}
			for _, p := range millrace.AppPermissions {
				if strings.Contains(m.page, html.EscapeString(p.Why)) == p.Personal {
					t.Errorf("of %s the page says %v", p.Name, !p.Personal)
				}
			}
			m.toGitHub()
			title := map[bool]string{true: "Millrace at millrace.test", false: "Calm CI"}[flags == nil]
			if !strings.Contains(m.page, "<h3>"+title+"</h3>") || !strings.Contains(m.page, "members: read, metadata: read, organization_self_hosted_runners: write") {
				t.Fatalf("%s", m.page)
			}
			m.press("Create GitHub App")
			if m.status != http.StatusOK || m.at.Host != strings.TrimPrefix(m.here, "http://") || !strings.Contains(m.page, "The App is made") || m.header.Get("Referrer-Policy") != "no-referrer" {
				t.Fatalf("%d at %s: %s", m.status, m.at, m.page)
			}
			if err := m.wantEnd(); err != nil {
				t.Fatal(err)
			}
			m.wantServes(t)
			owner := map[bool]string{true: "", false: "/organizations/calm"}[flags == nil]
			for _, want := range []string{
				m.URL() + owner + `/settings/apps/millrace, "Enable Device Flow"`, m.URL() + "/apps/millrace/installations/new", ". '" + filepath.Join(m.out, "github.env") + "'",
			} {
				if !strings.Contains(m.said.String(), want) {
					t.Errorf("it did not say %q:\n%s", want, m.said.String())
				}
			}
			for _, secret := range []string{m.ClientSecret(), m.WebhookSecret()} {
				if strings.Contains(m.said.String(), secret) || strings.Contains(m.page, secret) {
					t.Error("a secret was shown")
				}
			}
		})
	}
}

// wantServes holds what was written against what serve reads, and calls GitHub with it.
func (m *maker) wantServes(t *testing.T) {
	t.Helper()
	if info, err := os.Stat(m.out); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	for _, name := range m.written() {
		if info, err := os.Stat(filepath.Join(m.out, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	content, err := os.ReadFile(filepath.Join(m.out, "github.env"))
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			environ = append(environ, key+"="+strings.Trim(value, "'"))
		}
	}
	cfg, err := readConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.URL != "https://millrace.test" || cfg.GitHubURL != m.URL() || cfg.GitHubClientID != m.ClientID() || cfg.GitHubClientSecret != m.ClientSecret() || len(cfg.GitHubWebhookSecret) != 1 || cfg.GitHubWebhookSecret[0] != m.WebhookSecret() {
		t.Errorf("%+v", cfg)
	}
	app, err := github.New(github.Config{APIURL: cfg.GitHubAPIURL, AppID: cfg.GitHubAppID, PrivateKeyPEM: []byte(cfg.GitHubPrivateKey), Transport: m.client.Transport})
	if err != nil {
		t.Fatal(err)
	}
	calm := m.AddOwner("calm", millrace.Organization)
	if got, err := app.Installation(t.Context(), calm.ID); err != nil || got != calm.Installation {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestCreateAppBeginsAgain: what comes to nothing writes nothing, and the next try may succeed.
func TestCreateAppBeginsAgain(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	want := func(status int) {
		t.Helper()
		if m.status != status || !strings.Contains(m.page, "Begin again") {
			t.Errorf("%d at %s, want %d: %s", m.status, m.at, status, m.page)
		}
		if files := m.written(); files != nil {
			t.Errorf("written: %q", files)
		}
	}
	m.toGitHub()
	state := regexp.MustCompile(`name="state" value="([^"]+)"`).FindStringSubmatch(m.page)[1]
	m.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	m.press("Create GitHub App")
	back := m.header.Get("Location")
	m.client.CheckRedirect = nil
	code := regexp.MustCompile(`code=([^&]+)`).FindStringSubmatch(back)[1]
	for _, wrong := range []string{"", strings.ToLower(state), state + "A", state[1:]} {
		m.do("GET", m.here+"/created?"+url.Values{"code": {code}, "state": {wrong}}.Encode(), nil)
		want(http.StatusBadRequest)
	}
	if _, err := github.ConvertManifest(t.Context(), m.client.Transport, m.APIURL(), code); err != nil { // somebody else was faster
		t.Fatal(err)
	}
	for _, to := range []string{back, m.here + "/created?state=" + state, m.here + "/created?code=../x&state=" + state} {
		m.do("GET", to, nil)
		want(http.StatusGone)
	}
	if err := m.SetFaults(githubtest.Faults{API5xx: 1}); err != nil {
		t.Fatal(err)
	}
	m.do("GET", back, nil)
	want(http.StatusServiceUnavailable)
	if err := m.SetFaults(githubtest.Faults{}); err != nil {
		t.Fatal(err)
	}

	// A name that somebody made lead here.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.here+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.test"
	resp, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusMisdirectedRequest || strings.Contains(string(body), state) {
		t.Errorf("%d %s, %v", resp.StatusCode, body, err)
	}

	m.toGitHub()
	m.press("Create GitHub App")
	if err := m.wantEnd(); err != nil || len(m.written()) != 4 {
		t.Errorf("%v, written: %q", err, m.written())
	}
}

func TestCreateAppOverwritesNothing(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	m.toGitHub()
	// It comes while somebody is at GitHub.
	there := filepath.Join(m.out, "client-secret")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.press("Create GitHub App")
	if err := m.wantEnd(); m.status != http.StatusInternalServerError || err == nil || !strings.Contains(err.Error(), m.URL()+"/settings/apps/millrace") {
		t.Errorf("%d, %v", m.status, err)
	}
	if content, err := os.ReadFile(there); err != nil || string(content) != "mine" || len(m.written()) != 1 {
		t.Errorf("%q, %v; written: %q", content, err, m.written())
	}
	err := run(t.Context(), []string{"create-app", "--url", "https://millrace.test", "--out", m.out}, nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), there) {
		t.Errorf("%v", err)
	}
}

func TestCreateAppEnds(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	m.stop()
	if err := m.wantEnd(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, args := range []string{
		"", "--url x", "--url ftp://a.test", "--url https://a.test/b", "--url https://u:p@a.test", "--url https://a.test --github-url x", "--url https://a.test --organization a/b",
		"--url https://a.test --name " + strings.Repeat("x", 35),
	} {
		out := filepath.Join(t.TempDir(), "app")
		if err := run(t.Context(), append([]string{"create-app", "--out", out}, strings.Fields(args)...), nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("%s: %v", args, err)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestAPIOfGitHub(t *testing.T) {
	t.Parallel()
	for pages, want := range map[string]string{
		"https://github.com": "https://api.github.com/", "https://calm.ghe.com": "https://api.calm.ghe.com/", "https://git.calm.test:8443": "https://git.calm.test:8443/api/v3/",
	} {
		u, err := url.Parse(pages)
		if err != nil {
			t.Fatal(err)
		}
		if got := apiOf(u); got != want {
			t.Errorf("%s: %s, want %s", pages, got, want)
		}
	}
}

// The App leads to what is served.
func TestTheManifestLeadsHere(t *testing.T) {
	t.Parallel()
	m := string(github.Manifest(github.ManifestConfig{URL: "https://millrace.test"}))
	for _, want := range []string{fmt.Sprintf(`"callback_urls":["https://millrace.test%s"]`, web.SignInCallback), `"url":"https://millrace.test/webhooks/github"`} {
		if !strings.Contains(m, want) {
			t.Errorf("%s is not in %s", want, m)
		}
	}
}
