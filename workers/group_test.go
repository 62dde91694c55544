package workers_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// A runner that is online in vain: GitHub is asked whether its group excludes the job's repository. If so no more VMs are
// launched for that one until it is let in; other repositories go on.
func TestRunnerGroupExcludesRepository(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.faults(githubtest.Faults{RunnerGroupExcludes: []string{"calm/engine"}})
	v := h.connect(h.launch())
	h.pass(3 * time.Minute)
	h.do(millrace.WatchVMs{})
	h.relay()
	open := h.open()
	if len(open) != 1 || open[0].Code != millrace.WaitRunnerGroup || open[0].Repository != "calm/engine" || open[0].RepositoryID != v.RepositoryID {
		t.Fatalf("open: %+v", open)
	}
	if h.observe(v, millrace.VMGone); h.Registered(v.RunnerID) {
		t.Error("the runner is still registered")
	}

	h.pass(30 * time.Second)
	waits := h.queue()
	h.answer(http.StatusOK)
	if h.place(); h.job(waits).VM != nil || h.job(waits).Wait.Code != millrace.WaitRunnerGroup {
		t.Errorf("a job of the repository: %+v", h.job(waits))
	}
	h.launch("website")

	h.pass(30 * time.Second)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("probed while it holds", millrace.WaitRunnerGroup)
	h.faults(githubtest.Faults{})
	h.pass(time.Minute)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("probed after it")
	if placed := h.place(); placed.VMs != 2 {
		t.Errorf("%d VMs for the repository's 2 jobs", placed.VMs)
	}
	if n := len(h.calls(time.Time{}, "generate-jitconfig")); n != 1 {
		t.Errorf("%d registrations: the probes made some", n)
	}
}

// What else keeps a runner without a job opens no incident, and nothing of a group is asked of a personal account.
func TestOnlineInVainForAnotherReason(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]millrace.OwnerType{"organisation": millrace.Organization, "personal account": millrace.Personal} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHubOf(t, kind)
			h.faults(githubtest.Faults{NeverAssign: 1})
			h.connect(h.launch())
			h.pass(3 * time.Minute)
			h.do(millrace.WatchVMs{})
			h.relay()
			h.wantOpen("")
			if n := len(h.calls(time.Time{}, "runner-groups")); (n == 1) != (kind == millrace.Organization) {
				t.Errorf("%d calls for groups", n)
			}
		})
	}
}
