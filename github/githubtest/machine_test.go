package githubtest_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// sharedKey is one App key for all the stand-ins that a test makes; making one takes a while.
var sharedKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// loop is a stand-in that a single-threaded loop drives in its own time: no goroutine, no network. Its owner is calm.
type loop struct {
	*hub
	clock    time.Time
	out      []githubtest.Outgoing
	assigned [][2]int64 // runner, job
}

func newLoop(t testing.TB, seed uint64, change ...func(*githubtest.Config)) *loop {
	t.Helper()
	l := &loop{clock: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	cfg := githubtest.Config{
		URL: site, Key: sharedKey(), Now: func() time.Time { return l.clock }, Rand: mathrand.New(mathrand.NewPCG(seed, 0)),
		Send:     func(o githubtest.Outgoing) { l.out = append(l.out, o) },
		Assigned: func(runner, job int64) { l.assigned = append(l.assigned, [2]int64{runner, job}) },
	}
	for _, change := range change {
		change(&cfg)
	}
	gh, err := githubtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.hub = &hub{GitHub: gh, t: t, now: func() time.Time { return l.clock }}
	l.owner = gh.AddOwner("calm", millrace.Organization)
	return l
}

// pass lets time pass, tidying as a loop does.
func (l *loop) pass(d time.Duration) {
	for end := l.clock.Add(d); l.clock.Before(end); {
		l.clock = l.clock.Add(min(5*time.Second, end.Sub(l.clock)))
		l.Tidy()
	}
}

// sent takes what is to be delivered, each as "action job".
func (l *loop) sent() (list []string) {
	l.t.Helper()
	for _, o := range l.out {
		var e struct {
			Action      string
			WorkflowJob struct{ ID int64 } `json:"workflow_job"`
		}
		if err := json.Unmarshal(o.Body, &e); err != nil {
			l.t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %d", e.Action, e.WorkflowJob.ID))
		l.Answered(o.DeliveryID, http.StatusAccepted, time.Millisecond)
	}
	l.out = nil
	return list
}

func (l *loop) wantSent(want ...string) {
	l.t.Helper()
	if got := l.sent(); !slices.Equal(got, want) {
		l.t.Errorf("sent %q, want %q", got, want)
	}
}

// runner registers a runner at calm and connects it.
func (l *loop) runner(name string, labels ...string) int64 {
	l.t.Helper()
	id := l.RegisterRunner("calm", name, labels).RunnerID
	if err := l.Connect(id); err != nil {
		l.t.Fatal(err)
	}
	return id
}

func TestALoopDrivesAJob(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job := l.queue("x")
	l.wantSent(fmt.Sprintf("queued %d", job))
	vm := l.runner("vm", "x")
	if len(l.assigned) != 1 || l.assigned[0] != [2]int64{vm, job} {
		t.Fatalf("assigned %v", l.assigned)
	}
	if s := l.state(job); s.Status != "queued" {
		t.Errorf("not picked up: %+v", s)
	}
	for range 2 {
		if got, ok := l.PickUp(vm); !ok || got.ID != job || len(got.Steps) != 2 || got.Repository != "calm/engine" {
			t.Fatalf("picked up %+v, %v", got, ok)
		}
	}
	l.wantSent(fmt.Sprintf("in_progress %d", job))
	for range 30 {
		l.pass(time.Minute)
		if err := l.Alive(vm); err != nil {
			t.Fatal(err)
		}
	}
	l.Finish(vm, "success")
	l.Finish(vm, "failure")
	l.wantSent(fmt.Sprintf("completed %d", job))
	if s := l.state(job); s.Conclusion != "success" || s.RunnerID != vm || l.Runners() != 0 {
		t.Errorf("%+v, %d runners", s, l.Runners())
	}
	if err := l.Alive(vm); !errors.Is(err, githubtest.ErrGone) {
		t.Errorf("a runner that has vanished: %v", err)
	}
	if err := l.Connect(vm); !errors.Is(err, githubtest.ErrGone) {
		t.Errorf("it connects: %v", err)
	}
	if _, ok := l.PickUp(vm); ok {
		t.Error("it picks up a job")
	}
	l.Disconnect(vm)
	l.Cancel(job)
	l.Cancel(1)
	l.wantSent()
}

func TestALoopCancels(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	waiting := l.queue("nobody-has-it")
	l.Cancel(waiting)
	if s := l.state(waiting); s.Conclusion != "cancelled" || s.RunnerID != 0 {
		t.Errorf("while queued: %+v", s)
	}
	vm := l.runner("vm", "x")
	given, next := l.queue("x"), l.queue("x")
	l.Cancel(given) // before it was picked up: the runner gets the next
	if s := l.state(given); s.Conclusion != "cancelled" || s.RunnerID != 0 {
		t.Errorf("assigned: %+v", s)
	}
	if got, ok := l.PickUp(vm); !ok || got.ID != next {
		t.Fatalf("picked up %+v", got)
	}
	l.Cancel(next)
	if err := l.Alive(vm); !errors.Is(err, githubtest.ErrCancelled) {
		t.Errorf("the runner hears %v", err)
	}
	l.Finish(vm, "success")
	if s := l.state(next); s.Conclusion != "cancelled" || s.RunnerID != vm {
		t.Errorf("while it ran: %+v", s)
	}
}

func TestALoopsClock(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job, old := l.queue("x"), l.queue("nobody-has-it")
	stuck := l.runner("stuck", "x") // online, and never picks up
	l.pass(50 * time.Second)
	other := l.runner("other", "x")
	if len(l.assigned) != 1 {
		t.Fatalf("assigned %v", l.assigned)
	}
	l.pass(15 * time.Second)
	if len(l.assigned) != 2 || l.assigned[1] != [2]int64{other, job} {
		t.Fatalf("after a minute: assigned %v; stuck is %d, other %d", l.assigned, stuck, other)
	}
	l.PickUp(other)
	l.Disconnect(other)
	l.pass(11 * time.Minute)
	if s := l.state(job); s.Conclusion != "failure" || !strings.Contains(s.Log, "lost communication") {
		t.Errorf("its runner is silent: %+v", s)
	}
	l.pass(24 * time.Hour)
	if s := l.state(old); s.Conclusion != "cancelled" || l.Runners() != 0 {
		t.Errorf("after a day: %+v, %d runners", s, l.Runners())
	}
}

// TestLosesJobAfter: who can't wait ten minutes has silent runners lose their jobs sooner.
func TestLosesJobAfter(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1, func(c *githubtest.Config) { c.LosesJobAfter = 2 * time.Minute })
	job := l.queue("x")
	l.PickUp(l.runner("silent", "x"))
	l.pass(2 * time.Minute)
	if s := l.state(job); s.Status != "in_progress" {
		t.Errorf("after two minutes: %+v", s)
	}
	l.pass(10 * time.Second)
	if s := l.state(job); s.Conclusion != "failure" {
		t.Errorf("later: %+v", s)
	}
}

// TestARunOfManyJobs: a matrix is one run, which is queued until a job starts and completed when all are.
func TestARunOfManyJobs(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	auth := l.asInstallation(l.owner)
	first := l.queue("a")
	run, _ := l.runOf(first)
	add := func() int64 {
		t.Helper()
		id, err := l.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "engine", Labels: []string{"b"}, RunID: run})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	second := add()
	want := func(status, conclusion string, attempt, jobs, all int) {
		t.Helper()
		var r struct {
			Status, Conclusion string
			Attempt            int `json:"run_attempt"`
		}
		path := fmt.Sprintf("%s/repos/calm/engine/actions/runs/%d", api, run)
		l.call(auth, "GET", path, "", http.StatusOK, &r)
		if r.Status != status || r.Conclusion != conclusion || r.Attempt != attempt {
			t.Errorf("the run is %+v, want %s %s attempt %d", r, status, conclusion, attempt)
		}
		for query, want := range map[string]int{"": jobs, "?filter=latest": jobs, "?filter=all": all} {
			var list struct {
				Total int `json:"total_count"`
				Jobs  []struct{ ID int64 }
			}
			l.call(auth, "GET", path+"/jobs"+query, "", http.StatusOK, &list)
			if list.Total != want || len(list.Jobs) != want {
				t.Errorf("jobs%s: %+v, want %d", query, list, want)
			}
		}
		for _, s := range []string{"queued", "in_progress", "completed"} {
			var list struct {
				Total int `json:"total_count"`
			}
			l.call(auth, "GET", api+"/repos/calm/engine/actions/runs?status="+s, "", http.StatusOK, &list)
			if (list.Total == 1) != (s == status) {
				t.Errorf("%d runs are %s, and the run is %s", list.Total, s, status)
			}
		}
	}
	want("queued", "", 1, 2, 2)
	a := l.runner("a", "a")
	l.PickUp(a)
	want("in_progress", "", 1, 2, 2)
	l.Finish(a, "success")
	want("in_progress", "", 1, 2, 2) // the other is queued still
	third := add()
	l.Cancel(third)
	b := l.runner("b", "b")
	l.PickUp(b)
	if _, err := l.Rerun(first); err == nil {
		t.Error("a job of a run that runs was run again")
	}
	l.Finish(b, "failure")
	want("completed", "failure", 1, 3, 3)
	if _, err := l.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "engine", Labels: []string{"b"}, RunID: run}); err == nil {
		t.Error("a job joined a completed run")
	}
	if _, err := l.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "website", Labels: []string{"b"}, RunID: run}); err == nil {
		t.Error("a job joined another repository's run")
	}

	l.sent()
	l.pass(time.Minute)
	again, err := l.Rerun(second)
	if err != nil || again == second {
		t.Fatalf("%d, %v", again, err)
	}
	if of, attempt := l.runOf(again); of != run || attempt != 2 {
		t.Errorf("it is attempt %d of run %d, want 2 of %d", attempt, of, run)
	}
	var e struct {
		Job struct {
			ID      int64
			RunID   int64 `json:"run_id"`
			Attempt int   `json:"run_attempt"`
		} `json:"workflow_job"`
	}
	if err := json.Unmarshal(l.out[0].Body, &e); err != nil || e.Job.ID != again || e.Job.RunID != run || e.Job.Attempt != 2 {
		t.Errorf("delivered %+v, %v", e, err)
	}
	l.wantSent(fmt.Sprintf("queued %d", again))
	want("queued", "", 2, 3, 4)
	c := l.runner("c", "b")
	l.PickUp(c)
	want("in_progress", "", 2, 3, 4)
	l.Finish(c, "success")
	want("completed", "cancelled", 2, 3, 4) // the third was cancelled in the first attempt

	if _, err := l.Rerun(second); err == nil {
		t.Error("a job that was run again was run again")
	}
	if _, err := l.Rerun(1); err == nil {
		t.Error("no such job, and no error")
	}
	runs := fmt.Sprintf("%s/repos/calm/engine/actions/runs/%d", api, run)
	l.call(auth, "POST", runs+"/rerun-failed-jobs", "", http.StatusCreated, nil)
	want("queued", "", 3, 3, 5)
	l.call(auth, "POST", runs+"/rerun-failed-jobs", "", http.StatusForbidden, nil)
	l.call(auth, "POST", runs+"/cancel", "", http.StatusAccepted, nil)
	l.call(auth, "POST", runs+"/cancel", "", http.StatusConflict, nil)
	want("completed", "cancelled", 3, 3, 5)
	l.call(auth, "POST", fmt.Sprintf("%s/repos/calm/engine/actions/jobs/%d/rerun", api, again), "", http.StatusCreated, nil)
	want("queued", "", 4, 3, 6)
	for attempt, jobs := range map[int]int{1: 3, 2: 3, 3: 3, 4: 3} {
		type attemptsJob struct {
			Attempt int `json:"run_attempt"`
		}
		var list struct {
			Total int `json:"total_count"`
			Jobs  []attemptsJob
		}
		l.call(auth, "GET", fmt.Sprintf("%s/attempts/%d/jobs", runs, attempt), "", http.StatusOK, &list)
		if list.Total != jobs || slices.ContainsFunc(list.Jobs, func(j attemptsJob) bool { return j.Attempt > attempt }) {
			t.Errorf("attempt %d: %+v", attempt, list)
		}
	}
	var one struct{ Status, Conclusion string }
	l.call(auth, "GET", runs+"/attempts/1", "", http.StatusOK, &one)
	if one.Status != "completed" || one.Conclusion != "failure" {
		t.Errorf("the first attempt: %+v", one)
	}
	l.call(auth, "GET", runs+"/attempts/9", "", http.StatusNotFound, nil)
}

func (h *hub) runOf(job int64) (run int64, attempt int) {
	h.t.Helper()
	var j struct {
		RunID   int64 `json:"run_id"`
		Attempt int   `json:"run_attempt"`
	}
	h.call("", "GET", fmt.Sprintf("/_standin/jobs/%d", job), "", http.StatusOK, &j)
	return j.RunID, j.Attempt
}

// TestALoopRepeats: the same seed and the same calls give the same bytes.
func TestALoopRepeats(t *testing.T) {
	t.Parallel()
	day := func(seed uint64) string {
		l := newLoop(t, seed)
		var trace strings.Builder
		for i := range 40 {
			repo := fmt.Sprintf("repo-%d", i%7)
			l.queueAt("calm", repo, "x")
			if i%3 == 0 {
				l.queueAt("calm", repo, "y")
			}
			l.runner(fmt.Sprintf("a-%d", i), "x", "y")
			for len(l.assigned) > 0 {
				a := l.assigned[0]
				l.assigned = l.assigned[1:]
				fmt.Fprintln(&trace, a)
				if a[1]%3 != 0 {
					l.PickUp(a[0])
					l.Finish(a[0], "success")
				}
			}
			l.pass(20 * time.Second)
		}
		for _, o := range l.out {
			fmt.Fprintln(&trace, o.DeliveryID, o.GUID, o.Delay, o.Header, string(o.Body))
		}
		auth := l.asInstallation(l.owner)
		fmt.Fprintln(&trace, auth, l.send(t.Context(), auth, "GET", api+"/orgs/calm/actions/runners", "").Body)
		return trace.String()
	}
	first := day(7)
	if day(7) != first {
		t.Error("two days with one seed differ")
	}
	if day(8) == first {
		t.Error("two seeds give one day")
	}
}

// BenchmarkPoll is what a poll costs that finds nothing new, in a GitHub that has seen a day.
func BenchmarkPoll(b *testing.B) {
	l := newLoop(b, 1)
	for i := range 3000 {
		id := l.runner(fmt.Sprintf("vm-%d", i), "x")
		l.queueAt("calm", fmt.Sprintf("repo-%d", i%100), "x")
		l.PickUp(id)
		l.Finish(id, "success")
		l.sent()
	}
	l.queueAt("calm", "repo-7", "nobody-has-it")
	auth := l.asInstallation(l.owner)
	path := api + "/repos/calm/repo-7/actions/runs?status=queued"
	etag := l.send(b.Context(), auth, "GET", path, "").Header().Get("ETag")
	for b.Loop() {
		w := l.conditional(auth, path, etag)
		if w.Code != http.StatusNotModified {
			b.Fatal(w.Code)
		}
		l.clock = l.clock.Add(time.Second)
		if l.clock.Minute() == 50 {
			b.StopTimer()
			auth = l.asInstallation(l.owner)
			etag = l.send(b.Context(), auth, "GET", path, "").Header().Get("ETag")
			l.clock = l.clock.Add(15 * time.Minute)
			b.StartTimer()
		}
	}
}

// BenchmarkJob is a job's whole life, deliveries signed.
func BenchmarkJob(b *testing.B) {
	l := newLoop(b, 1)
	for i := 0; b.Loop(); i++ {
		l.queueAt("calm", fmt.Sprintf("repo-%d", i%100), "x")
		id := l.runner(fmt.Sprintf("vm-%d", i), "x")
		l.PickUp(id)
		l.Finish(id, "success")
		for _, o := range l.out {
			l.Answered(o.DeliveryID, http.StatusAccepted, time.Millisecond)
		}
		l.out = l.out[:0]
		l.Tidy()
	}
}
