package github_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a stand-in GitHub on a port of its own, the App as its client, and an organisation that installed it.
type world struct {
	*githubtest.GitHub
	App   *github.App
	Owner githubtest.Owner

	client *http.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	gh, err := githubtest.New(githubtest.Config{URL: "http://" + srv.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = gh
	srv.Start()
	transport := &http.Transport{}
	t.Cleanup(func() {
		gh.Close() // ends the polls, for which the server's Close would wait
		transport.CloseIdleConnections()
		srv.Close()
	})
	return &world{
		GitHub: gh, App: newApp(t, gh, transport), Owner: gh.AddOwner("calm", millrace.Organization), client: &http.Client{Transport: transport},
	}
}

func newApp(t *testing.T, gh *githubtest.GitHub, transport http.RoundTripper) *github.App {
	t.Helper()
	app, err := github.New(github.Config{
		APIURL: gh.APIURL(), AppID: gh.AppID(), PrivateKeyPEM: gh.PrivateKeyPEM(), WebhookSecrets: []string{gh.WebhookSecret()}, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

// at is the organisation, where runners register.
func (w *world) at() millrace.RunnerTarget {
	return millrace.RunnerTarget{InstallationID: w.Owner.ID, Owner: w.Owner.OwnerLogin}
}

// machine is what runs inside a VM: it knows nothing but its JIT config.
type machine struct {
	client *http.Client
	config githubtest.JITConfig
}

func (w *world) machine(t *testing.T, encoded millrace.Secret) *machine {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(encoded.Reveal())
	m := &machine{client: w.client}
	if err == nil {
		err = json.Unmarshal(content, &m.config)
	}
	if err != nil {
		t.Fatalf("encoded_jit_config: %v", err)
	}
	return m
}

// call makes one call of the broker and returns the answer's status and body.
func (m *machine) call(t *testing.T, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.config.ServerURL+"/_broker/"+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.config.Token)
	resp, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, content
}

// must is call for a call that succeeds.
func (m *machine) must(t *testing.T, path, body string) []byte {
	t.Helper()
	status, content := m.call(t, path, body)
	if status > 299 {
		t.Fatalf("%s: %d %s", path, status, content)
	}
	return content
}

func wantCode(t *testing.T, err error, code millrace.Code) {
	t.Helper()
	if got := millrace.CodeOf(err); got != code {
		t.Errorf("code %q (%v), want %q", got, err, code)
	}
}
