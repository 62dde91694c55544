package githubtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func (l *loop) faults(f githubtest.Faults) {
	l.t.Helper()
	if err := l.SetFaults(f); err != nil {
		l.t.Fatal(err)
	}
}

// deliveries are the rows of GET /app/hook/deliveries.
func (l *loop) deliveries() (list []row) {
	l.t.Helper()
	l.call(l.asApp(), "GET", api+"/app/hook/deliveries?per_page=100", "", http.StatusOK, &list)
	return list
}

type row struct {
	ID             int64
	GUID           string
	DeliveredAt    time.Time `json:"delivered_at"`
	Redelivery     bool
	Duration       float64
	Status         string
	StatusCode     int `json:"status_code"`
	Event, Action  string
	InstallationID int64   `json:"installation_id"`
	RepositoryID   int64   `json:"repository_id"`
	ThrottledAt    *string `json:"throttled_at"`
}

// problem is an error answer of the REST API.
type problem struct {
	Message, Status string
	Errors          any
}

// refused makes a call that GitHub must refuse with a status and these words.
func (l *loop) refused(auth, method, path, body string, want int, words string) *httptest.ResponseRecorder {
	l.t.Helper()
	w := l.send(l.t.Context(), auth, method, path, body)
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != want || !strings.Contains(fmt.Sprint(p.Message, p.Errors), words) {
		l.t.Errorf("%s %s: %d %s, want %d with %q", method, path, w.Code, w.Body, want, words)
	}
	return w
}

const jitPath = api + "/orgs/calm/actions/runners/generate-jitconfig"

func jitBody(name string) string {
	return fmt.Sprintf(`{"name":%q,"runner_group_id":1,"labels":["x"],"work_folder":"_work"}`, name)
}

func TestDeliveryFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		faults       githubtest.Faults
		sent, listed int
	}{
		"none":      {githubtest.Faults{}, 1, 1},
		"drop":      {githubtest.Faults{Drop: 1}, 0, 0},
		"hooks off": {githubtest.Faults{HooksOff: true}, 0, 0},
		"fail":      {githubtest.Faults{Fail: 1}, 0, 1},
		"duplicate": {githubtest.Faults{Duplicate: 1}, 2, 2},
		"truncate":  {githubtest.Faults{Truncate: 1}, 1, 1},
		"reorder":   {githubtest.Faults{Reorder: 1, DelayMaxS: 60}, 1, 1},
	} {
		l := newLoop(t, 1)
		l.faults(tc.faults)
		l.queue("x")
		if len(l.out) != tc.sent {
			t.Fatalf("%s: sent %d, want %d", name, len(l.out), tc.sent)
		}
		for _, o := range l.out {
			if o.Event != "workflow_job" || o.GUID != l.out[0].GUID || o.GUID != o.Header.Get("X-GitHub-Delivery") {
				t.Errorf("%s: %+v", name, o)
			}
			app, err := github.New(github.Config{APIURL: l.APIURL(), AppID: l.AppID(), PrivateKeyPEM: l.PrivateKeyPEM(), WebhookSecrets: []string{l.WebhookSecret()}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := app.Parse(o.Header, o.Body); (err == nil) != (name != "truncate") {
				t.Errorf("%s: %v", name, err)
			}
			if (o.Delay > 0) != (name == "reorder") || o.Delay > time.Minute {
				t.Errorf("%s: delayed by %v", name, o.Delay)
			}
			l.Answered(o.DeliveryID, http.StatusAccepted, 20*time.Millisecond)
			l.Answered(o.DeliveryID, http.StatusTeapot, 0) // is over
		}
		list := l.deliveries()
		if len(list) != tc.listed {
			t.Fatalf("%s: listed %+v", name, list)
		}
		for _, d := range list {
			ok := d.StatusCode == http.StatusAccepted && d.Status == "OK" && d.Duration == 0.02
			if name == "fail" {
				ok = d.StatusCode == 0 && d.Status == "failed to connect to host"
			}
			if !ok || d.GUID != list[0].GUID || !d.DeliveredAt.Equal(l.clock) {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

// TestFaultsAreSeeded: a seed gives one sequence, and what is off draws nothing.
func TestFaultsAreSeeded(t *testing.T) {
	t.Parallel()
	fate := func(f githubtest.Faults) string {
		l := newLoop(t, 1)
		l.faults(f)
		var s strings.Builder
		for range 200 {
			l.queue("x")
			fmt.Fprint(&s, len(l.out), " ")
			l.out = nil
		}
		return s.String()
	}
	seven := fate(githubtest.Faults{Seed: 7, Drop: 0.3, Duplicate: 0.2})
	if fate(githubtest.Faults{Seed: 7, Drop: 0.3, Duplicate: 0.2}) != seven {
		t.Error("one seed gives two sequences")
	}
	if fate(githubtest.Faults{Seed: 8, Drop: 0.3, Duplicate: 0.2}) == seven {
		t.Error("two seeds give one sequence")
	}
	if n := strings.Count(seven, "0"); n < 40 || n > 80 {
		t.Errorf("30 %% of 200 are dropped: %d", n)
	}
	if n := strings.Count(seven, "2"); n < 15 || n > 42 {
		t.Errorf("20 %% of the rest are doubled: %d", n)
	}
}

func TestAPIFaults(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	runners := api + "/orgs/calm/actions/runners"

	l.faults(githubtest.Faults{API5xx: 1})
	for range 20 {
		if w := l.send(t.Context(), auth, "POST", jitPath, jitBody("vm")); w.Code < 500 || w.Header().Get("X-RateLimit-Limit") != "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	if l.Runners() != 0 {
		t.Error("a call that failed registered a runner")
	}

	l.faults(githubtest.Faults{TokenExpired: 1})
	l.refused(auth, "GET", runners, "", http.StatusUnauthorized, "Bad credentials")
	l.call(auth, "GET", runners, "", http.StatusOK, nil) // once
	l.refused(l.asInstallation(l.owner), "GET", runners, "", http.StatusUnauthorized, "Bad credentials")

	l.faults(githubtest.Faults{Conflict: 1})
	l.refused(auth, "POST", jitPath, jitBody("vm"), http.StatusConflict, "Already exists")
	l.faults(githubtest.Faults{GroupFull: githubtest.Owners{"CALM"}})
	l.refused(auth, "POST", jitPath, jitBody("vm"), http.StatusUnprocessableEntity, "Runner group 1 has reached max limit of 10000 runners")
	if l.Runners() != 0 {
		t.Error("a refused call registered a runner")
	}
	l.faults(githubtest.Faults{JITReplyLost: 1})
	l.refused(auth, "POST", jitPath, jitBody("vm"), http.StatusBadGateway, "")
	var list struct {
		Runners []struct {
			ID      int64
			Version *string
		}
	}
	l.call(auth, "GET", runners+"?name=vm", "", http.StatusOK, &list)
	if len(list.Runners) != 1 || list.Runners[0].Version != nil {
		t.Fatalf("the runner is registered although the answer was lost: %+v", list)
	}
	id := list.Runners[0].ID
	one := fmt.Sprintf("%s/%d", runners, id)
	l.faults(githubtest.Faults{Unprocessable: 1})
	l.refused(auth, "DELETE", one, "", http.StatusUnprocessableEntity, "still running a job")
	l.faults(githubtest.Faults{})
	if err := l.Connect(id); err != nil {
		t.Fatal(err)
	}
	l.call(auth, "GET", runners+"?name=vm", "", http.StatusOK, &list)
	if list.Runners[0].Version == nil {
		t.Error("a runner that has connected has a version")
	}
	l.call(auth, "DELETE", one, "", http.StatusNoContent, nil)

	l.faults(githubtest.Faults{APILatencyMS: 250})
	if w := l.send(t.Context(), auth, "GET", runners, ""); w.Header().Get("X-Standin-Latency-Ms") != "250" {
		t.Errorf("a loop is told how long the call took: %v", w.Header())
	}
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		if err := h.SetFaults(githubtest.Faults{APILatencyMS: 250}); err != nil {
			h.t.Fatal(err)
		}
		began := time.Now()
		h.call(auth, "GET", runners, "", http.StatusOK, nil)
		if took := time.Since(began); took != 250*time.Millisecond {
			h.t.Errorf("the call took %v", took)
		}
	})
}

// TestStaleReads: reads show what was, and acts act on what is.
func TestStaleReads(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	l.faults(githubtest.Faults{StaleS: 30})
	look := func(want string) {
		t.Helper()
		auth := l.asInstallation(l.owner)
		count := func(query string) int {
			var list struct {
				Total int `json:"total_count"`
			}
			w := l.send(t.Context(), auth, "GET", api+"/repos/calm/engine/actions/runs"+query, "")
			if w.Code == http.StatusNotFound {
				return 0
			}
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			return list.Total
		}
		var runners struct {
			Runners []struct {
				ID     int64
				Status string
				Busy   bool
			}
		}
		l.call(auth, "GET", api+"/orgs/calm/actions/runners", "", http.StatusOK, &runners)
		state := "none"
		for _, r := range runners.Runners {
			state = r.Status
			if r.Busy {
				state = "busy"
			}
			l.call(auth, "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, r.ID), "", http.StatusOK, nil)
			l.call(auth, "GET", api+"/orgs/calm/actions/runners?name=vm", "", http.StatusOK, &runners)
			if len(runners.Runners) != 1 {
				t.Errorf("by name: %+v", runners)
			}
		}
		got := fmt.Sprintf("%d queued, %d in progress, %d completed, %d; runner %s",
			count("?status=queued"), count("?status=in_progress"), count("?status=completed"), count(""), state)
		if got != want {
			t.Errorf("at %s: %s, want %s", l.clock.Format(time.TimeOnly), got, want)
		}
	}
	const tick = 20 * time.Second
	job := l.queue("x")
	look("0 queued, 0 in progress, 0 completed, 0; runner none")
	l.pass(tick) // 20 s
	vm := l.RegisterRunner("calm", "vm", []string{"x"}).RunnerID
	look("0 queued, 0 in progress, 0 completed, 0; runner none")
	l.pass(tick) // 40 s
	look("1 queued, 0 in progress, 0 completed, 1; runner none")
	if err := l.Connect(vm); err != nil {
		t.Fatal(err)
	}
	l.PickUp(vm)
	l.pass(tick) // 60 s: what was at 30 s
	look("1 queued, 0 in progress, 0 completed, 1; runner offline")
	l.Finish(vm, "success")
	l.pass(tick) // 80 s: what was at 50 s
	look("0 queued, 1 in progress, 0 completed, 1; runner busy")
	var j struct {
		Status   string
		RunnerID int64 `json:"runner_id"`
	}
	l.call(l.asInstallation(l.owner), "GET", fmt.Sprintf("%s/repos/calm/engine/actions/jobs/%d", api, job), "", http.StatusOK, &j)
	if j.Status != "in_progress" || j.RunnerID != vm {
		t.Errorf("the job is %+v", j)
	}
	l.refused(l.asInstallation(l.owner), "DELETE", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, vm), "", http.StatusNotFound, "Not Found")
	l.pass(tick) // 100 s
	look("0 queued, 0 in progress, 1 completed, 1; runner none")
	l.queue("x")
	l.faults(githubtest.Faults{})
	look("1 queued, 0 in progress, 1 completed, 2; runner none")
}

func TestRunnerFaults(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job := l.queue("x")
	l.faults(githubtest.Faults{NeverAssign: 1})
	l.runner("ignored", "x")
	l.faults(githubtest.Faults{})
	auth := l.asInstallation(l.owner)
	var list struct {
		Runners []struct {
			Status string
			Busy   bool
		}
	}
	l.call(auth, "GET", api+"/orgs/calm/actions/runners?name=ignored", "", http.StatusOK, &list)
	if len(l.assigned) != 0 || len(list.Runners) != 1 || list.Runners[0].Status != "online" || list.Runners[0].Busy {
		t.Errorf("assigned %v; %+v", l.assigned, list)
	}

	l.faults(githubtest.Faults{CrashAfterAssign: 1})
	crashing := l.runner("crashing", "x")
	if _, ok := l.PickUp(crashing); ok {
		t.Error("a runner that crashes has its job")
	}
	if err := l.Alive(crashing); !errors.Is(err, githubtest.ErrGone) {
		t.Errorf("it is heard: %v", err)
	}
	if s := l.state(job); s.Status != "in_progress" {
		t.Errorf("%+v", s)
	}
	l.pass(11 * time.Minute)
	if s := l.state(job); s.Conclusion != "failure" {
		t.Errorf("%+v", s)
	}

	l.faults(githubtest.Faults{RunnerVersionTooOld: githubtest.Owners{"calm"}})
	old := l.RegisterRunner("calm", "old", []string{"x"}).RunnerID
	if err := l.Connect(old); !errors.Is(err, githubtest.ErrTooOld) || !strings.Contains(err.Error(), "is deprecated and cannot receive messages") {
		t.Errorf("an old runner: %v", err)
	}
}

// TestConditionsOfAnOwner: each is refused in GitHub's words, for its owner alone, and until it ends.
func TestConditionsOfAnOwner(t *testing.T) {
	t.Parallel()
	calm := githubtest.Owners{"calm"}
	for name, tc := range map[string]struct {
		faults githubtest.Faults
		token  int // a new token
		jit    int
		runs   int
		words  string
	}{
		"suspended":            {githubtest.Faults{Suspended: calm}, 403, 403, 403, "This installation has been suspended"},
		"uninstalled":          {githubtest.Faults{Uninstalled: calm}, 404, 401, 401, "Bad credentials"},
		"self_hosted_disabled": {githubtest.Faults{SelfHostedDisabled: calm}, 201, 403, 200, "self-hosted runners are disabled"},
		"permission_missing":   {githubtest.Faults{PermissionMissing: calm}, 201, 403, 200, "Resource not accessible by integration"},
		"ip_allow_list":        {githubtest.Faults{IPAllowList: calm}, 201, 403, 403, "the `calm` organization has an IP allow list enabled, and your IP address is not permitted to access this resource."},
		"everyone's":           {githubtest.Faults{Suspended: githubtest.Owners{"*"}}, 403, 403, 403, "suspended"},
	} {
		l := newLoop(t, 1)
		other := l.AddOwner("other", millrace.Organization)
		otherToken := l.asInstallation(other)
		auth := l.asInstallation(l.owner)
		l.queue("x")
		l.faults(tc.faults)
		tokens, runs := fmt.Sprintf("%s/app/installations/%d/access_tokens", api, l.owner.ID), api+"/repos/calm/engine/actions/runs"
		if w := l.send(t.Context(), l.asApp(), "POST", tokens, ""); w.Code != tc.token {
			t.Errorf("%s: a token: %d %s, want %d", name, w.Code, w.Body, tc.token)
		}
		l.refused(auth, "POST", jitPath, jitBody("vm"), tc.jit, tc.words)
		if w := l.send(t.Context(), auth, "GET", runs, ""); w.Code != tc.runs {
			t.Errorf("%s: runs: %d %s, want %d", name, w.Code, w.Body, tc.runs)
		}
		if name != "everyone's" {
			l.call(otherToken, "POST", strings.ReplaceAll(jitPath, "calm", "other"), jitBody("vm"), http.StatusCreated, nil)
		}
		l.faults(githubtest.Faults{})
		l.call(l.asApp(), "POST", tokens, "", http.StatusCreated, nil)
		l.call(l.asInstallation(l.owner), "POST", jitPath, jitBody("vm"), http.StatusCreated, nil)
	}
}

// TestASuspendedInstallation: GitHub says so by an event and where the App asks, and sends it nothing else.
func TestASuspendedInstallation(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		faults       githubtest.Faults
		begins, ends string
	}{
		{githubtest.Faults{Suspended: githubtest.Owners{"calm"}}, "suspend", "unsuspend"},
		{githubtest.Faults{Uninstalled: githubtest.Owners{"calm"}}, "deleted", "created"},
	} {
		l := newLoop(t, 1)
		l.AddRepository("calm", "engine", false)
		l.faults(tc.faults)
		l.faults(tc.faults)
		job := l.queue("x")
		l.Cancel(job)
		l.wantEvents("installation " + tc.begins)
		w := l.send(t.Context(), l.asApp(), "GET", fmt.Sprintf("%s/app/installations/%d", api, l.owner.ID), "")
		if tc.begins == "suspend" && (w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"suspended_at":"2026-03-02T09:00:00Z"`)) || tc.begins == "deleted" && w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s", tc.begins, w.Code, w.Body)
		}
		l.faults(githubtest.Faults{})
		l.wantEvents("installation " + tc.ends)
		var one struct {
			Suspended *string `json:"suspended_at"`
		}
		l.call(l.asApp(), "GET", fmt.Sprintf("%s/app/installations/%d", api, l.owner.ID), "", http.StatusOK, &one)
		if one.Suspended != nil {
			t.Errorf("suspended at %s", *one.Suspended)
		}
		l.queue("x")
		l.wantEvents("workflow_job queued")
	}
}

func (l *loop) wantEvents(want ...string) {
	l.t.Helper()
	var got []string
	for _, o := range l.out {
		var e struct {
			Action       string
			Installation struct{ ID int64 }
		}
		if err := json.Unmarshal(o.Body, &e); err != nil || e.Installation.ID != l.owner.ID {
			l.t.Errorf("%v: %s", err, o.Body)
		}
		got = append(got, o.Event+" "+e.Action)
	}
	l.out = nil
	if !slices.Equal(got, want) {
		l.t.Errorf("sent %q, want %q", got, want)
	}
}

// TestARunnerGroupThatExcludesARepository: the organisation's runners don't get its jobs, its own do, until it is let in.
func TestARunnerGroupThatExcludesARepository(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	l.faults(githubtest.Faults{RunnerGroupExcludes: []string{"Calm/Engine"}})
	auth := l.asInstallation(l.owner)
	job := l.queue("x")
	vm := l.runner("vm", "x")
	if len(l.assigned) != 0 {
		t.Fatalf("assigned %v", l.assigned)
	}
	for repo, want := range map[string]int{"engine": 0, "website": 1} {
		var groups struct {
			Total int `json:"total_count"`
		}
		l.call(auth, "GET", api+"/orgs/calm/actions/runner-groups?visible_to_repository="+repo, "", http.StatusOK, &groups)
		if groups.Total != want {
			t.Errorf("%s sees %d groups, want %d", repo, groups.Total, want)
		}
	}
	l.faults(githubtest.Faults{})
	if len(l.assigned) != 1 || l.assigned[0] != [2]int64{vm, job} {
		t.Errorf("let in: assigned %v", l.assigned)
	}
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		const all = `{"seed":7,"drop":0.3,"fail":0.1,"duplicate":0.2,"reorder":0.3,"delay_max_s":60,"truncate":0.01,"hooks_off":true,"api_5xx":0.05,
			"api_latency_ms":100,"stale_s":30,"secondary_limit":0.01,"retry_after_s":90,"token_expired":0.01,"conflict":0.01,"unprocessable":0.01,
			"jit_reply_lost":0.02,"never_assign":0.05,"crash_after_assign":0.01,"suspended":["calm"],"uninstalled":["calm"],"self_hosted_disabled":["calm"],
			"permission_missing":["calm"],"ip_allow_list":["calm"],"group_full":["calm"],"runner_version_too_old":["calm"],
			"runner_group_excludes":["calm/engine"]}`
		h.call("", "PUT", "/_standin/faults", all, http.StatusNoContent, nil)
		var got, want any
		h.call("", "GET", "/_standin/faults", "", http.StatusOK, &got)
		if err := json.Unmarshal([]byte(all), &want); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			h.t.Errorf("%v, want %v", got, want)
		}
		if page := h.page("/", http.StatusOK); !strings.Contains(page, "Faults: seed 7, drop 0.3,") || !strings.Contains(page, "suspended calm") {
			h.t.Errorf("the front page:\n%s", page)
		}
		h.call("", "PUT", "/_standin/faults", `{"suspended":true,"uninstalled":false}`, http.StatusNoContent, nil)
		if f := h.Faults(); !slices.Equal(f.Suspended, githubtest.Owners{"*"}) || len(f.Uninstalled) != 0 {
			h.t.Errorf("%+v", f)
		}
		h.call("", "PUT", "/_standin/faults", `{}`, http.StatusNoContent, nil)
		if page := h.page("/", http.StatusOK); !strings.Contains(page, "Faults: none") {
			h.t.Errorf("the front page:\n%s", page)
		}
		synctest.Wait()
	})
}

// TestDelaysAndRedeliveries: without a loop, the stand-in waits itself.
func TestDelaysAndRedeliveries(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		if err := h.SetFaults(githubtest.Faults{Reorder: 1, DelayMaxS: 60}); err != nil {
			h.t.Fatal(err)
		}
		began := time.Now()
		job := h.queue("x")
		if h.delivered(job) != "" {
			h.t.Error("nothing is late")
		}
		if err := h.Settled(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		if took := time.Since(began); h.delivered(job) != "queued" || took == 0 || took > time.Minute+time.Second {
			h.t.Errorf("delivered %q after %v", h.delivered(job), took)
		}
		var list []row
		h.call(h.asApp(), "GET", api+"/app/hook/deliveries", "", http.StatusOK, &list)
		h.call(h.asApp(), "POST", fmt.Sprintf("%s/app/hook/deliveries/%d/attempts", api, list[0].ID), "", http.StatusAccepted, nil)
		h.queue("x")
		h.Close() // ends those that wait
		if len(h.hooks) != 1 {
			h.t.Errorf("%d delivered", len(h.hooks))
		}
	})
}
