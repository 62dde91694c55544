package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// TestOpenAPI compares what the server says of itself with openapi.json, so that a review sees a change of the API.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.send(w.request(http.MethodGet, "/openapi.json", nil))
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, a.body, "", "  "); err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(got.String()) + "\n"
	const golden = "openapi.json"
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("the API differs from %s; if that is meant, run: go test ./api -run TestOpenAPI -update\n%s", golden, diff)
	}
}

func (w *world) get(path, token string) answer {
	w.t.Helper()
	r := w.request(http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return w.send(r)
}

// anonymous is a problem with its headers, without what names the request.
func anonymous(t *testing.T, a answer) string {
	t.Helper()
	var p client.Problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	p.Instance = ""
	h := a.header.Clone()
	h.Del("X-Request-Id")
	h.Del("Date")
	return fmt.Sprintf("%d %+v %v", a.status, p, h)
}

func TestREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, foreign := storetest.MustCreateToken(t, w.st, w.calm), storetest.MustCreateToken(t, w.st, w.rival)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	if err := w.st.Org(w.calm.ID).AppendConsole(t.Context(), h.Host, vm.ID, 0, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	var ids millrace.Source
	now := vm.Stamps.Placed
	base := "/api/v1/orgs/"
	lists := []string{"/jobs", "/jobs?status=queued,in_progress&repository=calm/app&limit=1", "/vms", "/vms?live=true&host=" + h.Host.String(), "/hosts", "/usage", "/usage?by=day", "/incidents", "/incidents?open=true&limit=1"}
	rows := map[string]string{ // a row and one that doesn't exist
		"/jobs/" + vm.ForJob.String():         "/jobs/" + millrace.NewJobID(&ids, now).String(),
		"/vms/" + vm.ID.String():              "/vms/" + millrace.NewVMID(&ids, now).String(),
		"/vms/" + vm.ID.String() + "/console": "/vms/" + millrace.NewVMID(&ids, now).String() + "/console",
		"/vms/" + vm.ID.String() + "/samples": "/vms/" + millrace.NewVMID(&ids, now).String() + "/samples",
		"/hosts/" + h.Host.String():           "/hosts/" + millrace.NewHostID(&ids, now).String(),
	}
	all := lists
	for row := range rows {
		all = append(all, row)
	}
	for _, path := range all {
		if a := w.get(base+"calm"+path, token); a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		for name, bad := range map[string]string{
			"none": "", "malformed": "mrat_x", "mistyped": token[:len(token)-1] + "!", "unknown": millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal(),
			"of another kind": millrace.NewSecret(millrace.SessionPrefix, nil).Reveal(),
		} {
			a := w.get(base+"calm"+path, bad)
			problem(t, path+" with the token "+name, a, http.StatusUnauthorized)
			if a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with the token %s: no WWW-Authenticate", path, name)
			}
			// What is asked for without a token doesn't tell which orgs there are.
			if elsewhere := w.get(base+"nowhere"+path, bad); anonymous(t, elsewhere) != anonymous(t, a) {
				t.Errorf("%s with the token %s: an org that exists is told from one that doesn't", path, name)
			}
		}
		theirs, nobodys := w.get(base+"calm"+path, foreign), w.get(base+"nowhere"+path, foreign)
		problem(t, path+" with another org's token", theirs, http.StatusNotFound)
		if diff := cmp.Diff(anonymous(t, nobodys), anonymous(t, theirs)); diff != "" {
			t.Errorf("%s: another's org differs from none:\n%s", path, diff)
		}
	}
	for row, none := range rows {
		theirs, nobodys := w.get(base+"rival"+row, foreign), w.get(base+"rival"+none, foreign)
		problem(t, row+" in another org", theirs, http.StatusNotFound)
		if diff := cmp.Diff(anonymous(t, nobodys), anonymous(t, theirs)); diff != "" {
			t.Errorf("%s: another's row differs from none:\n%s", row, diff)
		}
	}
	for _, list := range []string{"/jobs", "/vms", "/hosts", "/incidents"} {
		if got := strings.TrimSpace(string(w.get(base+"rival"+list, foreign).body)); got != `{"data":[],"next_cursor":null}` {
			t.Errorf("%s of an org without any: %s", list, got)
		}
	}
	if got := string(w.get(base+"calm/vms/"+vm.ID.String()+"/console", token).body); got != "hello\n" {
		t.Errorf("console %q", got)
	}
	r := w.request(http.MethodPost, base+"calm/jobs", nil)
	a := w.send(r)
	problem(t, "POST", a, http.StatusMethodNotAllowed)
	problem(t, "unknown path", w.get("/api/v1/nothing", token), http.StatusNotFound)
	problem(t, "unknown path of an org", w.get(base+"calm/nothing", token), http.StatusNotFound)
	problem(t, "root", w.get("/", ""), http.StatusNotFound)
}

// Nothing that a caller may send is our fault.
func TestRESTRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	cursor := func(b string) string { return base64.RawURLEncoding.EncodeToString([]byte(b)) }
	for _, path := range []string{
		"calm/jobs?cursor=x", "calm/jobs?cursor=%20", "calm/jobs?cursor=" + cursor("short"), "calm/vms?cursor=" + strings.Repeat("A", 101),
		"calm/jobs?cursor=" + cursor("\x80"+strings.Repeat("\x00", 23)), "calm/vms?cursor=" + cursor("\x7f"+strings.Repeat("\xff", 23)),
		"calm/jobs?limit=0", "calm/jobs?limit=-1", "calm/jobs?limit=101", "calm/vms?limit=many", "calm/jobs?limit=99999999999999999999",
		"calm/jobs?status=dancing", "calm/jobs?status=queued,%00", "calm/jobs?repository=%00", "calm/jobs?repository=%ff",
		"calm/jobs?repository=" + strings.Repeat("x", 301), "calm/vms?live=perhaps", "calm/vms?host=x", "calm/vms?host=%00", "calm/vms?job=x", "calm/vms?job=%00", "calm/vms/vm_01jd2w8k5p7m9q3r5t7v9x1z3b/console?after=-1", "calm/vms/x/console?after=x",
		"calm/incidents?open=perhaps", "calm/incidents?cursor=x", "calm/incidents?limit=0", "calm/usage?by=planet", "calm/usage?from=yesterday", "calm/usage?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
		"calm/jobs/x", "calm/jobs/%00", "calm/jobs/job_", "calm/jobs/vm_01jd2w8k5p7m9q3r5t7v9x1z3b", "calm/jobs/job_81jd2w8k5p7m9q3r5t7v9x1z3b",
		"calm/hosts/%ff", "calm/vms/x/console", "%00/jobs", "%ff/jobs", "CALM/jobs", "calm%2f/jobs", strings.Repeat("a", 5000) + "/jobs",
	} {
		a := w.get("/api/v1/orgs/"+path, token)
		if len(path) > 80 {
			path = path[:80]
		}
		if a.status < 400 || a.status > 499 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
			continue
		}
		problem(t, path, a, a.status)
	}
}

func TestRESTPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range int64(7) {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.calm, i+1, millrace.JobQueued))
	}
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	seen := map[int64]bool{}
	q := client.JobQuery{Limit: 3}
	for pages := 1; ; pages++ {
		page, err := rest.Jobs(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Data {
			if seen[j.GitHubJobID] || j.GitHubJobID > 7 {
				t.Errorf("job %d on page %d again, or not of the time when the list was begun", j.GitHubJobID, pages)
			}
			seen[j.GitHubJobID] = true
		}
		if page.NextCursor == nil {
			if len(seen) != 7 || pages != 3 {
				t.Errorf("%d jobs on %d pages", len(seen), pages)
			}
			return
		}
		q.Cursor = *page.NextCursor
		storetest.MustIntake(t, w.st, storetest.Delivery(w.calm, int64(100+pages), millrace.JobQueued)) // new rows don't shift the pages
	}
}

// The type of a problem leads to a page that says what it means.
func TestProblemPages(t *testing.T) {
	t.Parallel()
	h := api.New(api.Config{Log: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{"/docs/problems/not_found": 200, "/docs/problems/nope": 404, "/docs/api": 200} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s answered %d, want %d", path, w.Code, want)
		}
	}
}

// Incidents come with what to do, open ones alone when asked for, page by page; what GitHub said is one printable line.
func TestIncidents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, code := range []millrace.WaitCode{millrace.WaitSelfHostedDisabled, millrace.WaitRunnerGroup, millrace.WaitGitHubDown} {
		repository := ""
		if i == 1 {
			repository = "calm/app"
		}
		if err := w.st.OpenIncident(t.Context(), w.calm.Installation.ID, int64(i%2), repository, millrace.Condition{Code: code, Detail: "No.\x1b[2J\n\u202eReally."}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.st.CloseIncidents(t.Context(), w.calm.Installation.ID, 0, millrace.WaitGitHubDown); err != nil {
		t.Fatal(err)
	}
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	open, err := rest.Incidents(t.Context(), client.IncidentQuery{Open: true})
	if err != nil || len(open.Data) != 2 {
		t.Fatalf("open: %+v, %v", open, err)
	}
	for _, i := range open.Data {
		if i.ClosedAt != nil || i.Title == "" || i.Remedy == "" || i.Owner != "calm" || i.Detail != "No.[2J Really." || (i.Code == millrace.WaitRunnerGroup) != (i.Repository == "calm/app") {
			t.Errorf("%+v", i)
		}
	}
	seen := map[millrace.IncidentID]bool{}
	for q := (client.IncidentQuery{Limit: 1}); ; {
		page, err := rest.Incidents(t.Context(), q)
		if err != nil || len(page.Data) != 1 || seen[page.Data[0].ID] {
			t.Fatalf("a page: %+v, %v", page, err)
		}
		seen[page.Data[0].ID] = true
		if page.NextCursor == nil {
			break
		}
		q.Cursor = *page.NextCursor
	}
	if len(seen) != 3 {
		t.Errorf("%d incidents on all pages", len(seen))
	}
}

// A queued job has its reason, its remedy and its estimate on the wire.
func TestJobWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.calm, 1, millrace.JobQueued))
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	job := func() client.Job {
		page, err := rest.Jobs(t.Context(), client.JobQuery{})
		if err != nil || len(page.Data) != 1 {
			t.Fatalf("%+v, %v", page, err)
		}
		return page.Data[0]
	}
	if wait := job().Wait; wait == nil || wait.Code != millrace.WaitUnknown || wait.Remedy == "" {
		t.Errorf("before the first pass: %+v", wait)
	}
	var want millrace.WaitReason
	_, err := w.st.Place(t.Context(), w.calm.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
		from := p.Now.UTC().Truncate(time.Millisecond)
		want = millrace.WaitReason{
			Code: millrace.WaitPlanLimit, Text: "All 8 slots of the plan are in use.", Remedy: "Wait.",
			Estimate: &millrace.Estimate{From: from.Add(time.Minute), To: from.Add(2 * time.Minute), Basis: "it is next"},
		}
		return millrace.Decision{Wait: map[millrace.JobID]millrace.WaitReason{p.Jobs[0].ID: want}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, job().Wait); diff != "" {
		t.Error(diff)
	}
}
