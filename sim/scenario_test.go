package sim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/sim"
	"github.com/millrace-ci/millrace/store/storetest"
)

func database(t *testing.T) sim.Database {
	t.Helper()
	db := storetest.NewDatabase(t)
	return sim.Database{Superuser: db.Superuser, App: db.App, System: db.System}
}

// Each failure mode seen in the wild, alone.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, sc := range sim.Scenarios() {
		t.Run(sc.Name, func(t *testing.T) {
			t.Parallel()
			r, err := sc.Run(t.Context(), 1, database(t))
			if t.Logf("%s\n%s", r.Line(), r); err != nil {
				t.Error(err)
			}
		})
	}
}

// A net that is away is missed: without it a scenario fails.
func TestNets(t *testing.T) {
	t.Parallel()
	tried := map[string]bool{}
	for _, sc := range sim.Scenarios() {
		if sc.Net == "" || tried[sc.Net] {
			continue
		}
		tried[sc.Net] = true
		t.Run(sc.Net, func(t *testing.T) {
			t.Parallel()
			_, err := sc.Run(t.Context(), 1, database(t), sc.Net)
			if err == nil {
				t.Errorf("%q holds without %s", sc.Name, sc.Net)
			}
			t.Logf("%s: %v", sc.Name, err)
		})
	}
	for _, net := range []string{"deliveries.sweep", "repositories.poll", "vms.watch", "runners.sweep", "incidents.probe", "hosts.find_lost"} {
		if !tried[net] {
			t.Errorf("no scenario is about %s", net)
		}
	}
}

// Some days on which everything goes wrong; make sim runs whole ones, and more.
func TestWorstDays(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			r, err := sim.Run(t.Context(), sim.Config{Seed: seed, Database: database(t), Jobs: 700, Day: 6 * time.Hour, Skew: true, Faults: sim.WorstDay()})
			if t.Logf("%s\n%s", r.Line(), r); err != nil {
				t.Errorf("%v\nagain: go run ./sim/simulate -seed %d -jobs 700 -day 6h\n%s", err, seed, strings.Join(r.Lines, ""))
			}
			if r.Jobs < 650 {
				t.Errorf("only %d jobs were queued", r.Jobs)
			}
		})
	}
}

// A seed is a day: the same again, and the same whatever hosts think what time it is.
func TestReplay(t *testing.T) {
	t.Parallel()
	worst := sim.WorstDay()
	immortal := worst
	immortal.ServerCrash = 0 // a host whose clock is wrong asks once more, and where servers die is drawn for each step
	day := func(seed uint64, skew bool, faults sim.Faults) (report sim.Report) {
		r, err := sim.Run(t.Context(), sim.Config{Seed: seed, Database: database(t), Jobs: 150, Day: time.Hour, Servers: 1, Skew: skew, Faults: faults})
		if err != nil {
			t.Error(err)
		}
		t.Logf("%s\n%s", r.Line(), r)
		return r
	}
	first := day(3, true, worst)
	if again := day(3, true, worst); again.Line() != first.Line() {
		t.Errorf("%s\nand then\n%s", first.Line(), again.Line())
	}
	if other := day(4, true, worst); other.Trace == first.Trace {
		t.Error("another seed is the same day")
	}
	if wrong, right := day(5, true, immortal), day(5, false, immortal); wrong.Line() != right.Line() {
		t.Errorf("with wrong clocks\n%s\nwith right ones\n%s", wrong.Line(), right.Line())
	}
}

// A server may die at any point: it dies at one after the other of a short day, and each such day must end well.
func TestDiesAnywhere(t *testing.T) {
	t.Parallel()
	day := func(at int) sim.Report {
		r, err := sim.Run(t.Context(), sim.Config{
			Seed: 1, Database: database(t), Jobs: 4, Day: time.Minute, Orgs: 1, Hosts: 1, Repos: 1, Servers: 1, Short: true, Quiet: true,
			Faults: sim.Faults{KillAt: at, GitHub: githubtest.Faults{Drop: 0.2}},
		})
		if err != nil {
			t.Errorf("killed at point %d: %v", at, err)
		}
		return r
	}
	points := day(1 << 40).Points
	step := max(1, points/12)
	for at := 1; at <= points && !t.Failed(); at += step {
		if r := day(at); r.ServerCrashes != 1 {
			t.Fatalf("%d servers died at point %d of %d", r.ServerCrashes, at, points)
		}
	}
}
