package githubtest_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// left is what an installation has left, as GET /rate_limit tells, which costs nothing.
func (l *loop) left(auth string) (core, registrations int) {
	l.t.Helper()
	var out struct {
		Resources struct {
			Core, Runners struct{ Limit, Used, Remaining int }
			Registration  struct{ Limit, Used, Remaining int } `json:"actions_runner_registration"`
		}
	}
	l.call(auth, "GET", api+"/rate_limit", "", http.StatusOK, &out)
	c, r := out.Resources.Core, out.Resources.Registration
	if c.Used+c.Remaining != c.Limit || r.Used+r.Remaining != 10_000 {
		l.t.Errorf("%+v", out)
	}
	return c.Remaining, r.Remaining
}

func (l *loop) wantLeft(auth string, core, registrations int) {
	l.t.Helper()
	if c, r := l.left(auth); c != core || r != registrations {
		l.t.Errorf("%d calls and %d registrations are left, want %d and %d", c, r, core, registrations)
	}
}

func TestWhatCallsCost(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	l.wantLeft(auth, 5000, 10_000)
	l.wantLeft(l.asApp(), 4999, 10_000) // the token
	l.queue("x")
	runs := api + "/repos/calm/engine/actions/runs"
	w := l.send(t.Context(), auth, "GET", runs, "")
	l.wantLeft(auth, 4999, 10_000)
	if h := w.Header(); h.Get("X-RateLimit-Remaining") != "4999" || h.Get("X-RateLimit-Used") != "1" || h.Get("X-RateLimit-Reset") != strconv.FormatInt(l.clock.Add(time.Hour).Unix(), 10) {
		t.Errorf("%v", h)
	}
	for range 10 { // conditional, and nothing has changed: free
		if w := l.conditional(auth, runs, w.Header().Get("ETag")); w.Code != http.StatusNotModified || w.Body.Len() != 0 || w.Header().Get("X-RateLimit-Remaining") != "4999" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	l.wantLeft(auth, 4999, 10_000)
	w = l.send(t.Context(), auth, "POST", jitPath, jitBody("vm")) // has a bucket of its own
	if h := w.Header(); h.Get("X-RateLimit-Resource") != "actions_runner_registration" || h.Get("X-RateLimit-Limit") != "10000" {
		t.Errorf("%v", h)
	}
	l.wantLeft(auth, 4999, 9_999)
	l.call(auth, "GET", api+"/repos/calm/nothing/actions/runs", "", http.StatusNotFound, nil)
	l.wantLeft(auth, 4998, 9_999)
	other := l.asInstallation(l.AddOwner("other", millrace.Organization))
	l.wantLeft(other, 5000, 10_000)
	l.clock = l.clock.Add(59 * time.Minute)
	l.wantLeft(auth, 4998, 9_999)
	l.clock = l.clock.Add(time.Minute)
	l.wantLeft(l.asInstallation(l.owner), 5000, 10_000)
	if v := l.Violations(); len(v) != 0 {
		t.Errorf("%+v", v)
	}
}

// TestEveryGETIsConditional: its ETag is good while nothing it shows changes, and for the token that it was given to.
func TestEveryGETIsConditional(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	job := l.queue("x")
	run, _ := l.runOf(job)
	l.sent()
	vm := l.RegisterRunner("calm", "vm", []string{"x"}).RunnerID
	repo := api + "/repos/calm/engine/actions/"
	paths := []string{
		repo + "runs", repo + "runs?status=queued&per_page=1", repo + fmt.Sprintf("runs/%d", run), repo + fmt.Sprintf("runs/%d/jobs", run),
		repo + fmt.Sprintf("runs/%d/attempts/1/jobs", run), repo + fmt.Sprintf("jobs/%d", job), api + "/orgs/calm/actions/runners",
		api + fmt.Sprintf("/orgs/calm/actions/runners/%d", vm), api + "/orgs/calm/actions/runner-groups", api + "/installation/repositories",
		api + "/app", api + "/app/installations", api + "/app/hook/deliveries",
	}
	as := func(path string) string {
		if strings.HasPrefix(path, api+"/app") {
			return l.asApp()
		}
		return auth
	}
	tags := map[string]string{}
	for _, path := range paths {
		w := l.send(t.Context(), as(path), "GET", path, "")
		tag := w.Header().Get("ETag")
		if w.Code != http.StatusOK || !strings.HasPrefix(tag, `W/"`) {
			t.Errorf("%s: %d, ETag %q", path, w.Code, tag)
		}
		tags[path] = tag
		for _, sent := range []string{tag, strings.TrimPrefix(tag, "W/"), `"other", ` + tag} {
			if w := l.conditional(as(path), path, sent); w.Code != http.StatusNotModified || w.Header().Get("ETag") != tag {
				t.Errorf("%s with %s: %d %v", path, sent, w.Code, w.Header())
			}
		}
		if w := l.conditional(as(path), path, `W/"other"`); w.Code != http.StatusOK {
			t.Errorf("%s with another ETag: %d", path, w.Code)
		}
	}
	if w := l.conditional(l.asInstallation(l.owner), paths[0], tags[paths[0]]); w.Code != http.StatusOK {
		t.Errorf("another token's ETag: %d", w.Code) // GitHub's depend on the token
	}
	l.clock = l.clock.Add(2 * time.Second)
	if err := l.Connect(vm); err != nil {
		t.Fatal(err)
	}
	l.PickUp(vm)
	l.sent()
	for _, path := range paths {
		want := http.StatusOK
		if strings.HasSuffix(path, "runner-groups") || strings.HasSuffix(path, "repositories") || strings.HasSuffix(path, "/app") || strings.HasSuffix(path, "installations") {
			want = http.StatusNotModified
		}
		if w := l.conditional(as(path), path, tags[path]); w.Code != want {
			t.Errorf("the job runs; %s: %d, want %d", path, w.Code, want)
		}
	}
	// What another run does changes nothing here.
	queued := repo + "runs?status=queued"
	l.queueAt("calm", "engine", "nobody-has-it")
	tag := l.send(t.Context(), auth, "GET", queued, "").Header().Get("ETag")
	l.Finish(vm, "success")
	if w := l.conditional(auth, queued, tag); w.Code != http.StatusNotModified {
		t.Errorf("another run is completed; %s: %d %s", queued, w.Code, w.Body)
	}
}

func TestTheHourlyLimit(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	runners := api + "/orgs/calm/actions/runners"
	for i := range 5000 {
		if i%800 == 0 {
			l.clock = l.clock.Add(time.Minute)
		}
		l.call(auth, "GET", runners, "", http.StatusOK, nil)
	}
	l.wantLeft(auth, 0, 10_000)
	if v := l.Violations(); len(v) != 0 {
		t.Fatalf("%+v", v[0])
	}
	l.clock = l.clock.Add(time.Minute)
	w := l.refused(auth, "GET", runners, "", http.StatusForbidden, "API rate limit exceeded for installation ID "+strconv.FormatInt(l.owner.ID, 10))
	if h := w.Header(); h.Get("X-RateLimit-Remaining") != "0" || h.Get("Retry-After") != "" {
		t.Errorf("%v", h)
	}
	v := l.Violations()
	if len(v) != 1 || v[0].Reason != "exhausted" || v[0].Installation != l.owner.ID || v[0].Method != "GET" || v[0].Path != "/orgs/calm/actions/runners" || !v[0].At.Equal(l.clock) || !v[0].Until.After(l.clock) {
		t.Errorf("%+v", v)
	}
	l.call(auth, "POST", jitPath, jitBody("vm"), http.StatusCreated, nil) // another bucket
	l.clock = v[0].Until
	l.call(l.asInstallation(l.owner), "GET", runners, "", http.StatusOK, nil)
	var out struct{ Violations []githubtest.Violation }
	l.call("", "GET", "/_standin/violations", "", http.StatusOK, &out)
	if len(out.Violations) != 1 || out.Violations[0] != v[0] {
		t.Errorf("%+v", out)
	}
}

// TestPointsPerMinute: an installation has 900 points at one endpoint, which is 180 registrations.
func TestPointsPerMinute(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	runners := api + "/orgs/calm/actions/runners"
	for i := range 180 {
		l.call(auth, "POST", jitPath, jitBody(fmt.Sprintf("vm-%d", i)), http.StatusCreated, nil)
		l.call(auth, "GET", runners, "", http.StatusOK, nil)
	}
	l.clock = l.clock.Add(20 * time.Second)
	w := l.refused(auth, "POST", jitPath, jitBody("one-more"), http.StatusForbidden, "secondary rate limit")
	if h := w.Header(); h.Get("Retry-After") != "40" || h.Get("X-RateLimit-Remaining") == "0" {
		t.Errorf("%v", h)
	}
	if v := l.Violations(); len(v) != 0 {
		t.Errorf("nothing had been announced: %+v", v)
	}
	l.clock = l.clock.Add(39 * time.Second)
	l.refused(auth, "GET", runners, "", http.StatusForbidden, "secondary rate limit")
	if v := l.Violations(); len(v) != 1 || v[0].Reason != "retry-after" {
		t.Errorf("%+v", v)
	}
	l.clock = l.clock.Add(time.Second)
	l.call(auth, "POST", jitPath, jitBody("one-more"), http.StatusCreated, nil)
	for range 900 {
		l.call(auth, "GET", runners, "", http.StatusOK, nil)
	}
	l.refused(auth, "GET", runners, "", http.StatusForbidden, "secondary rate limit")
	if v := l.Violations(); len(v) != 1 {
		t.Errorf("%+v", v)
	}
}

func TestSecondaryLimitFault(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	runners := api + "/orgs/calm/actions/runners"
	l.faults(githubtest.Faults{SecondaryLimit: 1, RetryAfterS: 90})
	w := l.refused(auth, "GET", runners, "", http.StatusForbidden, "secondary rate limit")
	if w.Header().Get("Retry-After") != "90" {
		t.Errorf("%v", w.Header())
	}
	l.faults(githubtest.Faults{})
	l.refused(auth, "GET", api+"/installation/repositories", "", http.StatusForbidden, "secondary rate limit")
	if v := l.Violations(); len(v) != 1 || v[0].Reason != "retry-after" || !v[0].Until.Equal(l.clock.Add(90*time.Second)) {
		t.Errorf("%+v", v)
	}
	l.wantLeft(auth, 4998, 10_000)
	l.clock = l.clock.Add(90 * time.Second)
	l.call(auth, "GET", runners, "", http.StatusOK, nil)
	l.faults(githubtest.Faults{SecondaryLimit: 1})
	if w := l.send(t.Context(), auth, "GET", runners, ""); w.Header().Get("Retry-After") != "60" {
		t.Errorf("%v", w.Header())
	}
}
