package workers_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

const (
	lists      = "GET /app/hook/deliveries?"
	redelivers = "POST /app/hook/deliveries/"
)

// What failed is delivered again, once, and taken in; what can't fare better is not.
func TestSweepRedelivers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		want   int
	}{
		"an error of ours":      {http.StatusInternalServerError, 1},
		"a restart of ours":     {http.StatusBadGateway, 1},
		"a wrong signature":     {http.StatusUnauthorized, 1}, // while secrets rotate
		"no answer":             {0, 1},
		"taken in":              {http.StatusOK, 0},
		"for no org":            {http.StatusAccepted, 0},
		"not to be read":        {http.StatusBadRequest, 0},
		"larger than we'd take": {http.StatusRequestEntityTooLarge, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			job := h.queue()
			h.answer(c.status)
			h.pass(time.Minute)
			h.do(millrace.SweepDeliveries{})
			if n := h.answer(http.StatusOK); n != c.want || c.want == 1 && h.job(job) == nil {
				t.Errorf("%d delivered again, want %d; the job is %v", n, c.want, h.job(job))
			}
			h.pass(2 * time.Minute)
			h.do(millrace.SweepDeliveries{})
			if n := h.answer(http.StatusOK); n != 0 {
				t.Errorf("%d delivered once more", n)
			}
		})
	}
}

// A delivery that GitHub sent twice is one: if either try was taken in, whichever was first, nothing is repeated.
func TestSweepKnowsTriesOfOneDelivery(t *testing.T) {
	t.Parallel()
	for name, statuses := range map[string][2]int{"first": {http.StatusOK, http.StatusBadGateway}, "second": {http.StatusBadGateway, http.StatusOK}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.faults(githubtest.Faults{Duplicate: 1})
			h.queue()
			tries := h.sent
			for i, status := range statuses {
				h.sent = tries[i : i+1]
				h.answer(status)
			}
			h.pass(time.Minute)
			h.do(millrace.SweepDeliveries{})
			if n := len(h.sent); n != 0 {
				t.Errorf("%d delivered again", n)
			}
		})
	}
}

// An outage of ours: more failed than GitHub lists on a page, and more than may be asked for in a minute. The sweep waits as
// GitHub says, over a restart, and then goes on; each is asked for once.
func TestSweepOfAnOutage(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	const failed = 250
	for range failed {
		h.queue()
	}
	h.answer(http.StatusBadGateway)
	h.pass(time.Minute)
	if err := h.work.Do(t.Context(), millrace.SweepDeliveries{}); millrace.ConditionOf(err) == nil {
		t.Fatalf("GitHub allows 180 a minute: %v", err)
	}
	h.restart()
	h.pass(10 * time.Second)
	began := h.now()
	h.do(millrace.SweepDeliveries{})
	if n := len(h.calls(began, "/app/hook")); n != 0 {
		t.Errorf("%d calls while GitHub asks not to be called", n)
	}
	h.pass(time.Minute)
	h.do(millrace.SweepDeliveries{})
	if n := h.answer(http.StatusOK); n != failed || len(h.Violations()) != 0 {
		t.Errorf("%d were delivered again, want %d; violations: %v", n, failed, h.Violations())
	}
}

// Another process goes on where the last sweep ended.
func TestSweepKeepsItsCursor(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	for range 250 {
		h.queue()
	}
	h.answer(http.StatusAccepted)
	h.pass(15 * time.Minute)
	h.do(millrace.SweepDeliveries{})
	if n := len(h.calls(time.Time{}, lists)); n != 3 {
		t.Errorf("the first sweep read %d pages", n)
	}
	h.pass(30 * time.Minute)
	for range 100 {
		h.queue()
	}
	h.answer(http.StatusBadGateway)
	h.pass(time.Minute)
	h.restart()
	began := h.now()
	h.do(millrace.SweepDeliveries{})
	if pages, n := len(h.calls(began, lists)), len(h.sent); pages != 2 || n != 100 {
		t.Errorf("%d pages read and %d delivered again", pages, n)
	}
}

// A delivery that fails again and again is tried at pauses that grow to an hour, for three days.
func TestSweepBacksOff(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.queue()
	h.answer(http.StatusBadGateway)
	began := h.now()
	tries := func(pace, until time.Duration) (n int) {
		for h.now().Sub(began) < until {
			h.silence(pace)
			h.do(millrace.SweepDeliveries{})
			n += h.answer(http.StatusBadGateway)
		}
		return n
	}
	for _, c := range []struct {
		pace, until time.Duration
		want        int
	}{
		{20 * time.Second, 5 * time.Minute, 3}, // at 0:20, 1:20 and 3:20
		{time.Minute, 2 * time.Hour, 5},        // at 7, 15, 31, 63, 123 min, or so
		{time.Hour, 3 * 24 * time.Hour, 70},
		{time.Hour, 8 * 24 * time.Hour, 0},
	} {
		if n := tries(c.pace, c.until); n < c.want-1 || n > c.want+1 || c.want == 0 && n > 0 {
			t.Errorf("until %s: %d tries, want %d", c.until, n, c.want)
		}
	}
}

// A registration without its VM goes a minute after the VM, unless it runs a job; any other stays.
func TestSweepRunners(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		left func(*hub) int64 // makes a registration
		gone bool             // in the end
	}{
		"its VM ended, and the task that follows was lost": {func(h *hub) int64 {
			v := h.register(h.launch())
			h.observe(v, millrace.VMGone)
			return v.RunnerID
		}, true},
		"its VM was not wanted any more before the answer came": {func(h *hub) int64 {
			v := h.launch()
			config, err := h.app.CreateJIT(h.t.Context(), h.target(), v.RunnerName, v.Labels)
			h.must(err)
			h.cancel(h.jobs()[0].GitHubID)
			h.answer(http.StatusOK)
			h.place()
			return config.RunnerID
		}, true},
		"it runs a job that we haven't heard of": {func(h *hub) int64 {
			v := h.connect(h.launch())
			h.faults(githubtest.Faults{Drop: 1})
			h.PickUp(v.RunnerID)
			h.observe(v, millrace.VMGone)
			return v.RunnerID
		}, false},
		"its VM boots": {func(h *hub) int64 { return h.register(h.launch()).RunnerID }, false},
		"its VM is placed, and the answer is on its way": {func(h *hub) int64 {
			v := h.launch()
			config, err := h.app.CreateJIT(h.t.Context(), h.target(), v.RunnerName, v.Labels)
			h.must(err)
			return config.RunnerID
		}, false},
		"its VM's host is silent": {func(h *hub) int64 {
			v := h.connect(h.launch())
			h.silence(time.Minute)
			h.do(millrace.FindLostHosts{})
			return v.RunnerID
		}, false},
		"it is somebody else's": {func(h *hub) int64 { return h.RegisterRunner("calm", "millrace-vm-of-nobody", []string{"millrace"}).RunnerID }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			runner := c.left(h)
			h.pass(59 * time.Second)
			h.do(millrace.SweepRunners{})
			if !h.Registered(runner) {
				t.Error("it is gone before its time")
			}
			h.pass(time.Second)
			h.do(millrace.SweepRunners{})
			if h.Registered(runner) == c.gone {
				t.Errorf("after a minute it is registered: %v", !c.gone)
			}
			h.wantOpen("")
		})
	}
}
