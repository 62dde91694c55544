package workers_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/workers"
)

var now = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

func announced(orgs ...millrace.OrgID) workers.Announced { return workers.Announced{Orgs: orgs} }

func TestStep(t *testing.T) {
	t.Parallel()
	type event struct {
		what workers.PlacerEvent
		at   time.Duration
		want []workers.RunPass
	}
	for name, events := range map[string][]event{
		"an announcement starts a pass": {{announced(7), 0, []workers.RunPass{{Org: 7}}}},
		"one during a pass starts another after it": {
			{announced(7), 0, []workers.RunPass{{Org: 7}}},
			{announced(7), 0, nil},
			{announced(7), 0, nil},
			{workers.PassDone{Org: 7}, 0, []workers.RunPass{{Org: 7}}},
			{workers.PassDone{Org: 7}, 0, nil},
		},
		"orgs don't wait for each other": {
			{announced(7), 0, []workers.RunPass{{Org: 7}}},
			{announced(8, 9), 0, []workers.RunPass{{Org: 8}, {Org: 9}}},
		},
		"a decision that will be another later": {
			{announced(7), 0, []workers.RunPass{{Org: 7}}},
			{workers.PassDone{Org: 7, NextAt: now.Add(time.Second)}, 0, nil},
			{workers.Woken{}, 999 * time.Millisecond, nil},
			{workers.Woken{}, time.Second, []workers.RunPass{{Org: 7}}},
		},
		"a failed pass is tried again after a pause that grows": {
			{announced(7), 0, []workers.RunPass{{Org: 7}}},
			{workers.PassDone{Org: 7, Failed: true}, 0, nil},
			{announced(7), 50 * time.Millisecond, nil},
			{workers.Woken{}, 100 * time.Millisecond, []workers.RunPass{{Org: 7}}},
			{workers.PassDone{Org: 7, Failed: true}, 100 * time.Millisecond, nil},
			{workers.Woken{}, 200 * time.Millisecond, nil},
			{workers.Woken{}, 300 * time.Millisecond, []workers.RunPass{{Org: 7}}},
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
// began after it.
func TestStepLosesNoWakeUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var state workers.PlacerState
		at := now
		running := map[millrace.OrgID]bool{}
		owed := map[millrace.OrgID]bool{} // announced since its last pass began
		step := func(e workers.PlacerEvent) {
			var run []workers.RunPass
			state, run = workers.Step(state, e, at)
			for _, p := range run {
				if running[p.Org] {
					t.Fatalf("two passes for org %d", p.Org)
				}
				running[p.Org], owed[p.Org] = true, false
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
				owed[o] = owed[o] || failed
				step(workers.PassDone{Org: o, Failed: failed})
			case rapid.Bool().Draw(t, "announced"):
				owed[o] = true
				step(announced(o))
			default:
				step(workers.Woken{})
			}
		}
		for range 20 { // then nothing is announced and every pass succeeds
			for o := range running {
				if running[o] {
					running[o] = false
					step(workers.PassDone{Org: o})
				}
			}
			if wake := state.Wake(); wake.After(at) {
				at = wake
			}
			step(workers.Woken{})
		}
		for o, is := range owed {
			if is {
				t.Fatalf("org %d was announced and had no pass since", o)
			}
		}
	})
}
