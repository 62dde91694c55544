package githubtest_test

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
)

// TestJobsAreStolen: nothing ties a runner to the job that it was made for.
func TestJobsAreStolen(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth, swapped := h.asInstallation(h.owner), 0
		for i := range 20 {
			label := fmt.Sprintf("label-%d", i)
			first, second := h.queue(label), h.queue(label)
			one := h.register(auth, "/orgs/calm", "for-first-"+label, label)
			two := h.register(auth, "/orgs/calm", "for-second-"+label, label)
			if i%2 == 0 {
				one, two = two, one // whoever comes first gets the oldest job
			}
			one.call("session", "", http.StatusOK)
			two.call("session", "", http.StatusOK)
			_, got := one.poll(h.t.Context())
			_, other := two.poll(h.t.Context())
			if got != first || other != second {
				h.t.Fatalf("first come, first served: got %d and %d, want %d and %d", got, other, first, second)
			}
			if name := h.state(first).RunnerName; !strings.HasPrefix(name, "for-first") {
				swapped++
			}
		}
		if swapped != 10 {
			h.t.Errorf("%d of 20 jobs ran on the other's runner, want 10", swapped)
		}
		// Where several are idle, chance decides.
		winners := map[string]bool{}
		for i := range 20 {
			repo := fmt.Sprintf("repo-%d", i)
			for _, name := range []string{"a", "b", "c"} {
				h.online(auth, "/repos/calm/"+repo, name, "x")
			}
			job := h.queueAt("calm", repo, "x")
			var list struct {
				Runners []struct {
					Name string
					Busy bool
				}
			}
			h.call(auth, "GET", api+"/repos/calm/"+repo+"/actions/runners", "", http.StatusOK, &list)
			for _, r := range list.Runners {
				if r.Busy {
					winners[r.Name] = true
				}
			}
			if h.state(job).Status != "queued" {
				h.t.Error("a job is in_progress before it was picked up")
			}
		}
		if len(winners) != 3 {
			h.t.Errorf("of three idle runners only %v ever got the job", winners)
		}
	})
}

// TestTheBrokerDecides plays random worlds: whatever happens, a job runs on one runner that may run it, and no job waits
// while such a runner is idle.
func TestTheBrokerDecides(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		rnd := mathrand.New(mathrand.NewPCG(7, 11))
		pick := func() []string {
			return [][]string{{"a"}, {"b"}, {"A", "b"}, {"a", "b", "c"}, {"c"}}[rnd.IntN(5)]
		}
		type run struct {
			*machine
			labels []string
			repo   string
			job    int64
		}
		type queued struct {
			id     int64
			labels []string
			repo   string
		}
		for world := range 60 {
			owner := h.AddOwner(fmt.Sprintf("org%d", world), millrace.Organization)
			auth := h.asInstallation(owner)
			var runs []*run
			var jobs []queued
			ctx, cancel := context.WithCancel(h.t.Context())
			for i := range 2 + rnd.IntN(10) {
				repo := []string{"engine", "website"}[rnd.IntN(2)]
				if rnd.IntN(2) == 0 {
					labels := pick()
					jobs = append(jobs, queued{h.queueAt(owner.OwnerLogin, repo, labels...), labels, repo})
					continue
				}
				r := &run{labels: pick(), repo: repo}
				at := "/repos/" + owner.OwnerLogin + "/" + repo
				if rnd.IntN(2) == 0 {
					at, r.repo = "/orgs/"+owner.OwnerLogin, ""
				}
				r.machine = h.online(auth, at, fmt.Sprintf("vm-%d", i), r.labels...)
				runs = append(runs, r)
				go func() { _, r.job = r.poll(ctx) }()
			}
			synctest.Wait()
			cancel()
			synctest.Wait()
			fits := func(r *run, j queued) bool {
				return (r.repo == "" || r.repo == j.repo) && !slices.ContainsFunc(j.labels, func(want string) bool {
					return !slices.ContainsFunc(r.labels, func(have string) bool { return strings.EqualFold(have, want) })
				})
			}
			for _, j := range jobs {
				var ran []*run
				for _, r := range runs {
					if r.job == j.id {
						ran = append(ran, r)
					}
				}
				s := h.state(j.id)
				switch {
				case len(ran) > 1:
					h.t.Errorf("world %d: %d runners have one job", world, len(ran))
				case len(ran) == 1 && (!fits(ran[0], j) || s.Status != "in_progress" || s.RunnerID != ran[0].id):
					h.t.Errorf("world %d: %+v of %s %v is on %+v", world, s, j.repo, j.labels, ran[0])
				case len(ran) == 0 && s.Status != "queued":
					h.t.Errorf("world %d: %+v, and no runner has it", world, s)
				case len(ran) == 0 && slices.ContainsFunc(runs, func(r *run) bool { return r.job == 0 && fits(r, j) }):
					h.t.Errorf("world %d: %s %v waits, and a runner that may run it is idle", world, j.repo, j.labels)
				}
			}
		}
	})
}

func TestAJobThatIsNotPickedUpGoesToAnother(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		h.online(auth, "/orgs/calm", "dead", "x")
		job := h.queue("x") // given to dead, which never polls
		time.Sleep(30 * time.Second)
		alive := h.online(auth, "/orgs/calm", "alive", "x")
		if status, got := alive.poll(h.t.Context()); status != http.StatusNoContent || got != 0 {
			h.t.Fatalf("after half a minute: %d, job %d; want none yet", status, got)
		}
		began := time.Now()
		_, got := alive.poll(h.t.Context())
		if took := time.Since(began); got != job || took > 15*time.Second {
			h.t.Errorf("job %d after %v, want %d after a minute in all", got, took, job)
		}
		if s := h.state(job); s.RunnerName != "alive" || h.delivered(job) != "queued in_progress" {
			h.t.Errorf("%+v; delivered: %s", s, h.delivered(job))
		}
	})
}

func TestAnEphemeralRunnerVanishesAfterItsJob(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		m := h.online(auth, "/orgs/calm", "vm", "x")
		job, next := h.queue("x"), h.queue("x")
		m.poll(h.t.Context())
		if _, again := m.poll(h.t.Context()); again != job {
			h.t.Errorf("a poll whose answer was lost is answered with job %d, want %d again", again, job)
		}
		path := fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, m.id)
		h.call(auth, "DELETE", path, "", http.StatusUnprocessableEntity, nil)
		m.call(fmt.Sprintf("jobs/%d/complete", next), `{"conclusion":"success"}`, http.StatusNotFound)
		m.call(fmt.Sprintf("jobs/%d/complete", job), `{"conclusion":"splendid"}`, http.StatusUnprocessableEntity)
		m.call(fmt.Sprintf("jobs/%d/complete", job), `{"conclusion":"failure"}`, http.StatusNoContent)
		h.call(auth, "GET", path, "", http.StatusNotFound, nil)
		h.call(auth, "DELETE", path, "", http.StatusNotFound, nil)
		m.call("session", "", http.StatusGone)
		if s := h.state(next); s.Status != "queued" {
			h.t.Errorf("the next job: %+v", s)
		}
		if got := h.delivered(job); got != "queued in_progress completed" {
			h.t.Errorf("delivered: %s", got)
		}
	})
}

func TestADeletedRunnerIsTold(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		m := h.online(auth, "/orgs/calm", "vm", "x")
		status := 0
		go func() { status, _ = m.poll(h.t.Context()) }()
		synctest.Wait()
		h.call(auth, "DELETE", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, m.id), "", http.StatusNoContent, nil)
		synctest.Wait()
		if status != http.StatusGone {
			h.t.Errorf("its poll: %d, want 410 at once", status)
		}
		if job := h.queue("x"); h.state(job).Status != "queued" {
			h.t.Error("a deleted runner got a job")
		}
		if w := h.send(h.t.Context(), "Bearer ", "POST", "/_broker/session", ""); w.Code < 400 {
			h.t.Errorf("no token: %d", w.Code)
		}
	})
}

func TestARunnerThatFallsSilent(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		idle := h.online(auth, "/orgs/calm", "idle", "y")
		m := h.online(auth, "/orgs/calm", "vm", "x")
		job := h.queue("x")
		m.poll(h.t.Context())
		time.Sleep(2 * time.Minute)
		var r struct{ Status string }
		h.call(auth, "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, idle.id), "", http.StatusOK, &r)
		if r.Status != "offline" {
			h.t.Errorf("silent for two minutes: %s", r.Status)
		}
		if waiting := h.queue("y"); h.state(waiting).Status != "queued" {
			h.t.Error("an offline runner got a job")
		}
		time.Sleep(10 * time.Minute)
		if s := h.state(job); s.Conclusion != "failure" || !strings.Contains(s.Log, "lost communication") || s.RunnerName != "vm" {
			h.t.Errorf("%+v", s)
		}
		h.call(auth, "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, m.id), "", http.StatusNotFound, nil)
	})
}

func TestARunnerThatStaysAwayIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		never := h.register(h.asInstallation(h.owner), "/orgs/calm", "never-came", "x")
		came := h.online(h.asInstallation(h.owner), "/orgs/calm", "came-once", "x")
		time.Sleep(23 * time.Hour)
		came.call("session", "", http.StatusOK)
		time.Sleep(2 * time.Hour)
		auth := h.asInstallation(h.owner)
		h.call(auth, "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, never.id), "", http.StatusNotFound, nil)
		h.call(auth, "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, came.id), "", http.StatusOK, nil)
	})
}

func TestACancelledJobWhoseRunnerIsGoneIsCancelled(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		job := h.queue("x")
		m.poll(h.t.Context())
		h.call("", "POST", fmt.Sprintf("/_standin/jobs/%d/cancel", job), "", http.StatusAccepted, nil)
		time.Sleep(11 * time.Minute)
		if s := h.state(job); s.Conclusion != "cancelled" {
			h.t.Errorf("%+v", s)
		}
	})
}

// TestAWatchedJobMayBeSilent: a step that prints nothing for an hour is no lost runner.
func TestAWatchedJobMayBeSilent(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		job := h.queue("x")
		m.poll(h.t.Context())
		for began := time.Now(); time.Since(began) < time.Hour; {
			m.call(fmt.Sprintf("jobs/%d/watch", job), "", http.StatusNoContent)
		}
		var r struct{ Status string }
		h.call(h.asInstallation(h.owner), "GET", fmt.Sprintf("%s/orgs/calm/actions/runners/%d", api, m.id), "", http.StatusOK, &r)
		if s := h.state(job); s.Status != "in_progress" || r.Status != "online" {
			h.t.Errorf("%+v on a runner that is %s", s, r.Status)
		}
		status := make(chan int, 1)
		go func() {
			status <- h.send(h.t.Context(), m.as, "POST", fmt.Sprintf("/_broker/jobs/%d/watch", job), "").Code
		}()
		synctest.Wait()
		m.call(fmt.Sprintf("jobs/%d/complete", job), `{"conclusion":"success"}`, http.StatusNoContent)
		if got := <-status; got != http.StatusGone {
			h.t.Errorf("the watch of a completed job ends with %d", got)
		}
	})
}

func TestAJobQueuedForADayIsCancelled(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		job := h.queue("nobody-has-it")
		time.Sleep(24*time.Hour + time.Minute)
		if s := h.state(job); s.Conclusion != "cancelled" || s.RunnerID != 0 || h.delivered(job) != "queued completed" {
			h.t.Errorf("%+v; delivered: %s", s, h.delivered(job))
		}
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		cancel := func(job int64) {
			h.t.Helper()
			h.call("", "POST", fmt.Sprintf("/_standin/jobs/%d/cancel", job), "", http.StatusAccepted, nil)
		}
		queued := h.queue("nobody-has-it")
		cancel(queued)
		if s := h.state(queued); s.Conclusion != "cancelled" || s.RunnerID != 0 || s.RunnerName != "" || h.delivered(queued) != "queued completed" {
			h.t.Errorf("queued: %+v; delivered: %s", s, h.delivered(queued))
		}

		m := h.online(auth, "/orgs/calm", "vm", "x")
		assigned := h.queue("x")
		cancel(assigned) // before it was picked up
		if s := h.state(assigned); s.Conclusion != "cancelled" || s.RunnerID != 0 {
			h.t.Errorf("assigned: %+v", s)
		}
		running := h.queue("x") // the runner is idle again
		if _, got := m.poll(h.t.Context()); got != running {
			h.t.Fatalf("polled job %d, want %d", got, running)
		}
		step := fmt.Sprintf("jobs/%d/steps/1", running)
		m.call(step, `{"status":"in_progress"}`, http.StatusNoContent)
		watch := make(chan int, 1)
		go func() {
			watch <- h.send(h.t.Context(), m.as, "POST", fmt.Sprintf("/_broker/jobs/%d/watch", running), "").Code
		}()
		synctest.Wait()
		cancel(running)
		cancel(running)
		if status := <-watch; status != http.StatusConflict {
			h.t.Errorf("the runner is told with %d, want 409 at once", status)
		}
		m.call(fmt.Sprintf("jobs/%d/watch", running), "", http.StatusConflict)
		m.call(fmt.Sprintf("jobs/%d/watch", assigned), "", http.StatusNotFound)
		m.call(step, `{"status":"completed","conclusion":"failure"}`, http.StatusConflict)
		m.call(fmt.Sprintf("jobs/%d/complete", running), `{"conclusion":"success"}`, http.StatusNoContent)
		cancel(running)
		if s := h.state(running); s.Conclusion != "cancelled" || s.RunnerName != "vm" || h.delivered(running) != "queued in_progress completed" {
			h.t.Errorf("running: %+v; delivered: %s", s, h.delivered(running))
		}
		h.call("", "POST", "/_standin/jobs/1/cancel", "", http.StatusNotFound, nil)
	})
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		job := h.queue("x")
		m.poll(h.t.Context())
		path := fmt.Sprintf("jobs/%d/log?step=1", job)
		m.call(path, "caf\xc3", http.StatusNoContent) // half a rune
		for range 6 {
			m.call(path, strings.Repeat("x", 1<<20), http.StatusNoContent)
		}
		m.call(path, strings.Repeat("x", 1<<20+1), http.StatusRequestEntityTooLarge)
		if s := h.state(job); len(s.Log) > 4<<20+8 || !strings.HasPrefix(s.Log, "caf\uFFFD") {
			h.t.Errorf("%d bytes of log", len(s.Log))
		}
		m.call(fmt.Sprintf("jobs/%d/steps/3", job), `{"status":"in_progress"}`, http.StatusUnprocessableEntity)
		m.call(fmt.Sprintf("jobs/%d/steps/1", job), `nonsense`, http.StatusUnprocessableEntity)
	})
}
