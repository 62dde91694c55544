package workers_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// poll lets time pass, polling at half the schedule's pace.
func (h *hub) poll(d time.Duration) { h.t.Helper(); h.pollEvery(30*time.Second, d) }

func (h *hub) pollEvery(pace, d time.Duration) {
	h.t.Helper()
	for until := h.now().Add(d); h.now().Before(until); {
		h.silence(pace)
		h.do(millrace.PollRepositories{})
	}
}

// polls counts how often a repository's jobs were read since then.
func (h *hub) polls(since time.Time, repo string) int {
	return len(h.calls(since, "GET /repos/calm/"+repo+"/actions/runs?status=queued"))
}

// Whatever of a job nobody told us is found within two minutes, whether its repository is known or not.
func TestPollFindsWhatWasDropped(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	v := h.connect(h.launch())
	ended := h.githubID(v)
	h.PickUp(v.RunnerID)
	h.answer(http.StatusOK)
	v = h.connect(h.launch())
	began := h.githubID(v)
	cancelled := h.queue()
	h.told(cancelled)
	h.poll(time.Minute)
	h.faults(githubtest.Faults{Drop: 1})
	h.Finish(h.job(ended).RunnerID, "failure")
	h.PickUp(v.RunnerID)
	h.cancel(cancelled)
	queued := h.queue("website")
	h.poll(4 * time.Minute)
	for id, want := range map[int64]millrace.Job{
		ended:     {Status: millrace.JobCompleted, Conclusion: "failure"},
		began:     {Status: millrace.JobInProgress},
		cancelled: {Status: millrace.JobCompleted, Conclusion: "cancelled"},
		queued:    {Status: millrace.JobQueued},
	} {
		if j := h.job(id); j == nil || j.Status != want.Status || j.Conclusion != want.Conclusion {
			t.Errorf("the job is %+v, want %s %s", j, want.Status, want.Conclusion)
		}
	}
	if h.job(began).RunnerID != v.RunnerID || len(h.sent) > 0 {
		t.Errorf("runner %d, %d delivered", h.job(began).RunnerID, len(h.sent))
	}
}

// A VM that ran some job of which nobody told has ended. Its own job is not placed again before GitHub was asked: a poll that
// lists it as queued frees it, one that says it ran ends it, and without an answer it goes on all the same.
func TestPollClearsUpWhatAVMRan(t *testing.T) {
	t.Parallel()
	ended := func(t *testing.T) (h *hub, job int64) {
		h = newHub(t)
		v := h.connect(h.launch())
		job = h.githubID(v)
		h.faults(githubtest.Faults{Drop: 1})
		h.observe(h.observe(v, millrace.VMBusy), millrace.VMGone)
		if h.place(); h.job(job).VM.State != millrace.VMGone || h.job(job).Wait.Code != millrace.WaitForGitHub {
			t.Fatalf("right after its end: %+v", h.job(job))
		}
		return h, job
	}
	t.Run("it still waits", func(t *testing.T) {
		t.Parallel()
		h, job := ended(t)
		h.poll(time.Minute)
		h.pass(0) // the host is there
		if h.place(); h.job(job).VM.State != millrace.VMPending {
			t.Errorf("after a poll: %+v", h.job(job))
		}
	})
	t.Run("it ran", func(t *testing.T) {
		t.Parallel()
		h, job := ended(t)
		h.PickUp(h.job(job).VM.RunnerID)
		h.poll(time.Minute)
		h.pass(0) // the host is there
		if h.place(); h.job(job).Status != millrace.JobInProgress || h.job(job).VM.State != millrace.VMGone {
			t.Errorf("after a poll: %+v", h.job(job))
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		t.Parallel()
		h, job := ended(t)
		h.pass(80 * time.Second)
		if h.place(); h.job(job).VM.State != millrace.VMGone {
			t.Errorf("within the pause: %+v", h.job(job))
		}
		h.pass(20 * time.Second)
		if h.place(); h.job(job).VM.State != millrace.VMPending {
			t.Errorf("after the pause: %+v", h.job(job))
		}
	})
}

// told has a job's event taken in and a VM placed.
func (h *hub) told(int64) {
	h.answer(http.StatusOK)
	h.place()
}

// As long as nothing changes polls cost nothing of the quota.
func TestPollsAreFree(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	job := h.queue()
	h.told(job)
	h.poll(2 * time.Minute)
	began := h.now().Add(time.Second)
	h.poll(10 * time.Minute)
	if n := h.polls(began, "engine"); n < 9 || n > 11 {
		t.Errorf("an active repository was read %d times in 10 minutes", n)
	}
	for _, c := range h.calls(began, "/repos/") {
		if c.Status != http.StatusNotModified {
			t.Errorf("%+v", c)
		}
	}
	if h.job(job).Status != millrace.JobQueued {
		t.Error("the job is no longer queued")
	}
}

// With less than half of the quota polls come four times as far apart, and the last fifth is for launches.
func TestPollsKeepToTheQuota(t *testing.T) {
	t.Parallel()
	for left, want := range map[int]int{2600: 12, 2400: 3, 900: 0} { // of 5,000
		t.Run(strconv.Itoa(left), func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.told(h.queue())
			h.quota = left
			h.poll(time.Minute)
			began := h.now().Add(time.Second)
			h.poll(12 * time.Minute)
			if n := h.polls(began, "engine"); n < want-1 || n > want+1 || want == 0 && n > 0 {
				t.Errorf("%d polls in 12 minutes, want %d", n, want)
			}
			h.quota = 0
			h.pollEvery(2*time.Minute, 50*time.Minute)
			began = h.now()
			if h.poll(2 * time.Minute); h.polls(began, "engine") == 0 {
				t.Error("no polls in the next hour of the quota")
			}
		})
	}
}

// A repository that nothing is heard of is read every two minutes while its installation's hooks are silent, or have missed
// something; otherwise every ten.
func TestPollsWhileHooksAreSilent(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.AddRepository("calm", "website", false)
	h.poll(2 * time.Minute) // nothing was ever heard: it is listed
	hears := func() { h.told(h.queue()) }
	in := func(d time.Duration) int {
		began := h.now().Add(time.Second)
		h.poll(d)
		return h.polls(began, "website")
	}
	hears()
	if n := in(20 * time.Minute); n > 3 {
		t.Errorf("%d polls in 20 minutes while hooks are heard", n)
	}
	in(10 * time.Minute)
	if n := in(10 * time.Minute); n < 4 {
		t.Errorf("%d polls in 10 minutes while hooks are silent", n)
	}
	hears()
	h.faults(githubtest.Faults{Drop: 1})
	missed := h.queue()
	h.pass(30 * time.Second) // longer than a delivery takes
	in(time.Minute)
	if n := in(10 * time.Minute); n < 4 || h.job(missed) == nil {
		t.Errorf("%d polls in 10 minutes after a delivery was missed", n)
	}
}

// Before it goes on after an outage of ours, every repository is read.
func TestPollsReconcile(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.AddRepository("calm", "website", false)
	h.poll(2 * time.Minute)
	h.told(h.queue())
	h.silence(3 * time.Minute)
	h.restart()
	began := h.now()
	h.do(millrace.PollRepositories{})
	if h.polls(began, "website") != 1 || h.polls(began, "engine") != 1 {
		t.Errorf("read: %+v", h.calls(began, "GET /repos/"))
	}
}

// A repository that was renamed is read by its new name, even when another has its old one by now.
func TestPollReadsWhatWasRenamed(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	waiting := h.queue()
	h.told(waiting)
	h.poll(2 * time.Minute)
	h.must(h.MoveRepository("calm", "engine", "calm", "motor"))
	h.AddRepository("calm", "engine", false)
	h.faults(githubtest.Faults{Drop: 1})
	queued := h.queue("motor")
	for range 14 {
		h.poll(time.Minute)
		h.do(millrace.GiveUpJobs{})
	}
	if j := h.job(waiting); j.Status != millrace.JobQueued {
		t.Errorf("the job that waited is %s", j.Status)
	}
	if h.job(queued) == nil {
		t.Error("nobody knows what was queued by the new name")
	}
}

// The jobs of a repository that was transferred to somebody without the App are given up: GitHub denies the whole repository.
func TestPollGivesUpWhatWasTransferred(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	job := h.queue()
	h.told(job)
	h.must(h.MoveRepository("calm", "engine", "stranger", "engine"))
	for minute := range 20 {
		if j := h.job(job); minute == 12 && j.Status != millrace.JobQueued {
			t.Errorf("it is given up after %d minutes", minute)
		}
		h.poll(time.Minute)
		h.do(millrace.GiveUpJobs{})
	}
	if j := h.job(job); j.Conclusion != millrace.ConclusionStale {
		t.Errorf("the job is %s %s", j.Status, j.Conclusion)
	}
}

// GitHub's reads can be stale: a job that it says once it doesn't have is kept. One that it denies for a quarter of an hour is not.
func TestDeniedJobs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lasts time.Duration // that GitHub denies it
		ends  bool
	}{"a stale read": {2 * time.Minute, false}, "for long, and then it is back": {13 * time.Minute, false}, "GitHub has none": {17 * time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.AddRepository("calm", "engine", false)
			job := h.queue()
			h.told(job)
			h.poll(2 * time.Minute)
			h.faults(githubtest.Faults{StaleS: 24 * 60 * 60})
			for range c.lasts / time.Minute {
				h.poll(time.Minute)
				h.do(millrace.GiveUpJobs{})
			}
			j := h.job(job)
			if n := len(h.calls(time.Time{}, "GET /repos/calm/engine/actions/jobs/")); n == 0 {
				t.Error("GitHub was not asked for the job")
			}
			if !c.ends && j.Status != millrace.JobQueued || c.ends && (j.Status != millrace.JobCompleted || j.Conclusion != millrace.ConclusionStale) {
				t.Errorf("the job is %s %s", j.Status, j.Conclusion)
			}
			if c.ends {
				return
			}
			h.faults(githubtest.Faults{})
			h.poll(2 * time.Minute)
			h.faults(githubtest.Faults{StaleS: 24 * 60 * 60})
			h.poll(13 * time.Minute) // of which the time before is no part
			if h.do(millrace.GiveUpJobs{}); h.job(job).Status != millrace.JobQueued {
				t.Error("it is given up")
			}
		})
	}
}

// One answer that denies a job means nothing, also when GitHub can't be asked again for long.
func TestJobDeniedOnce(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	job := h.queue()
	h.told(job)
	h.poll(2 * time.Minute)
	h.faults(githubtest.Faults{StaleS: 24 * 60 * 60})
	h.poll(time.Minute)
	if n := len(h.calls(time.Time{}, "GET /repos/calm/engine/actions/jobs/")); n != 1 {
		t.Fatalf("GitHub was asked %d times", n)
	}
	h.cut = true
	h.poll(15 * time.Minute)
	if h.do(millrace.GiveUpJobs{}); h.job(job).Status != millrace.JobQueued {
		t.Error("it is given up")
	}
}

// A job that waits is given up after GitHub's limit of a day, unless GitHub says that it still waits.
func TestGiveUpJobs(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	first := h.queue()
	h.told(first)
	h.pass(time.Hour)
	job := h.queue("website")
	h.told(job)
	stale := func(after time.Duration, id int64, want bool) {
		t.Helper()
		h.pass(after)
		h.do(millrace.GiveUpJobs{})
		if j := h.job(id); (j.Conclusion == millrace.ConclusionStale) != want || (j.Status == millrace.JobCompleted) != want {
			t.Errorf("the job is %s %s", j.Status, j.Conclusion)
		}
	}
	stale(24*time.Hour-time.Second, first, false)
	stale(time.Second, first, true) // never confirmed
	h.do(millrace.PollRepositories{})
	stale(59*time.Minute, job, false)
	stale(time.Minute, job, true) // confirmed, but long since
}
