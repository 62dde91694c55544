package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

// An org as large as placement is made for.
const (
	waitingJobs  = 10_000
	fleetHosts   = 1_000
	fleetTenants = 200 // repositories
	placements   = 11  // passes of each kind, in turns
)

// placementGoal is the most of one processor's time that a pass over such an org may take.
const placementGoal = 50 * time.Millisecond

// placement times passes over large orgs on one processor: whole passes, from what was read to what is to be written, with
// the collection of their garbage. It is this process's time on the processor, for others may want that, too; and every kind
// is timed in the same run, in turns.
func placement() []figure {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	empty := town(func(int) string { return "millrace-2cpu-8gb" })
	sizes := town(func(n int) string { return fmt.Sprintf("millrace-%dcpu-%dmb", 1+n%4, 1024+n%500) })
	kinds := []struct {
		name string
		pass millrace.Pass
		took []time.Duration
	}{
		{name: "one size, empty hosts", pass: empty},
		{name: "2,000 sizes, empty hosts", pass: sizes},
		{name: "2,000 sizes, spread, with shares", pass: settled(sizes)},
		{name: "2,000 sizes, full hosts", pass: full(sizes)},
		{name: "2,000 sizes, full hosts, waiting for an hour", pass: full(settled(late(sizes)))},
	}
	for range placements {
		for i := range kinds {
			runtime.GC() // what the pass before left is not this one's
			began := worked()
			scheduler.Decide(kinds[i].pass)
			kinds[i].took = append(kinds[i].took, worked()-began)
		}
	}
	figures := make([]figure, 0, len(kinds))
	for _, k := range kinds {
		slices.Sort(k.took)
		median := k.took[len(k.took)/2]
		figures = append(figures, figure{name: "placement: " + k.name, value: ms(median), goal: "≤ " + ms(placementGoal), missed: median > placementGoal})
	}
	return figures
}

// worked is how long this process has had a processor.
func worked() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("bench: " + err.Error()) // it takes no argument that could be wrong
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// town is an org with jobs that wait, and hosts on which nothing runs. All that is known of their past runs is there.
func town(label func(n int) string) millrace.Pass {
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	ids := &millrace.Source{Rand: rand.NewChaCha8([32]byte{5})}
	p := millrace.Pass{
		Now: now, Org: millrace.Org{ID: 1, Concurrency: 2 * waitingJobs},
		Installations: []millrace.InstallationBudget{{Installation: millrace.Installation{ID: 1, OwnerLogin: "calm", OwnerType: millrace.Organization}, JITLeft: waitingJobs}},
		Runs:          map[millrace.VMID]millrace.Durations{}, Queue: map[millrace.JobID]millrace.Durations{}, Boots: map[millrace.HostID]millrace.Durations{},
	}
	for n := range fleetHosts {
		h := millrace.Host{
			ID: millrace.NewHostID(ids, now), Name: fmt.Sprintf("rack-%d", n), Admin: millrace.HostEnabled, SeenAt: now,
			Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 16_000, MemoryMB: 64 << 10}},
		}
		p.Hosts = append(p.Hosts, h)
		p.Boots[h.ID] = millrace.Durations{N: 50, P50: 2 * time.Second, P90: 3 * time.Second}
	}
	for n := range waitingJobs {
		labels := []string{label(n)}
		demand, _, _ := millrace.ParseLabels(labels, []string{"millrace"}, millrace.Size{}) // the labels are ours
		j := millrace.Job{
			ID: millrace.NewJobID(ids, now), InstallationID: 1, RepositoryID: int64(n % fleetTenants), Repository: "calm/app", Private: true,
			Zone: millrace.ZonePrivate, ZoneKnown: true, Labels: labels, Status: millrace.JobQueued, ReceivedAt: now.Add(time.Duration(n) * time.Millisecond), Demand: demand,
		}
		p.Jobs = append(p.Jobs, j)
		p.Queue[j.ID] = pastOf(n)
	}
	return p
}

// pastOf is what is known of a job's past runs.
func pastOf(n int) millrace.Durations {
	return millrace.Durations{N: 50, P50: time.Duration(60+n%300) * time.Second, P90: time.Duration(90+n%450) * time.Second}
}

// settled is p where everything is decided that an admin may decide.
func settled(p millrace.Pass) millrace.Pass {
	p.Settings.Strategy = millrace.Spread
	for n := range fleetTenants {
		p.Settings.Shares = append(p.Settings.Shares, millrace.Share{RepositoryID: int64(n), Priority: n%11 - millrace.MaxPriority, Limit: 10 + n})
	}
	return p
}

// late is p where all jobs have waited for an hour, as if nothing had ended meanwhile.
func late(p millrace.Pass) millrace.Pass {
	p.Jobs = slices.Clone(p.Jobs)
	for i := range p.Jobs {
		p.Jobs[i].ReceivedAt = p.Jobs[i].ReceivedAt.Add(-time.Hour)
	}
	return p
}

// full is p with a VM on each host that leaves too little for most jobs.
func full(p millrace.Pass) millrace.Pass {
	ids := &millrace.Source{Rand: rand.NewChaCha8([32]byte{6})}
	for n, h := range p.Hosts {
		v := millrace.VM{
			ID: millrace.NewVMID(ids, p.Now), HostID: h.ID, ForJob: millrace.NewJobID(ids, p.Now), State: millrace.VMBusy, Zone: millrace.ZonePrivate, Egress: millrace.EgressInternet,
			Arch: h.Facts.Arch, Size: millrace.Size{MilliCPU: 16_000, MemoryMB: 63 << 10}, InstallationID: 1, RepositoryID: int64(n % fleetTenants),
			Stamps: millrace.VMStamps{Placed: p.Now.Add(-time.Minute), Busy: p.Now.Add(-time.Duration(n%200) * time.Second)},
		}
		v.RanJob = v.ForJob
		p.VMs = append(p.VMs, v)
		p.Runs[v.ID] = pastOf(n)
	}
	return p
}
