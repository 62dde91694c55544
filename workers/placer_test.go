package workers_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/workers"
)

var now = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// announced is demand of some orgs that one transaction announced.
func announced(commit uint64, orgs ...millrace.OrgID) workers.Announced {
	demand := store.Demand{}
	for _, org := range orgs {
		demand[org] = store.Asked{Commits: []uint64{commit}, Urgency: store.AtOnce}
	}
	return workers.Announced{Demand: demand}
}

// canWait is such demand that can wait.
func canWait(commit uint64, org millrace.OrgID) workers.Announced {
	return workers.Announced{Demand: store.Demand{org: {Commits: []uint64{commit}}}}
}

// forRoom is such demand by the end of a VM.
func forRoom(commit uint64, org millrace.OrgID) workers.Announced {
	return workers.Announced{Demand: store.Demand{org: {Commits: []uint64{commit}, Urgency: store.ForRoom}}}
}

// asks is a pass that some commits ask for, with the greatest of their urgencies.
func asks(org millrace.OrgID, u store.Urgency, commits ...uint64) []workers.RunPass {
	return []workers.RunPass{{Org: org, Asked: store.Asked{Commits: commits, Urgency: u}}}
}

func TestStep(t *testing.T) {
	t.Parallel()
	type event struct {
		what workers.PlacerEvent
		at   time.Duration
		want []workers.RunPass
	}
	for name, events := range map[string][]event{
		"an announcement starts a pass": {{announced(1, 7), 0, asks(7, store.AtOnce, 1)}},
		"those during a pass start another after it": {
			{announced(1, 7), 0, asks(7, store.AtOnce, 1)},
			{announced(2, 7), 0, nil},
			{announced(3, 7), 0, nil},
			{workers.PassDone{Org: 7}, 0, asks(7, store.AtOnce, 2, 3)},
			{workers.PassDone{Org: 7}, 0, nil},
		},
		"orgs don't wait for each other": {
			{announced(1, 7), 0, asks(7, store.AtOnce, 1)},
			{announced(2, 8, 9), 0, append(asks(8, store.AtOnce, 2), asks(9, store.AtOnce, 2)...)},
		},
		"a decision that will be another later": {
			{announced(1, 7), 0, asks(7, store.AtOnce, 1)},
			{workers.PassDone{Org: 7, NextAt: now.Add(time.Second)}, 0, nil},
			{workers.Woken{}, 999 * time.Millisecond, nil},
			{workers.Woken{}, time.Second, asks(7, store.CanWait)},
		},
		"what can wait waits": {
			{canWait(1, 7), 0, nil},
			{canWait(2, 7), 100 * time.Millisecond, nil},
			{workers.Woken{}, 199 * time.Millisecond, nil},
			{workers.Woken{}, 200 * time.Millisecond, asks(7, store.CanWait, 1, 2)},
			{canWait(3, 7), 210 * time.Millisecond, nil},
			{workers.PassDone{Org: 7, NextAt: now.Add(time.Minute)}, 220 * time.Millisecond, nil},
			{workers.Woken{}, 410 * time.Millisecond, asks(7, store.CanWait, 3)},
		},
		"so does room that no job waits for": {
			{forRoom(1, 7), 0, nil},
			{canWait(2, 7), 100 * time.Millisecond, nil},
			{workers.Woken{}, 200 * time.Millisecond, asks(7, store.ForRoom, 1, 2)},
			{workers.PassDone{Org: 7}, 210 * time.Millisecond, nil},
			{forRoom(3, 7), 220 * time.Millisecond, nil},
			{announced(4, 7), 230 * time.Millisecond, asks(7, store.AtOnce, 3, 4)},
			{forRoom(5, 7), 240 * time.Millisecond, nil},
			{workers.PassDone{Org: 7, Waits: true}, 250 * time.Millisecond, asks(7, store.ForRoom, 5)},
			{workers.PassDone{Org: 7, Waits: true}, 260 * time.Millisecond, nil},
			{forRoom(6, 7), 270 * time.Millisecond, asks(7, store.ForRoom, 6)},
			{forRoom(7, 7), 280 * time.Millisecond, nil},
			{workers.PassDone{Org: 7}, 290 * time.Millisecond, nil}, // it has a VM meanwhile
			{workers.Woken{}, 490 * time.Millisecond, asks(7, store.ForRoom, 7)},
		},
		"or comes with what can't": {
			{canWait(1, 7), 0, nil},
			{announced(2, 7), 100 * time.Millisecond, asks(7, store.AtOnce, 1, 2)},
			{workers.PassDone{Org: 7}, 110 * time.Millisecond, nil},
			{workers.Woken{}, 200 * time.Millisecond, nil},
		},
		"a failed pass is tried again after a pause that grows": {
			{announced(1, 7), 0, asks(7, store.AtOnce, 1)},
			{workers.PassDone{Org: 7, Failed: true}, 0, nil},
			{announced(2, 7), 50 * time.Millisecond, nil},
			{workers.Woken{}, 100 * time.Millisecond, asks(7, store.AtOnce, 0, 2)},
			{workers.PassDone{Org: 7, Failed: true}, 100 * time.Millisecond, nil},
			{workers.Woken{}, 200 * time.Millisecond, nil},
			{workers.Woken{}, 300 * time.Millisecond, asks(7, store.AtOnce, 0)},
			{workers.PassDone{Org: 7, Failed: true}, 300 * time.Millisecond, nil},
			{canWait(3, 7), 310 * time.Millisecond, nil},
			{workers.Woken{}, 510 * time.Millisecond, nil},
			{workers.Woken{}, 700 * time.Millisecond, asks(7, store.AtOnce, 0, 3)},
			{canWait(4, 7), 710 * time.Millisecond, nil},
			{workers.PassDone{Org: 7}, 720 * time.Millisecond, nil},
			{workers.Woken{}, 910 * time.Millisecond, asks(7, store.CanWait, 4)},
			{workers.PassDone{Org: 7}, 920 * time.Millisecond, nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var state workers.PlacerState
			for i, e := range events {
				var run []workers.RunPass
				state, run = workers.Step(state, e.what, now.Add(e.at))
				if diff := cmp.Diff(e.want, run); diff != "" {
					t.Fatalf("event %d: %s", i, diff)
				}
			}
		})
	}
}

// Whatever happens in whatever order, no org has two passes at once, and every announcement is followed by a pass that
// began after it, and is told of it.
func TestStepLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var state workers.PlacerState
		at := now
		running := map[millrace.OrgID]bool{}
		owed := map[millrace.OrgID]uint64{} // the last that was announced and no pass that succeeded was told of
		told := map[millrace.OrgID]uint64{} // by the running pass
		commit := uint64(0)
		step := func(e workers.PlacerEvent) {
			var run []workers.RunPass
			state, run = workers.Step(state, e, at)
			for _, p := range run {
				if running[p.Org] {
					t.Fatalf("two passes for org %d", p.Org)
				}
				running[p.Org], told[p.Org] = true, 0
				if owes := owed[p.Org]; slices.Contains(p.Asked.Commits, owes) || !p.Asked.Known() {
					told[p.Org] = owes
				}
			}
		}
		org := rapid.SampledFrom([]millrace.OrgID{1, 2, 3})
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			at = at.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			o := org.Draw(t, "org")
			switch {
			case running[o] && rapid.Bool().Draw(t, "ends"):
				running[o] = false
				failed := rapid.Bool().Draw(t, "failed")
				if !failed && told[o] == owed[o] {
					owed[o] = 0
				}
				step(workers.PassDone{Org: o, Waits: rapid.Bool().Draw(t, "waits"), Failed: failed})
			case rapid.Bool().Draw(t, "announced"):
				commit++
				owed[o] = commit
				asks := rapid.SampledFrom([]func(uint64, millrace.OrgID) workers.Announced{
					canWait, forRoom, func(commit uint64, o millrace.OrgID) workers.Announced { return announced(commit, o) },
				}).Draw(t, "asks")
				step(asks(commit, o))
			default:
				step(workers.Woken{})
			}
		}
		for range 20 { // then nothing is announced and every pass succeeds
			for o := range running {
				if running[o] {
					running[o] = false
					if told[o] == owed[o] {
						owed[o] = 0
					}
					step(workers.PassDone{Org: o})
				}
			}
			if wake := state.Wake(); wake.After(at) {
				at = wake
			}
			step(workers.Woken{})
		}
		for o, commit := range owed {
			if commit != 0 {
				t.Fatalf("%d announced demand of org %d, which had no pass since that was told so", commit, o)
			}
		}
	})
}
