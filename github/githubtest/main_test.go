package githubtest_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v4"
	"go.uber.org/goleak"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	site    = "http://github.test"
	webhook = "http://millrace.test/webhooks/github"
	api     = "/api/v3"
)

// hub is a stand-in without a network, in a bubble where time is ours, and all that it delivered. Its owner is calm.
type hub struct {
	*githubtest.GitHub
	t     testing.TB
	owner githubtest.Owner
	now   func() time.Time

	mu     sync.Mutex
	hooks  []hook
	answer func(*http.Request) (int, error) // of the webhooks' receiver; nil: 202
}

type hook struct {
	at     time.Time
	header http.Header
	body   []byte
	action string
	job    int64
}

// inBubble runs a test on a stand-in, in a bubble. set may change the configuration.
func inBubble(t *testing.T, set func(*githubtest.Config), test func(*hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, set)
		defer h.Close()
		test(h)
	})
}

func newHub(t testing.TB, set func(*githubtest.Config)) *hub {
	t.Helper()
	h := &hub{t: t, now: time.Now}
	cfg := githubtest.Config{URL: site, Key: sharedKey(), WebhookURL: webhook, Rand: mathrand.New(mathrand.NewPCG(1, 2))}
	cfg.Client = &http.Client{Transport: h, Timeout: 10 * time.Second}
	if set != nil {
		set(&cfg)
	}
	gh, err := githubtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.GitHub = gh
	h.owner = gh.AddOwner("calm", millrace.Organization)
	return h
}

// RoundTrip is the webhooks' receiver.
func (h *hub) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var e struct {
		Action      string
		WorkflowJob struct{ ID int64 } `json:"workflow_job"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.hooks = append(h.hooks, hook{time.Now(), r.Header.Clone(), body, e.Action, e.WorkflowJob.ID})
	answer := h.answer
	h.mu.Unlock()
	status := http.StatusAccepted
	if answer != nil {
		if status, err = answer(r); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// delivered are the actions delivered of a job, once all is quiet. Deliveries overtake each other, as GitHub's do: they
// are listed in the order in which they happened.
func (h *hub) delivered(job int64) string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	var actions []string
	for _, d := range h.hooks {
		if d.job == job {
			actions = append(actions, d.action)
		}
	}
	order := []string{"queued", "in_progress", "completed"}
	slices.SortFunc(actions, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return strings.Join(actions, " ")
}

// send makes one call and returns the answer.
func (h *hub) send(ctx context.Context, auth, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if auth != "" {
		r.Header.Set("Authorization", auth)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// conditional makes one conditional GET.
func (h *hub) conditional(auth, path, etag string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(h.t.Context(), http.MethodGet, path, http.NoBody)
	r.Header.Set("Authorization", auth)
	r.Header.Set("If-None-Match", etag)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// call makes one call, wants its status and decodes the answer into out unless that is nil.
func (h *hub) call(auth, method, path, body string, want int, out any) {
	h.t.Helper()
	w := h.send(h.t.Context(), auth, method, path, body)
	if w.Code != want {
		h.t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, want)
	}
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			h.t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
		}
	}
}

// appToken signs what the App calls with.
func (h *hub) appToken(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	h.t.Helper()
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		h.t.Fatal(err)
	}
	return "Bearer " + text
}

// asApp is what the App calls with, now.
func (h *hub) asApp() string {
	h.t.Helper()
	key, err := jwt.ParseRSAPrivateKeyFromPEM(h.PrivateKeyPEM())
	if err != nil {
		h.t.Fatal(err)
	}
	return h.appToken(jwt.SigningMethodRS256, key, jwt.MapClaims{
		"iss": strconv.FormatInt(h.AppID(), 10), "iat": h.now().Add(-time.Minute).Unix(), "exp": h.now().Add(9 * time.Minute).Unix(),
	})
}

// asInstallation is what the App calls with for an owner.
func (h *hub) asInstallation(o githubtest.Owner) string {
	h.t.Helper()
	var out struct{ Token string }
	h.call(h.asApp(), "POST", fmt.Sprintf(api+"/app/installations/%d/access_tokens", o.ID), "", http.StatusCreated, &out)
	return "token " + out.Token
}

// machine is a registered runner and what it knows.
type machine struct {
	h  *hub
	id int64
	as string
}

// register registers a runner at calm, or at one of its repositories.
func (h *hub) register(auth, at, name string, labels ...string) *machine {
	h.t.Helper()
	body, err := json.Marshal(map[string]any{"name": name, "runner_group_id": 1, "labels": labels})
	if err != nil {
		h.t.Fatal(err)
	}
	var out struct {
		Runner  struct{ ID int64 }
		Encoded []byte `json:"encoded_jit_config"`
	}
	h.call(auth, "POST", api+at+"/actions/runners/generate-jitconfig", string(body), http.StatusCreated, &out)
	var config githubtest.JITConfig
	if err := json.Unmarshal(out.Encoded, &config); err != nil {
		h.t.Fatalf("%s: %v", base64.StdEncoding.EncodeToString(out.Encoded), err)
	}
	return &machine{h, out.Runner.ID, "Bearer " + config.Token}
}

// online is register, and the machine connects.
func (h *hub) online(auth, at, name string, labels ...string) *machine {
	h.t.Helper()
	m := h.register(auth, at, name, labels...)
	m.call("session", "", http.StatusOK)
	return m
}

func (m *machine) call(path, body string, want int) {
	m.h.t.Helper()
	m.h.call(m.as, "POST", "/_broker/"+path, body, want, nil)
}

// poll asks for a job; 0 when there was none.
func (m *machine) poll(ctx context.Context) (status int, job int64) {
	w := m.h.send(ctx, m.as, "POST", "/_broker/poll", "")
	var out struct{ Job githubtest.BrokerJob }
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			m.h.t.Errorf("poll: %v", err)
		}
	}
	return w.Code, out.Job.ID
}

// queue queues a job of calm/engine.
func (h *hub) queue(labels ...string) int64 { return h.queueAt("calm", "engine", labels...) }

func (h *hub) queueAt(owner, repo string, labels ...string) int64 {
	h.t.Helper()
	id, err := h.Queue(githubtest.QueueRequest{
		Owner: owner, Repo: repo, Labels: labels, Steps: []githubtest.QueueStep{{Name: "One", Run: "true"}, {Name: "Two", Run: "true"}},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h *hub) state(job int64) githubtest.JobState {
	h.t.Helper()
	s, ok := h.Job(job)
	if !ok {
		h.t.Fatalf("there is no job %d", job)
	}
	return s
}
