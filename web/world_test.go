package web_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/web"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// noon is when tests happen.
var noon = time.Date(2026, 3, 18, 12, 0, 0, 0, time.UTC)

// world is a served dashboard over a database of its own, whose clock the test moves.
type world struct {
	t     *testing.T
	Store *store.Store
	Org   storetest.Tenant
	URL   string

	db  storetest.Database
	log *storetest.Log

	Install string // where at GitHub the App is installed

	mu   sync.Mutex
	time time.Time
	next int64 // GitHub ids
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(string) millrace.SignIn { return nil })
}

// newWorldWith is a world whose people sign in as signIn, which is told the dashboard's URL, has it.
func newWorldWith(t *testing.T, signIn func(url string) millrace.SignIn, install ...string) *world {
	t.Helper()
	w := &world{t: t, Install: strings.Join(install, ""), time: noon.AddDate(0, 0, -6), next: 100}
	w.db = storetest.NewDatabase(t)
	w.Store = storetest.OpenAt(t, w.db, w.now)
	if err := w.Store.KeepPartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.at(noon)
	w.Org = storetest.MustCreateOrg(t, w.Store, "calm")
	server := httptest.NewUnstartedServer(nil)
	w.URL = "http://" + server.Listener.Addr().String()
	people := signIn(w.URL)
	w.log = storetest.NewLog(t)
	server.Config.Handler = web.New(web.Config{Store: w.Store, SignIn: people, URL: w.URL, GitHub: "https://github.test", Install: w.Install, Now: w.now, Log: w.log.Logger()})
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) at(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = t
}

func (w *world) pass(d time.Duration) { w.at(w.now().Add(d)) }

// link is a fresh sign-in link of the org's owner.
func (w *world) link() string {
	w.t.Helper()
	secret, err := w.Store.CreateSignInLink(w.t.Context(), w.Org.Owner.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.URL + "/sign-in/" + secret.Reveal()
}

// browser is a client with cookies that doesn't follow redirects, and no JavaScript.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// member is a browser that is signed in.
func (w *world) member() *http.Client {
	w.t.Helper()
	b := browser(w.t)
	if res, _ := w.get(b, w.link()); res.StatusCode != http.StatusSeeOther {
		w.t.Fatalf("signing in: %s", res.Status)
	}
	return b
}

// get fetches a path of the dashboard, or a whole URL.
func (w *world) get(b *http.Client, path string, header ...string) (*http.Response, string) {
	w.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = w.URL + path
	}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return w.do(b, req)
}

func (w *world) post(b *http.Client, path string, header ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.URL+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return w.do(b, req)
}

// submit sends a form, as a page of the dashboard does.
func (w *world) submit(b *http.Client, path string, form url.Values) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return w.do(b, req)
}

func (w *world) do(b *http.Client, req *http.Request) (*http.Response, string) {
	w.t.Helper()
	res, err := b.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(body)
}

func (w *world) host(name string, n byte) millrace.Host {
	w.t.Helper()
	return storetest.MustEnroll(w.t, w.Store, w.Org, name, bytes.Repeat([]byte{n}, 32), bytes.Repeat([]byte{n + 1}, 32))
}

// queue announces a job.
func (w *world) queue(change ...func(*millrace.Job)) (id int64) {
	w.t.Helper()
	w.next++
	w.deliver(w.next, millrace.JobQueued, change...)
	return w.next
}

func (w *world) deliver(id int64, status millrace.JobStatus, change ...func(*millrace.Job)) {
	w.t.Helper()
	queued := w.now().Truncate(time.Second)
	storetest.MustIntake(w.t, w.Store, storetest.Delivery(w.Org, id, status, append([]func(*millrace.Job){func(j *millrace.Job) {
		j.QueuedAt = queued
		j.HTMLURL = fmt.Sprintf("https://github.com/calm/app/actions/runs/%d/job/%d", id*10, id)
		if status != millrace.JobQueued {
			j.StartedAt = queued
		}
		if status == millrace.JobCompleted {
			j.CompletedAt = queued
		}
	}}, change...)...))
}

// place gives every queued job a VM on host, or a reason to wait.
func (w *world) place(host millrace.Host, wait millrace.WaitReason) (vm millrace.VM) {
	w.t.Helper()
	_, err := w.Store.Place(w.t.Context(), w.Org.ID, store.Unknown, func(p millrace.Pass) (d millrace.Decision) {
		covered := map[millrace.JobID]bool{}
		for _, v := range p.VMs {
			covered[v.ForJob] = true
		}
		d.Wait = map[millrace.JobID]millrace.WaitReason{}
		for _, j := range p.Jobs {
			switch {
			case covered[j.ID]:
			case wait.Code != "":
				d.Wait[j.ID] = wait
			default:
				d.Place = append(d.Place, millrace.Placement{JobID: j.ID, HostID: host.ID, Arch: millrace.AMD64})
			}
		}
		return d
	})
	if err != nil {
		w.t.Fatal(err)
	}
	page, err := w.Store.Org(w.Org.ID).VMs(w.t.Context(), store.VMFilter{Limit: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(page.VMs) > 0 {
		vm = page.VMs[0].VM
	}
	return vm
}

func (w *world) observe(host millrace.Host, vm millrace.VM, state millrace.VMState, usage millrace.Metering) {
	w.t.Helper()
	o := millrace.Observation{VMID: vm.ID, Epoch: vm.Epoch, State: state, Usage: usage, Steps: []millrace.Step{{State: state}}}
	if state == millrace.VMGone {
		o.ExitCode = new(int)
	}
	if _, err := w.Store.Org(w.Org.ID).Observe(w.t.Context(), host.ID, host.Epoch, "", []millrace.Observation{o}); err != nil {
		w.t.Fatal(err)
	}
}

// run takes a queued job as far as until, in the times a real one takes, and says what its VM prints.
func (w *world) run(host millrace.Host, id int64, until millrace.Stage, length time.Duration, conclusion string, change ...func(*millrace.Job)) millrace.VM {
	w.t.Helper()
	ctx, org := w.t.Context(), w.Store.Org(w.Org.ID)
	w.pass(7 * time.Millisecond)
	vm := w.place(host, millrace.WaitReason{})
	if until == millrace.StagePlaced {
		return vm
	}
	w.pass(18 * time.Millisecond)
	if until == millrace.StageBooting { // and GitHub takes its time
		w.pass(3 * time.Second)
		w.observe(host, vm, millrace.VMBooting, millrace.Metering{})
		return vm
	}
	if err := org.SaveJIT(ctx, store.JITGrant{VM: vm, At: w.now()}, id+5000, []byte("sealed")); err != nil {
		w.t.Fatal(err)
	}
	w.pass(1437 * time.Millisecond)
	w.observe(host, vm, millrace.VMOnline, millrace.Metering{CPUMillis: 900, PeakMemory: 90 << 20})
	w.pass(212 * time.Millisecond)
	running := append([]func(*millrace.Job){func(j *millrace.Job) { j.RunnerID = id + 5000 }}, change...)
	w.deliver(id, millrace.JobInProgress, running...)
	w.place(host, millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: "No host is free."})
	w.observe(host, vm, millrace.VMBusy, millrace.Metering{CPUMillis: 1900, PeakMemory: 140 << 20})
	log := "\x1b[36m##[group]Run make test\x1b[0m\nok  \tgithub.com/calm/app\t2.113s\nLinux millrace 6.1.0-amd64 #1 SMP x86_64\n"
	if err := org.AppendConsole(ctx, host.ID, vm.ID, 0, []byte(log)); err != nil {
		w.t.Fatal(err)
	}
	if until == millrace.StageRunning {
		return vm
	}
	started := w.now().Truncate(time.Second)
	w.pass(length)
	w.deliver(id, millrace.JobCompleted, append(running, func(j *millrace.Job) { j.Conclusion, j.StartedAt = conclusion, started })...)
	w.pass(310 * time.Millisecond)
	w.observe(host, vm, millrace.VMGone, millrace.Metering{
		CPUMillis: length.Milliseconds() * 7 / 10, PeakMemory: 388 << 20, DiskRead: 41 << 20, DiskWrite: 212 << 20, NetRx: 88 << 20, NetTx: 1 << 20,
	})
	if err := org.AppendSamples(ctx, host.ID, vm.ID, vm.Epoch, measured(length)); err != nil {
		w.t.Fatal(err)
	}
	return vm
}

// measured is what a VM used that downloads, builds on most of a vCPU, and uploads.
func measured(length time.Duration) (s millrace.Series) {
	x := millrace.Sample{Memory: 90 << 20}
	seconds := max(2, int64(length.Seconds()))
	for n := range seconds {
		x.UptimeMS, x.PeakCPU = (n+1)*1000, 500+n*37%500
		switch third := 3 * n / seconds; third {
		case 0:
			x.NetRx, x.DiskWrite, x.PeakCPU = x.NetRx+(20+n*7%9)*(1<<20), x.DiskWrite+(18+n*5%7)*(1<<20), 150
		case 1:
			x.DiskRead, x.Memory = x.DiskRead+(n%5)*(1<<20), min(x.Memory+(3<<20), 388<<20)
		case 2:
			x.NetTx, x.Memory = x.NetTx+(1<<20), 310<<20
		}
		x.CPUMillis += x.PeakCPU
		s = append(s, x)
	}
	return s
}

// named gives a job its names.
func named(repository, workflow, name, branch, actor string, labels ...string) func(*millrace.Job) {
	return func(j *millrace.Job) {
		j.Repository, j.Workflow, j.Name, j.Branch, j.Actor = repository, workflow, name, branch, actor
		for _, c := range repository {
			j.RepositoryID = j.RepositoryID*31 + int64(c)
		}
		j.ActorID = int64(len(actor))
		if len(labels) > 0 {
			j.Labels = labels
		}
	}
}

// busy fills the org with a week of jobs and a queue, and gives it a second org beside it.
func (w *world) busy() (running store.JobRow) {
	w.t.Helper()
	_, _, err := w.Store.CreateOrg(w.t.Context(), store.NewOrg{
		Slug: "calm-research", Name: "Calm Research", DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512}, Owner: w.Org.Owner,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.at(noon.AddDate(0, 0, -6))
	rack := w.host("rack-1.helsinki.calm.example", 10)
	w.host("spare-machine-under-the-desk-with-a-name-that-goes-on-and-on.calm.example", 20)
	shapes := []func(*millrace.Job){
		named("calm/app", "build", "test (1.26)", "main", "mona"),
		named("calm/app", "build", "lint", "fix/flaky-clock", "hubot"),
		named("calm/site", "deploy", "publish", "main", "renovate[bot]"),
		named("calm/compiler", "nightly", "bootstrap stage 2", "main", "ada", "self-hosted", "millrace-2cpu-4gb"),
	}
	for day := range 7 {
		w.at(noon.AddDate(0, 0, day-6).Add(-time.Hour))
		for i := range 2 + day*day%5 {
			shape := shapes[(day+i)%len(shapes)]
			conclusion := "success"
			if (day+i)%5 == 4 {
				conclusion = "failure"
			}
			w.run(rack, w.queue(shape), millrace.StageDone, time.Duration(50+37*i*(day+1))*time.Second, conclusion, shape)
		}
	}
	w.at(noon)
	long := named("calm/"+strings.Repeat("long-repository-", 6), "a workflow with a rather long name", strings.Repeat("matrix ", 20), strings.Repeat("feature/", 30), "mona")
	w.run(rack, w.queue(long), millrace.StageDone, 17*time.Second, "cancelled", long)
	w.run(rack, w.queue(shapes[3]), millrace.StageRunning, 0, "", shapes[3])
	w.pass(time.Second)
	w.run(rack, w.queue(shapes[0]), millrace.StageBooting, 0, "")
	w.pass(time.Second)
	w.queue(shapes[1])
	w.place(rack, millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: "All 8 vCPUs of the hosts that could run it are taken."})
	w.pass(2 * time.Second)
	if err := w.Store.FlushHeard(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.Store.Heard(w.Org.ID, rack.ID, rack.Epoch, 1)
	if err := w.Store.FlushHeard(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	page, err := w.Store.Org(w.Org.ID).Jobs(w.t.Context(), store.JobFilter{Status: []millrace.JobStatus{millrace.JobInProgress}})
	if err != nil || len(page.Jobs) != 1 {
		w.t.Fatalf("running jobs: %d, %v", len(page.Jobs), err)
	}
	return page.Jobs[0]
}

// secure is the same dashboard as it is behind https.
func (w *world) secure() string {
	w.t.Helper()
	server := httptest.NewServer(web.New(web.Config{Store: w.Store, URL: "https://millrace.example", Secure: true, Now: w.now}))
	w.t.Cleanup(server.Close)
	return server.URL
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
