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
	h := newHub(t)
	jobs := map[int64]bool{} // whether they are delivered again
	for status, again := range map[int]bool{
		http.StatusInternalServerError:   true,
		http.StatusBadGateway:            true, // a restart of ours
		http.StatusUnauthorized:          true, // while secrets rotate
		0:                                true, // no answer
		http.StatusAccepted:              false,
		http.StatusBadRequest:            false, // it can't be read
		http.StatusRequestEntityTooLarge: false,
	} {
		jobs[h.queue()] = again
		h.answer(status)
	}
	h.pass(time.Minute)
	h.do(millrace.SweepDeliveries{})
	if n := h.answer(http.StatusOK); n != 4 {
		t.Errorf("%d delivered again", n)
	}
	for job, again := range jobs {
		if (h.job(job) != nil) != again {
			t.Errorf("job %d: %+v", job, h.job(job))
		}
	}
	h.pass(2 * time.Minute)
	h.do(millrace.SweepDeliveries{})
	if n := h.answer(http.StatusOK); n != 0 {
		t.Errorf("%d delivered once more", n)
	}
}

// A delivery that GitHub sent twice is one: if either try was taken in, whichever was first, nothing is repeated.
func TestSweepKnowsTriesOfOneDelivery(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.faults(githubtest.Faults{Duplicate: 1})
	h.queue()
	h.queue()
	tries := h.sent
	for i, status := range []int{http.StatusOK, http.StatusBadGateway, http.StatusBadGateway, http.StatusOK} {
		h.sent = tries[i : i+1]
		h.answer(status)
	}
	h.pass(time.Minute)
	h.do(millrace.SweepDeliveries{})
	if n := len(h.sent); n != 0 {
		t.Errorf("%d delivered again", n)
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
	err := h.work.Do(t.Context(), millrace.SweepDeliveries{})
	if n := len(h.calls(began, "/app/hook")); n != 0 || millrace.CodeOf(err) != millrace.LimitReached {
		t.Errorf("%v; %d calls while GitHub asks not to be called", err, n)
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
		{2 * time.Minute, 2 * time.Hour, 5},    // at 7, 15, 31, 63, 123 min, or so
		{time.Hour, 3 * 24 * time.Hour, 70},
		{3 * time.Hour, 9 * 24 * time.Hour, 0},
	} {
		if n := tries(c.pace, c.until); n < c.want-1 || n > c.want+1 || c.want == 0 && n > 0 {
			t.Errorf("until %s: %d tries, want %d", c.until, n, c.want)
		}
	}
}

// A registration without its VM goes a minute after the VM, unless it runs a job; any other stays.
func TestSweepRunners(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	created := func(v millrace.VM) int64 { // and the answer not saved
		config, err := h.app.CreateJIT(t.Context(), h.target(), v.RunnerName, v.Labels)
		h.must(err)
		return config.RunnerID
	}
	left := map[string]int64{}
	unwanted := h.launch()
	left["its VM was not wanted any more before the answer came"] = created(unwanted)
	h.cancel(h.githubID(unwanted))
	h.answer(http.StatusOK)
	h.place()
	ended := h.register(h.launch())
	h.observe(ended, millrace.VMGone)
	left["its VM ended, and the task that follows was lost"] = ended.RunnerID
	busy := h.connect(h.launch())
	h.faults(githubtest.Faults{Drop: 1})
	h.PickUp(busy.RunnerID)
	h.faults(githubtest.Faults{})
	h.observe(busy, millrace.VMGone)
	kept := map[string]int64{
		"it runs a job that we haven't heard of":         busy.RunnerID,
		"its VM boots":                                   h.register(h.launch()).RunnerID,
		"its VM is placed, and the answer is on its way": created(h.launch()),
		"it is somebody else's":                          h.RegisterRunner("calm", "millrace-vm-of-nobody", []string{"millrace"}).RunnerID,
	}
	sweep := func() {
		h.silence(59 * time.Second) // and the VMs of the host are lost
		h.do(millrace.FindLostHosts{}, millrace.SweepRunners{})
		for name, id := range kept {
			if !h.Registered(id) {
				t.Errorf("%s: it is removed", name)
			}
		}
	}
	sweep()
	for name, id := range left {
		if !h.Registered(id) {
			t.Errorf("%s: it is removed before its time", name)
		}
	}
	sweep()
	for name, id := range left {
		if h.Registered(id) {
			t.Errorf("%s: it is still registered", name)
		}
	}
	sweep() // those of lost VMs are the task's that follows, which GitHub may refuse
	h.wantOpen("")
}
