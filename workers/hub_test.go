package workers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

// hub is a tenant between a stand-in GitHub and a database, at a time of its own: nothing happens but what a test does. Its
// owner is calm.
type hub struct {
	*githubtest.GitHub
	t      *testing.T
	st     *store.Store
	app    *github.App
	work   *workers.Workers
	owner  githubtest.Owner
	tenant millrace.Org
	org    store.Org
	host   millrace.Host

	mu    sync.Mutex
	at    time.Time
	sent  []githubtest.Outgoing
	quota int  // what GitHub says is left of the hour's calls; 0: what is
	cut   bool // GitHub can't be reached
	beats int64
}

var appKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newHub(t *testing.T) *hub { return newHubOf(t, millrace.Organization) }

func newHubOf(t *testing.T, kind millrace.OwnerType) *hub {
	t.Helper()
	h := &hub{t: t, at: time.Now().UTC().Truncate(time.Second)}
	var err error
	h.GitHub, err = githubtest.New(githubtest.Config{
		URL: "http://github.test", Now: h.now, Rand: mathrand.New(mathrand.NewPCG(1, 2)), Key: appKey(),
		Send: func(o githubtest.Outgoing) { h.sent = append(h.sent, o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	h.owner = h.AddOwner("calm", kind)
	h.st = storetest.OpenAt(t, storetest.NewDatabase(t), h.now)
	h.tenant, _, err = h.st.CreateOrg(t.Context(), store.NewOrg{
		Slug: "calm", Name: "calm", Concurrency: 1000, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512},
		Owner: millrace.User{GitHubID: 1, Login: "mona", Name: "Mona"}, Installations: []millrace.Installation{h.owner.Installation},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.org = h.st.Org(h.tenant.ID)
	_, secret, err := h.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	facts := storetest.Facts()
	facts.Offer = millrace.Size{MilliCPU: 1_000_000, MemoryMB: 1_000_000}
	h.host, _, err = h.st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: secret.Reveal(), Name: "rack-1", SignKey: make([]byte, 32), SealKey: make([]byte, 32), Facts: facts})
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	return h
}

func (h *hub) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

// pass lets time pass in which the host is heard.
func (h *hub) pass(d time.Duration) {
	h.t.Helper()
	h.silence(d)
	h.beats++
	h.st.Heard(h.tenant.ID, h.host.ID, h.host.Epoch, h.beats)
	h.must(h.st.FlushHeard(h.t.Context()))
}

// silence lets time pass in which the host is not heard.
func (h *hub) silence(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

// restart is another process: it knows what the database does.
func (h *hub) restart() {
	h.t.Helper()
	app, err := github.New(github.Config{
		APIURL: h.APIURL(), AppID: h.AppID(), PrivateKeyPEM: h.PrivateKeyPEM(), WebhookSecrets: []string{h.WebhookSecret()}, Transport: h, Now: h.now, Pauses: h.st,
	})
	h.must(err)
	h.app = app
	h.work = workers.New(workers.Config{Store: h.st, GitHub: app, Log: slog.New(slog.DiscardHandler)})
}

// RoundTrip is the way to GitHub.
func (h *hub) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.cut {
		return nil, errors.New("connection refused")
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	answer := rec.Result()
	if h.quota > 0 {
		answer.Header.Set("X-RateLimit-Remaining", strconv.Itoa(h.quota))
	}
	return answer, nil
}

func (h *hub) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) faults(f githubtest.Faults) {
	h.t.Helper()
	h.must(h.SetFaults(f))
}

// do does tasks.
func (h *hub) do(tasks ...river.JobArgs) {
	h.t.Helper()
	for _, task := range tasks {
		h.must(h.work.Do(h.t.Context(), task))
	}
}

// relay does the tasks that use cases asked for, and returns their kinds.
func (h *hub) relay() (kinds []string) {
	h.t.Helper()
	var list []river.JobArgs
	_, err := h.st.RelayOutbox(h.t.Context(), func(_ context.Context, _ pgx.Tx, kind string, args []byte) error {
		task, err := workers.DecodeTask(kind, args)
		list, kinds = append(list, task), append(kinds, kind)
		return err
	})
	h.must(err)
	h.do(list...)
	return kinds
}

// queue queues a job at GitHub, in calm/engine unless a repository is given. Its delivery is on its way.
func (h *hub) queue(repo ...string) int64 {
	h.t.Helper()
	name := "engine"
	if len(repo) > 0 {
		name = repo[0]
	}
	id, err := h.Queue(githubtest.QueueRequest{Owner: "calm", Repo: name, Labels: []string{"millrace"}})
	h.must(err)
	return id
}

// cancel cancels a job at GitHub.
func (h *hub) cancel(job int64) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(h.t.Context(), http.MethodPost, "/_standin/jobs/"+strconv.FormatInt(job, 10)+"/cancel", http.NoBody))
	if rec.Code != http.StatusAccepted {
		h.t.Fatal(rec.Body)
	}
}

// answer answers all deliveries that are on their way, with a status of ours; 200 takes them in.
func (h *hub) answer(status int) (n int) {
	h.t.Helper()
	list := h.sent
	h.sent = nil
	for _, o := range list {
		if status == http.StatusOK {
			d, err := h.app.Parse(o.Header, o.Body)
			h.must(err)
			_, err = h.st.Intake(h.t.Context(), d)
			h.must(err)
		}
		h.Answered(o.DeliveryID, status, time.Millisecond)
	}
	return len(list)
}

// jobs are our jobs, newest first.
func (h *hub) jobs() []store.JobRow {
	h.t.Helper()
	page, err := h.org.Jobs(h.t.Context(), store.JobFilter{Limit: 100})
	h.must(err)
	return page.Jobs
}

// job is our job of GitHub's id; nil when there is none.
func (h *hub) job(id int64) *store.JobRow {
	h.t.Helper()
	for _, j := range h.jobs() {
		if j.GitHubID == id {
			return &j
		}
	}
	return nil
}

func (h *hub) place() store.Placed {
	h.t.Helper()
	placed, err := h.st.Place(h.t.Context(), h.tenant.ID, store.Unknown, scheduler.Decide)
	h.must(err)
	return placed
}

func (h *hub) vm(id millrace.VMID) millrace.VM {
	h.t.Helper()
	row, err := h.org.VM(h.t.Context(), id)
	h.must(err)
	return row.VM
}

// launch queues a job and places a VM for it.
func (h *hub) launch(repo ...string) millrace.VM {
	h.t.Helper()
	job := h.queue(repo...)
	h.answer(http.StatusOK)
	if placed := h.place(); placed.VMs != 1 {
		h.t.Fatalf("%d VMs placed; the job waits for %+v", placed.VMs, h.job(job).Wait)
	}
	return *h.job(job).VM
}

// githubID is GitHub's id of the job that a VM is meant for.
func (h *hub) githubID(v millrace.VM) int64 {
	h.t.Helper()
	row, err := h.org.Job(h.t.Context(), v.ForJob)
	h.must(err)
	return row.GitHubID
}

// target is where runners of calm/engine register.
func (h *hub) target() millrace.RunnerTarget {
	at := millrace.RunnerTarget{InstallationID: h.owner.ID, Owner: "calm"}
	if h.owner.OwnerType == millrace.Personal {
		at.Repository = "engine"
	}
	return at
}

// register registers a VM's runner at GitHub.
func (h *hub) register(v millrace.VM) millrace.VM {
	h.t.Helper()
	config, err := h.app.CreateJIT(h.t.Context(), h.target(), v.RunnerName, v.Labels)
	h.must(err)
	h.must(h.org.SaveJIT(h.t.Context(), store.JITGrant{VM: millrace.VM{ID: v.ID, Epoch: v.Epoch}}, config.RunnerID, []byte("sealed")))
	return h.vm(v.ID)
}

// connect has a VM's runner register and connect: GitHub may give it a job.
func (h *hub) connect(v millrace.VM) millrace.VM {
	h.t.Helper()
	v = h.register(v)
	h.must(h.Connect(v.RunnerID))
	return h.observe(v, millrace.VMOnline)
}

// observe has the host report a VM.
func (h *hub) observe(v millrace.VM, state millrace.VMState) millrace.VM {
	h.t.Helper()
	_, err := h.org.Observe(h.t.Context(), h.host.ID, h.host.Epoch, "", []millrace.Observation{{VMID: v.ID, Epoch: v.Epoch, State: state, Reason: "as observed"}})
	h.must(err)
	return h.vm(v.ID)
}

// open are the open incidents.
func (h *hub) open() []millrace.Incident {
	h.t.Helper()
	page, err := h.org.Incidents(h.t.Context(), store.IncidentFilter{Open: true})
	h.must(err)
	return page.Incidents
}

// wantOpen wants these incidents to be open and no other.
func (h *hub) wantOpen(when string, codes ...millrace.WaitCode) {
	h.t.Helper()
	var got []millrace.WaitCode
	for _, i := range h.open() {
		got = append(got, i.Code)
	}
	if len(got) != len(codes) || len(got) > 0 && got[0] != codes[0] {
		h.t.Errorf("%s: %v are open, want %v", when, got, codes)
	}
}

// calls are GitHub's calls since the last time, of which the method and path hold a text: "GET /repos/…".
func (h *hub) calls(since time.Time, text string) (list []githubtest.Call) {
	for _, c := range h.Calls() {
		if !c.At.Before(since) && strings.Contains(c.Method+" "+c.Path, text) {
			list = append(list, c)
		}
	}
	return list
}
