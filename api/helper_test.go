package api_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// world is the API before a Postgres and a stand-in GitHub of its own, with two tenants.
type world struct {
	t           *testing.T
	db          storetest.Database
	st          *store.Store
	github      *githubtest.GitHub
	runners     *runners
	url         string
	log         *storetest.Log
	calm, rival storetest.Tenant
	root        *pgx.Conn // a superuser's: sees every row
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db := storetest.NewDatabase(t)
	w := &world{t: t, db: db, st: storetest.OpenAt(t, db, nil), runners: newRunners()}
	gh, err := githubtest.New(githubtest.Config{URL: "http://github.test"}) // only its payloads and keys are used
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gh.Close)
	w.github = gh
	app, err := github.New(github.Config{APIURL: gh.APIURL(), AppID: gh.AppID(), PrivateKeyPEM: gh.PrivateKeyPEM(), WebhookSecrets: []string{"an older one", gh.WebhookSecret()}})
	if err != nil {
		t.Fatal(err)
	}
	w.log = storetest.NewLog(t, gh.WebhookSecret(), "config of ")
	server := httptest.NewServer(api.New(api.Config{Store: w.st, Webhooks: app, Runners: w.runners, Log: w.log.Logger()}))
	t.Cleanup(server.Close)
	w.url = server.URL
	w.calm, w.rival = w.tenant("calm"), w.tenant("rival")
	if w.root, err = pgx.Connect(t.Context(), db.Superuser); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.root.Close(context.WithoutCancel(t.Context())) })
	return w
}

// tenant is an org whose installation is the stand-in's.
func (w *world) tenant(slug string) storetest.Tenant {
	w.t.Helper()
	owner := w.github.AddOwner(slug, millrace.Organization)
	org, user, err := w.st.CreateOrg(w.t.Context(), store.NewOrg{
		Slug: slug, Name: slug, Concurrency: 8, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512},
		Owner: millrace.User{GitHubID: owner.SenderID, Login: slug + "-admin"}, Installations: []millrace.Installation{owner.Installation},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	owner.OrgID = org.ID
	return storetest.Tenant{Org: org, Owner: user, Installation: owner.Installation}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) send(r *http.Request) answer {
	w.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(r) // no redirect is followed
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, body}
}

func (w *world) request(method, path string, body []byte) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// problem checks that a is a whole problem with this status, and returns it.
func problem(t *testing.T, what string, a answer, status int) (p client.Problem) {
	t.Helper()
	if a.status != status || a.header.Get("Content-Type") != client.ProblemType {
		t.Errorf("%s: %d %s %.200s; want a problem with %d", what, a.status, a.header.Get("Content-Type"), a.body, status)
		return p
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if p.Status != status || p.Type == "" || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Instance, "req_") || p.Instance != a.header.Get("X-Request-Id") {
		t.Errorf("%s: incomplete problem %s", what, a.body)
	}
	return p
}

func scalar[T any](w *world, sql string, args ...any) (v T) {
	w.t.Helper()
	if err := w.root.QueryRow(w.t.Context(), sql, args...).Scan(&v); err != nil {
		w.t.Fatalf("%v\n%s", err, sql)
	}
	return v
}

// runners is GitHub's side of VMs: names are taken until they are removed.
type runners struct {
	mu       sync.Mutex
	last     int64
	byName   map[string]millrace.Runner
	creates  int
	creating func() // called while a registration is made
}

func newRunners() *runners { return &runners{byName: map[string]millrace.Runner{}} }

func (r *runners) CreateJIT(_ context.Context, _ millrace.RunnerTarget, name string, _ []string) (millrace.JITConfig, error) {
	r.mu.Lock()
	creating := r.creating
	r.creating = nil
	r.mu.Unlock()
	if creating != nil {
		creating()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.creates++
	if _, taken := r.byName[name]; taken {
		return millrace.JITConfig{}, millrace.Errorf(millrace.Conflict, "Already exists.")
	}
	r.last++
	r.byName[name] = millrace.Runner{ID: r.last, Name: name}
	return millrace.JITConfig{RunnerID: r.last, Encoded: millrace.Secret("config of " + name)}, nil
}

func (r *runners) ListRunners(context.Context, millrace.RunnerTarget) ([]millrace.Runner, error) {
	return nil, nil
}

func (r *runners) GroupAdmits(context.Context, millrace.RunnerTarget, millrace.Repository) (bool, error) {
	return true, nil
}

func (r *runners) FindRunner(_ context.Context, _ millrace.RunnerTarget, name string) (millrace.Runner, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.byName[name]
	if !ok {
		return run, millrace.Errorf(millrace.NotFound, "None.")
	}
	return run, nil
}

func (r *runners) DeleteRunner(_ context.Context, _ millrace.RunnerTarget, id int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, run := range r.byName {
		if run.ID == id {
			delete(r.byName, name)
		}
	}
	return nil
}

// register is what an earlier try left behind.
func (r *runners) register(name string, online bool) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.byName[name] = millrace.Runner{ID: r.last, Name: name, Online: online}
	return r.last
}

func (r *runners) named(name string) (run millrace.Runner, creates int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byName[name], r.creates
}

// host is an enrolled agent with its keys.
type host struct {
	*client.Agent
	seal *ecdh.PrivateKey
}

func (w *world) enroll(tenant storetest.Tenant, name string) host {
	w.t.Helper()
	_, secret, err := w.st.Org(tenant.ID).CreateEnrollmentToken(w.t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		w.t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := client.Enroll(w.t.Context(), http.DefaultClient, w.url, client.EnrollRequest{
		Token: secret.Reveal(), Name: name, SignKey: public, SealKey: seal.PublicKey().Bytes(), Facts: storetest.Facts(),
	})
	if err != nil || out.Org != tenant.Slug || out.HostID.IsZero() {
		w.t.Fatalf("%+v, %v", out, err)
	}
	h := host{&client.Agent{URL: w.url, Host: out.HostID, Key: private, HTTP: http.DefaultClient}, seal}
	if started, err := h.Start(w.t.Context(), client.StartRequest{Facts: storetest.Facts()}); err != nil || started.Epoch != out.Epoch+1 {
		w.t.Fatalf("%+v, %v", started, err)
	}
	return h
}

// synced is a sync's outcome.
type synced struct {
	out client.SyncResponse
	err error
}

// open sends a sync, which the server holds, and which must end before a heartbeat would end it.
func (h host) open(t *testing.T, in client.SyncRequest) <-chan synced {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), millrace.Heartbeat/2)
	t.Cleanup(cancel)
	sent, results := make(chan struct{}), make(chan synced, 1)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
	go func() {
		out, err := h.Sync(ctx, in)
		results <- synced{out, err}
	}()
	<-sent
	return results
}

// place queues a job of tenant and launches a VM for it on h.
func (w *world) place(tenant storetest.Tenant, h host, githubID int64) millrace.VM {
	w.t.Helper()
	storetest.MustIntake(w.t, w.st, storetest.Delivery(tenant, githubID, millrace.JobQueued))
	_, err := w.st.Place(w.t.Context(), tenant.ID, store.Unknown, func(p millrace.Pass) (d millrace.Decision) {
		for _, j := range p.Jobs {
			if j.GitHubID == githubID {
				d.Place = append(d.Place, millrace.Placement{JobID: j.ID, HostID: h.Host, Arch: millrace.AMD64})
			}
		}
		return d
	})
	if err != nil {
		w.t.Fatal(err)
	}
	page, err := w.st.Org(tenant.ID).VMs(w.t.Context(), store.VMFilter{Limit: 1})
	if err != nil || len(page.VMs) != 1 {
		w.t.Fatalf("%+v, %v", page, err)
	}
	return page.VMs[0].VM
}
