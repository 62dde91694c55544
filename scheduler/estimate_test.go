package scheduler_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

// Of jobs that ask for the same and wait for the same, none of one repository that came later starts sooner.
func TestEstimatesGrowAlongTheLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPass(t)
		d := scheduler.Decide(p)
		type alike struct {
			repository int64
			label      string
			code       millrace.WaitCode
			installed  int64
		}
		last := map[alike]millrace.Job{}
		jobs := slices.Clone(p.Jobs)
		slices.SortFunc(jobs, func(a, b millrace.Job) int { return a.ReceivedAt.Compare(b.ReceivedAt) })
		for _, j := range jobs {
			r := d.Wait[j.ID]
			if r.Estimate == nil || r.Code == millrace.WaitRetry {
				continue
			}
			k := alike{j.RepositoryID, j.Labels[0], r.Code, j.InstallationID}
			if before, ok := last[k]; ok {
				e := d.Wait[before.ID].Estimate
				if r.Estimate.From.Before(e.From) || r.Estimate.To.Before(e.To) {
					t.Fatalf("%+v comes before %+v, but starts %+v and %+v", before, j, e, r.Estimate)
				}
			}
			last[k] = j
		}
	})
}

// The basis says how many are before a job, and what the range rests on.
func TestBasis(t *testing.T) {
	t.Parallel()
	src := ids(8)
	h := host(src, "rack-1", millrace.AMD64, 8, 16)
	var vms []millrace.VM
	for range 3 {
		v := vmFor(src, job(src, 0, "millrace"), h)
		v.State, v.RanJob, v.Stamps.Busy = millrace.VMBusy, v.ForJob, now.Add(-time.Minute)
		vms = append(vms, v)
	}
	var jobs []millrace.Job
	for n := range 60 {
		jobs = append(jobs, job(src, n, "millrace"))
	}
	p := pass(3, jobs, []millrace.Host{h}, vms...)
	if r := scheduler.Decide(p).Wait[jobs[0].ID]; r.Code != millrace.WaitPlanLimit || r.Estimate != nil {
		t.Errorf("when nothing is known: %+v", r)
	}
	p.Runs = map[millrace.VMID]millrace.Durations{vms[0].ID: {N: 20, P50: 3 * time.Minute, P90: 5 * time.Minute}}
	d := scheduler.Decide(p)
	for n, want := range map[int]string{
		0: "it is next; past runs of the 3 jobs that run now", 1: "1 job is before it; past runs of the 3 jobs that run now",
		9: "9 jobs are before it; past runs of the 3 jobs that run now", 57: "about 60 jobs are before it; past runs of the 3 jobs that run now",
	} {
		if got := d.Wait[jobs[n].ID].Estimate.Basis; got != want {
			t.Errorf("job %d: %q", n, got)
		}
	}
	// Three jobs of which each has run for one minute of about three: the first ends before, the last after.
	first, third := d.Wait[jobs[0].ID].Estimate, d.Wait[jobs[2].ID].Estimate
	if from, to := first.From.Sub(now), third.To.Sub(now); from <= 0 || from > 2*time.Minute || to < 2*time.Minute || to > 10*time.Minute {
		t.Errorf("the first starts %+v, the third %+v", first, third)
	}
}

// TestEstimatesComeTrue plays a queue: jobs arrive in bursts, run as long as their like did before, more or less, and start
// when there is room. What was said when a job began to wait is compared with when it started. Where jobs that come later
// may go first, of repositories that have fewer VMs or because they are smaller, all come at once: nobody knows those.
func TestEstimatesComeTrue(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		slots, hosts, gb int // of each host
		repositories     int
		every            time.Duration // between bursts; 0: all at once
		labels           []string
		code             millrace.WaitCode
	}{
		"one slot":                        {1, 1, 64, 1, 130 * time.Minute, []string{"millrace-1cpu-1gb"}, millrace.WaitPlanLimit},
		"eight slots":                     {8, 2, 64, 1, 16 * time.Minute, []string{"millrace-1cpu-1gb", "millrace-2cpu-4gb"}, millrace.WaitPlanLimit},
		"fifty slots":                     {50, 4, 64, 1, 150 * time.Second, []string{"millrace-1cpu-1gb"}, millrace.WaitPlanLimit},
		"eight slots, three repositories": {8, 2, 64, 3, 0, []string{"millrace-1cpu-1gb"}, millrace.WaitPlanLimit},
		"full hosts":                      {1000, 3, 16, 1, 11 * time.Minute, []string{"millrace-2cpu-4gb"}, millrace.WaitNoCapacity},
		"full, three sizes":               {1000, 3, 16, 1, 0, []string{"millrace-1cpu-2gb", "millrace-2cpu-4gb", "millrace-4cpu-8gb"}, millrace.WaitNoCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within, early, late, n, width, waited := 0, 0, 0, 0, 0.0, 0.0
			for seed := range uint64(20) {
				q := newQueue(seed, tc.repositories, tc.slots, tc.hosts, tc.gb, tc.labels)
				q.run(100, tc.every)
				for id, e := range q.said {
					started, ok := q.started[id]
					switch {
					case !ok:
						t.Fatal("a job never started")
					case started.Before(e.From):
						early++
					case started.After(e.To):
						late++
					default:
						within++
					}
					width += e.To.Sub(e.From).Minutes()
				}
				n += len(q.said)
				waited += q.waited.Minutes()
				for code := range q.codes {
					if code != tc.code && (code != millrace.WaitHostKept || len(tc.labels) < 3) {
						t.Errorf("jobs waited for %s", code)
					}
				}
			}
			share := float64(within) / float64(n)
			t.Logf("%d of %d jobs (%.0f %%) started within the range, %d before, %d after; the ranges are %.1f min wide on average, the waits %.1f min",
				within, n, 100*share, early, late, width/float64(n), waited/float64(n))
			if n < 300 || share < 0.8 {
				t.Errorf("the range held for %d of %d", within, n)
			}
		})
	}
}

// queue is a fleet, its jobs and GitHub, driven by one loop.
type queue struct {
	src          *millrace.Source
	rand         *rand.Rand
	pass         millrace.Pass
	labels       []string
	repositories int
	names        map[millrace.JobID]int // which kind of job it is
	ends         []happening
	said         map[millrace.JobID]*millrace.Estimate
	started      map[millrace.JobID]time.Time
	waited       time.Duration
	coming       int // jobs that are still to come, if what is said before they have is not counted
	codes        map[millrace.WaitCode]int
}

type happening struct {
	at time.Time
	do func()
}

func newQueue(seed uint64, repositories, slots, hosts, gb int, labels []string) *queue {
	q := &queue{
		src: ids(seed), rand: rand.New(rand.NewPCG(1, seed)), labels: labels, repositories: repositories, names: map[millrace.JobID]int{},
		said: map[millrace.JobID]*millrace.Estimate{}, started: map[millrace.JobID]time.Time{}, codes: map[millrace.WaitCode]int{},
	}
	q.pass = pass(slots, nil, nil)
	q.pass.Runs, q.pass.Queue, q.pass.Boots = map[millrace.VMID]millrace.Durations{}, map[millrace.JobID]millrace.Durations{}, map[millrace.HostID]millrace.Durations{}
	for n := range hosts {
		h := host(q.src, fmt.Sprintf("rack-%d", n), millrace.AMD64, 64, gb)
		q.pass.Hosts = append(q.pass.Hosts, h)
		q.pass.Boots[h.ID] = learned(q.boot)
	}
	return q
}

// learned is what fifty runs teach.
func learned(take func() time.Duration) millrace.Durations {
	const n = 50
	runs := make([]time.Duration, n)
	for i := range runs {
		runs[i] = take()
	}
	slices.Sort(runs)
	return millrace.Durations{N: n, P50: runs[n/2-1], P90: runs[n*9/10-1]}
}

func (q *queue) boot() time.Duration {
	return time.Duration((2 + q.rand.ExpFloat64()) * float64(time.Second))
}

const kindsOfJobs = 7

// takes is how long a run of a kind of job takes: kinds differ in how long and in how much they vary.
func (q *queue) takes(kind int) time.Duration {
	minutes := float64(1 + 2*kind)
	switch kind % 3 {
	case 0: // skewed
		minutes *= math.Exp(0.4 * q.rand.NormFloat64())
	case 1: // steady
		minutes *= 1 + 0.05*q.rand.NormFloat64()
	default: // anything in a range
		minutes *= 0.5 + q.rand.Float64()
	}
	return time.Duration(max(0.05, minutes) * float64(time.Minute))
}

// run has so many jobs arrive and waits until all have run.
func (q *queue) run(jobs int, every time.Duration) {
	var known [kindsOfJobs]millrace.Durations
	for kind := range known {
		known[kind] = learned(func() time.Duration { return q.takes(kind) })
	}
	at := now
	for n := 0; n < jobs; {
		for range min(jobs-n, 1+q.rand.IntN(30)) { // a burst
			n++
			at = at.Add(time.Second)
			if every == 0 {
				q.coming++
			}
			q.ends = append(q.ends, happening{at, func() {
				q.coming = max(0, q.coming-1)
				kind := q.rand.IntN(kindsOfJobs)
				j := job(q.src, 0, q.labels[q.rand.IntN(len(q.labels))])
				j.ID, j.ReceivedAt, j.RepositoryID = millrace.NewJobID(q.src, q.pass.Now), q.pass.Now, int64(1+q.rand.IntN(q.repositories))
				q.names[j.ID] = kind
				if q.rand.IntN(20) > 0 { // the others never ran before
					q.pass.Queue[j.ID] = known[kind]
				}
				q.pass.Jobs = append(q.pass.Jobs, j)
			}})
		}
		at = at.Add(time.Duration(q.rand.ExpFloat64() * float64(every)))
	}
	for len(q.ends) > 0 {
		i := 0
		for k := range q.ends {
			if q.ends[k].at.Before(q.ends[i].at) {
				i = k
			}
		}
		next := q.ends[i]
		q.ends = slices.Delete(q.ends, i, i+1)
		q.pass.Now = next.at
		next.do()
		q.decide()
	}
}

// decide is one pass, and what follows from it.
func (q *queue) decide() {
	p := &q.pass
	p.Installations[0].JITLeft = millrace.JITPerMinute
	for i := range p.Hosts {
		p.Hosts[i].SeenAt = p.Now
	}
	d := scheduler.Decide(*p)
	for id, r := range d.Wait {
		q.codes[r.Code]++
		if _, ok := q.said[id]; (!ok || q.coming > 0) && r.Estimate != nil {
			q.said[id] = r.Estimate
		}
	}
	for _, place := range d.Place {
		j := p.Jobs[slices.IndexFunc(p.Jobs, func(j millrace.Job) bool { return j.ID == place.JobID })]
		h := p.Hosts[slices.IndexFunc(p.Hosts, func(h millrace.Host) bool { return h.ID == place.HostID })]
		v := vmFor(q.src, j, h)
		v.Stamps.Placed = p.Now
		p.VMs = append(p.VMs, v)
		started := p.Now.Add(q.boot())
		q.ends = append(q.ends, happening{started, func() { q.start(v.ID, j) }})
	}
	slices.SortFunc(p.VMs, func(a, b millrace.VM) int { return slices.Compare(a.ID[:], b.ID[:]) })
}

func (q *queue) start(vm millrace.VMID, j millrace.Job) {
	p := &q.pass
	v := &p.VMs[slices.IndexFunc(p.VMs, func(v millrace.VM) bool { return v.ID == vm })]
	v.State, v.RanJob, v.Stamps.Busy = millrace.VMBusy, j.ID, p.Now
	if _, ok := q.said[j.ID]; ok {
		q.started[j.ID] = p.Now
		q.waited += p.Now.Sub(j.ReceivedAt)
	}
	p.Jobs = slices.DeleteFunc(p.Jobs, func(o millrace.Job) bool { return o.ID == j.ID })
	if d, ok := p.Queue[j.ID]; ok {
		p.Runs[vm] = d
		delete(p.Queue, j.ID)
	}
	q.ends = append(q.ends, happening{p.Now.Add(q.takes(q.names[j.ID])), func() {
		p.VMs = slices.DeleteFunc(p.VMs, func(v millrace.VM) bool { return v.ID == vm })
		delete(p.Runs, vm)
	}})
}
