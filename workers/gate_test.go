package workers_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
)

// call registers a runner through the gate, as the API does, and removes it.
func (h *hub) call() error {
	config, err := h.work.Gate().CreateJIT(h.t.Context(), h.target(), "millrace-x", []string{"millrace"})
	if err == nil {
		err = h.work.Gate().DeleteRunner(h.t.Context(), h.target(), config.RunnerID)
	}
	return err
}

// Each condition that GitHub names opens one incident, which says what to do. Some keep GitHub from being called. A probe
// ends each when its condition does, and not before; for owners of both kinds.
func TestConditionsOpenIncidents(t *testing.T) {
	t.Parallel()
	calm := githubtest.Owners{"calm"}
	conditions := []struct {
		name   string
		faults githubtest.Faults
		code   millrace.WaitCode
		stops  bool          // calls
		probe  time.Duration // from when it was last met until it is looked at
	}{
		{"suspended", githubtest.Faults{Suspended: calm}, millrace.WaitSuspended, true, time.Minute},
		{"uninstalled", githubtest.Faults{Uninstalled: calm}, millrace.WaitSuspended, true, time.Minute},
		{"IP allow list", githubtest.Faults{IPAllowList: calm}, millrace.WaitIPAllowList, true, time.Minute},
		{"permission", githubtest.Faults{PermissionMissing: calm}, millrace.WaitPermission, false, time.Minute},
		{"self-hosted runners disabled", githubtest.Faults{SelfHostedDisabled: calm}, millrace.WaitSelfHostedDisabled, false, time.Minute},
		{"group full", githubtest.Faults{GroupFull: calm}, millrace.WaitRunnerGroupFull, false, time.Minute},
		{"rate limit", githubtest.Faults{SecondaryLimit: 1, RetryAfterS: 90}, millrace.WaitRateLimited, true, 90 * time.Second},
	}
	for _, kind := range []millrace.OwnerType{millrace.Organization, millrace.Personal} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			h := newHubOf(t, kind)
			h.launch() // a personal account's runners are those of repositories that had a job
			for _, c := range conditions {
				h.pass(2 * time.Hour) // one that comes back within an hour is the same
				h.faults(c.faults)
				if err := h.call(); millrace.ConditionOf(err) == nil {
					t.Errorf("%s: %v", c.name, err)
				}
				h.pass(time.Second)
				again := h.now()
				err := h.call()
				if made := len(h.calls(again, "")) > 0; made == c.stops || c.stops && millrace.CodeOf(err) != millrace.LimitReached {
					t.Errorf("%s: GitHub was called: %v, %v", c.name, made, err)
				}
				h.wantOpen(c.name, c.code)
				if i := h.open()[0]; i.Remedy() == "" || i.Detail == "" || i.RepositoryID != 0 {
					t.Errorf("%s: %+v", c.name, i)
				}

				h.silence(c.probe - 2*time.Second)
				quiet := h.now()
				if h.do(millrace.ProbeIncidents{}); len(h.calls(quiet, "")) > 0 {
					t.Errorf("%s: it is looked at too early", c.name)
				}
				if h.silence(2 * time.Second); c.code != millrace.WaitRateLimited { // which ends by itself
					h.do(millrace.ProbeIncidents{})
					h.wantOpen(c.name+", probed while it holds", c.code)
					h.silence(c.probe)
				}
				h.faults(githubtest.Faults{})
				h.do(millrace.ProbeIncidents{})
				h.wantOpen(c.name + ", probed after it")
				h.must(h.call())
				if n := h.Runners(); n != 0 {
					t.Errorf("%s: probes left %d runners", c.name, n)
				}
			}
			if v := h.Violations(); len(v) > 0 {
				t.Errorf("violations: %+v", v)
			}
		})
	}
}

// What a call that went well proves ends an incident at once: a registration that runners may be registered, a read less.
func TestCallsCloseIncidents(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.AddRepository("calm", "engine", false)
	h.faults(githubtest.Faults{PermissionMissing: githubtest.Owners{"calm"}})
	if err := h.call(); err == nil {
		t.Fatal("there is no fault")
	}
	h.faults(githubtest.Faults{})
	_, err := h.work.Gate().OpenJobs(t.Context(), millrace.RepositoryTarget{InstallationID: h.owner.ID, FullName: "calm/engine"})
	h.must(err)
	h.wantOpen("after a read", millrace.WaitPermission)
	h.must(h.call())
	h.wantOpen("after a registration")
}

// GitHub counts as down after three calls in a row without an answer, over ten seconds, and not before.
func TestGitHubDown(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	fails := func(after time.Duration, codes ...millrace.WaitCode) {
		t.Helper()
		h.pass(after)
		if err := h.call(); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("after %s: %v", after, err)
		}
		h.wantOpen("after "+after.String(), codes...)
	}
	for _, down := range []func(bool){
		func(yes bool) { h.cut = yes },
		func(yes bool) {
			if h.faults(githubtest.Faults{}); yes {
				h.faults(githubtest.Faults{API5xx: 1})
			}
		},
	} {
		h.pass(2 * time.Hour)
		down(true)
		fails(0)
		fails(11 * time.Second) // two calls are too few
		down(false)
		h.must(h.call())
		down(true)
		fails(0)
		fails(time.Second)
		fails(time.Second)
		fails(7 * time.Second) // and nine seconds too short
		fails(time.Second, millrace.WaitGitHubDown)
		h.pass(time.Second)
		began := h.now()
		if err := h.call(); millrace.CodeOf(err) != millrace.LimitReached || len(h.calls(began, "")) > 0 {
			t.Errorf("it is called: %v", err)
		}
		h.pass(14 * time.Second)
		h.do(millrace.ProbeIncidents{})
		h.wantOpen("probed while it is down", millrace.WaitGitHubDown)
		down(false)
		h.pass(15 * time.Second)
		h.do(millrace.ProbeIncidents{})
		h.wantOpen("probed when it is back")
		h.must(h.call())
	}
	h.faults(githubtest.Faults{API5xx: 1})
	fails(2 * time.Hour)
	fails(5 * time.Second)
	fails(5*time.Second, millrace.WaitGitHubDown)
	h.faults(githubtest.Faults{Uninstalled: githubtest.Owners{"calm"}})
	h.pass(15 * time.Second)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("it answers, though with a refusal")
}

// A probe that gets no answer says nothing of its incident, and alone not that GitHub is down.
func TestProbeWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.faults(githubtest.Faults{GroupFull: githubtest.Owners{"calm"}})
	if err := h.call(); err == nil {
		t.Fatal("there is no fault")
	}
	h.faults(githubtest.Faults{API5xx: 1})
	h.pass(time.Minute)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("after one probe", millrace.WaitRunnerGroupFull)
}

// A probe that GitHub refuses for another reason, but answers, ends what has it answer nothing; one that it doesn't answer ends nothing.
func TestProbeMeetsAnotherCondition(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	calm := githubtest.Owners{"calm"}
	h.faults(githubtest.Faults{IPAllowList: calm})
	if err := h.call(); err == nil {
		t.Fatal("there is no fault")
	}
	h.faults(githubtest.Faults{IPAllowList: calm, GroupFull: calm})
	h.pass(time.Minute)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("while both hold", millrace.WaitIPAllowList)
	h.faults(githubtest.Faults{GroupFull: calm})
	h.pass(time.Minute)
	h.do(millrace.ProbeIncidents{})
	h.wantOpen("once the list lets us in", millrace.WaitRunnerGroupFull)
}

// A runner whose version GitHub refuses ends with exit code 7: no try of its job, one incident, which ends after a while.
func TestRunnerVersionRefused(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	seven := 7
	for range 2 {
		v := h.register(h.launch())
		_, err := h.org.Observe(t.Context(), h.host.ID, h.host.Epoch, "", []millrace.Observation{{
			VMID: v.ID, Epoch: v.Epoch, State: millrace.VMGone, Reason: "Runner version v1 is deprecated.", ExitCode: &seven,
		}})
		h.must(err)
		if j := h.job(h.githubID(v)); j.Tries != 0 {
			t.Errorf("it cost the job %d tries", j.Tries)
		}
		h.wantOpen("", millrace.WaitRunnerVersion)
		if placed := h.place(); placed.VMs != 0 {
			t.Error("a VM is launched all the same")
		}
		h.pass(15*time.Minute - time.Second)
		h.do(millrace.ProbeIncidents{})
		h.wantOpen("before its time", millrace.WaitRunnerVersion)
		h.pass(time.Second)
		h.do(millrace.ProbeIncidents{})
		h.wantOpen("it is tried again")
		h.cancel(h.githubID(v))
		h.answer(http.StatusOK)
	}
	if page, err := h.org.Incidents(t.Context(), store.IncidentFilter{}); err != nil || len(page.Incidents) != 1 {
		t.Errorf("%d incidents, %v", len(page.Incidents), err)
	}
}
