package workers_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// Each VM that should have got further: at its time and not before, what is asked for, what becomes of it, and whether its
// job's try has failed.
func TestWatchVMs(t *testing.T) {
	t.Parallel()
	retire, check := millrace.RetireVM{}.Kind(), millrace.CheckRunnerGroup{}.Kind()
	runs := func(h *hub) millrace.VM {
		v := h.connect(h.launch())
		h.PickUp(v.RunnerID)
		h.told(0)
		return h.vm(v.ID)
	}
	for name, c := range map[string]struct {
		vm     func(*hub) millrace.VM
		silent bool // its host
		after  time.Duration
		tasks  []string
		state  millrace.VMState
		tries  int
	}{
		"it never came up":    {(*hub).anyVM, false, 4 * time.Minute, []string{retire}, millrace.VMStopping, 1},
		"it was never online": {func(h *hub) millrace.VM { return h.observe(h.register(h.launch()), millrace.VMBooting) }, false, 4 * time.Minute, []string{retire}, millrace.VMStopping, 1},
		"it was given no job": {func(h *hub) millrace.VM {
			h.faults(githubtest.Faults{NeverAssign: 1})
			return h.connect(h.launch())
		}, false, 3 * time.Minute, []string{retire, check}, millrace.VMStopping, 1},
		"it was given a job that we haven't heard of": {func(h *hub) millrace.VM {
			v := h.connect(h.launch())
			h.faults(githubtest.Faults{Drop: 1})
			h.PickUp(v.RunnerID)
			return v
		}, false, 3 * time.Minute, []string{retire, check}, millrace.VMBusy, 1},
		"GitHub said by mistake that it was given a job": {func(h *hub) millrace.VM {
			h.faults(githubtest.Faults{NeverAssign: 1, Unprocessable: 1})
			v := kept(h, h.connect(h.launch()))
			h.faults(githubtest.Faults{})
			return v
		}, false, 10 * time.Minute, []string{retire}, millrace.VMStopping, 1},
		"it has a job that nobody ever tells of": {func(h *hub) millrace.VM {
			v := h.connect(h.launch())
			h.faults(githubtest.Faults{Drop: 1})
			h.PickUp(v.RunnerID)
			return kept(h, v)
		}, false, 10 * time.Minute, []string{retire}, millrace.VMBusy, 1},
		"it outlives its job": {func(h *hub) millrace.VM {
			v := runs(h)
			h.Finish(v.RunnerID, "success")
			h.told(0)
			return v
		}, false, 3 * time.Minute, []string{retire}, millrace.VMStopping, 0},
		"its job runs for ever":                   {runs, false, 5*24*time.Hour + 3*time.Minute, []string{retire}, millrace.VMBusy, 0},
		"its host is silent":                      {(*hub).anyVM, true, time.Hour, nil, millrace.VMPending, 0},
		"it is destroyed, and its host is silent": {(*hub).unwanted, true, time.Hour, nil, millrace.VMGone, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			v := c.vm(h)
			h.relay()
			wait := h.pass
			if c.silent {
				wait = h.silence
			}
			wait(c.after - time.Second)
			h.do(millrace.WatchVMs{})
			if got := h.relay(); len(got) > 0 || h.vm(v.ID).State != v.State || h.vm(v.ID).RetireReason != v.RetireReason {
				t.Errorf("before its time: %v, %+v", got, h.vm(v.ID))
			}
			wait(time.Second)
			h.do(millrace.WatchVMs{}, millrace.WatchVMs{}) // a repeat asks for no more
			got := h.relay()
			slices.Sort(got)
			slices.Sort(c.tasks)
			row, err := h.org.Job(t.Context(), v.ForJob)
			h.must(err)
			if v = h.vm(v.ID); !slices.Equal(got, c.tasks) || v.State != c.state || row.Tries != c.tries {
				t.Errorf("%v asked for, want %v; the VM is %s, want %s; %d tries, want %d", got, c.tasks, v.State, c.state, row.Tries, c.tries)
			}
			if v.State == millrace.VMStopping && h.Registered(v.RunnerID) {
				t.Error("it is stopped before its runner is unregistered")
			}
		})
	}
}

func (h *hub) anyVM() millrace.VM { return h.launch() }

// kept is a VM that the watchdog wanted to end, and GitHub refused.
func kept(h *hub, v millrace.VM) millrace.VM {
	h.pass(3 * time.Minute)
	h.do(millrace.WatchVMs{})
	h.relay()
	return h.vm(v.ID)
}

// unwanted is a VM that is to be destroyed.
func (h *hub) unwanted() millrace.VM {
	v := h.launch()
	h.cancel(h.githubID(v))
	h.told(0)
	return h.vm(v.ID)
}

// An installation's registrations: 166 a minute. The rest waits and says so.
func TestJITBudget(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	const jobs = 250
	for range jobs {
		h.queue()
	}
	h.answer(http.StatusOK)
	for _, c := range []struct {
		after time.Duration
		vms   int
	}{{0, 166}, {15 * time.Second, 41}, {0, 0}, {time.Second, 3}, {time.Minute, 40}} { // and half of one is saved
		h.pass(c.after)
		placed := h.place()
		if placed.VMs != c.vms {
			t.Fatalf("after another %s %d were placed, want %d", c.after, placed.VMs, c.vms)
		}
		waits := 0
		for _, j := range h.jobs() { // 100 of them
			if j.VM == nil && j.Wait.Code == millrace.WaitRateLimited && j.Wait.Estimate != nil {
				waits++
			}
			if j.VM == nil && j.Wait.Code != millrace.WaitRateLimited {
				t.Fatalf("a job waits for %+v", j.Wait)
			}
		}
		if left := waits > 0; left == placed.NextAt.IsZero() || left && placed.NextAt.Sub(h.now()) > time.Second {
			t.Errorf("%d wait, and the next pass is at %s", waits, placed.NextAt)
		}
	}
}
