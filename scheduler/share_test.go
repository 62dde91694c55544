package scheduler_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

// town is an org whose jobs run: a VM is at work the minute it is placed, and gone when its job's time is over.
type town struct {
	src      *millrace.Source
	now      time.Time
	slots    int
	hosts    []millrace.Host
	settings millrace.PlacementSettings
	queued   []millrace.Job
	vms      []millrace.VM
	ends     map[millrace.VMID]time.Time
	takes    map[millrace.JobID]time.Duration
	started  map[millrace.JobID]time.Time
	n        int
}

func newTown(seed uint64, slots int, settings millrace.PlacementSettings) *town {
	return &town{
		src: ids(seed), now: now, slots: slots, settings: settings,
		ends: map[millrace.VMID]time.Time{}, takes: map[millrace.JobID]time.Duration{}, started: map[millrace.JobID]time.Time{},
	}
}

// queue queues a job of a repository that runs for some minutes.
func (w *town) queue(repository int64, label string, minutes int) millrace.JobID {
	w.n++
	j := job(w.src, w.n, label)
	j.RepositoryID, j.ReceivedAt = repository, w.now.Add(time.Duration(w.n)*time.Microsecond)
	w.takes[j.ID] = time.Duration(minutes) * time.Minute
	w.queued = append(w.queued, j)
	return j.ID
}

// minute ends what is over and places.
func (w *town) minute(t *rapid.T) {
	w.now = w.now.Add(time.Minute)
	w.vms = slices.DeleteFunc(w.vms, func(v millrace.VM) bool { return !w.ends[v.ID].After(w.now) })
	for i := range w.hosts {
		w.hosts[i].SeenAt = w.now
	}
	p := pass(w.slots, w.queued, w.hosts, w.vms...)
	p.Now, p.Settings = w.now, w.settings
	d := scheduler.Decide(p)
	byID := map[millrace.JobID]millrace.Job{}
	for _, j := range w.queued {
		byID[j.ID] = j
	}
	for _, place := range d.Place {
		h := w.hosts[slices.IndexFunc(w.hosts, func(h millrace.Host) bool { return h.ID == place.HostID })]
		v := vmFor(w.src, byID[place.JobID], h)
		v.State, v.RanJob, v.Stamps.Busy = millrace.VMBusy, v.ForJob, w.now
		w.vms = append(w.vms, v)
		w.ends[v.ID] = w.now.Add(w.takes[v.ForJob])
		w.started[v.ForJob] = w.now
	}
	w.queued = slices.DeleteFunc(w.queued, func(j millrace.Job) bool { return !w.started[j.ID].IsZero() })
	for i := range w.queued {
		w.queued[i].Wait = d.Wait[w.queued[i].ID]
	}
	w.check(t)
}

// check holds of every minute: nothing is over-committed, and nobody has more than they may.
func (w *town) check(t *rapid.T) {
	used, has := map[millrace.HostID]millrace.Room{}, map[int64]int{}
	for _, v := range w.vms {
		used[v.HostID] = used[v.HostID].Plus(v.Size.Room())
		has[v.RepositoryID]++
	}
	for _, h := range w.hosts {
		if u := used[h.ID]; !h.Facts.Room().Holds(u) {
			t.Fatalf("%s holds %d VMs, %v, of %s", h.Name, u.VMs, u, h.Facts.Bounds())
		}
	}
	if len(w.vms) > w.slots {
		t.Fatalf("%d VMs and %d slots", len(w.vms), w.slots)
	}
	for _, s := range w.settings.Shares {
		if s.Limit > 0 && has[s.RepositoryID] > s.Limit {
			t.Fatalf("%d VMs for a repository that may have %d", has[s.RepositoryID], s.Limit)
		}
	}
}

// A job waits among smaller, shorter and more important ones that never end: of other repositories, and later ones of its
// own. It starts all the same.
func TestNothingStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		settings := drawSettings(t)
		settings.Zones = nil // what a zone refuses may wait for ever
		settings.Shares = slices.DeleteFunc(settings.Shares, func(s millrace.Share) bool { return s.Limit > 0 && s.RepositoryID != 1 })
		w := newTown(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"), rapid.IntRange(1, 12).Draw(t, "slots"), settings)
		for range rapid.IntRange(1, 3).Draw(t, "hosts") {
			w.hosts = append(w.hosts, host(w.src, "h", millrace.AMD64, 8, rapid.SampledFrom([]int{8, 16}).Draw(t, "gb")))
		}
		small := rapid.SampledFrom([]string{"millrace-1cpu-1gb", "millrace-2cpu-1gb", "millrace-1cpu-4gb"})
		flood := func() {
			for len(w.queued) < 30 {
				w.queue(rapid.Int64Range(1, 3).Draw(t, "repository"), small.Draw(t, "small"), rapid.IntRange(1, 4).Draw(t, "minutes"))
			}
		}
		for range 5 {
			flood()
			w.minute(t)
		}
		victim := w.queue(1, rapid.SampledFrom([]string{"millrace-8cpu-8gb", "millrace-4cpu-8gb", "millrace-8cpu-1gb", "millrace-1cpu-1gb"}).Draw(t, "victim"), 3)
		received := w.now
		for w.started[victim].IsZero() {
			flood()
			w.minute(t)
			if waited := w.now.Sub(received); waited > 3*time.Hour {
				i := slices.IndexFunc(w.queued, func(j millrace.Job) bool { return j.ID == victim })
				t.Fatalf("it still waits after %s: %s", waited, w.queued[i].Wait.Text)
			}
		}
	})
}

// A large job starts soon after its patience is over, on one host among many that small ones keep full: without a host that
// is kept free it never would.
func TestHostIsKeptForLargeJob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newTown(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"), 1000, millrace.PlacementSettings{Strategy: rapid.SampledFrom(millrace.Strategies).Draw(t, "strategy")})
		for range 4 {
			w.hosts = append(w.hosts, host(w.src, "h", millrace.AMD64, 8, 8))
		}
		flood := func() {
			for len(w.queued) < 60 {
				w.queue(2, "millrace-1cpu-1gb", rapid.IntRange(2, 9).Draw(t, "minutes"))
			}
		}
		for range 10 {
			flood()
			w.minute(t)
		}
		large := w.queue(1, "millrace-8cpu-8gb", 5)
		codes := map[millrace.WaitCode]int{}
		for n := 0; n < 40 && w.started[large].IsZero(); n++ { // most start after 5 min of patience and 9 until a host is empty
			flood()
			w.minute(t)
			if i := slices.IndexFunc(w.queued, func(j millrace.Job) bool { return j.ID == large }); i >= 0 {
				codes[w.queued[i].Wait.Code]++
			}
			if len(w.vms) < 24 {
				t.Fatalf("%d VMs on four hosts for 32: more than one host is kept free", len(w.vms))
			}
		}
		if waited := codes[millrace.WaitNoCapacity] + codes[millrace.WaitHostKept]; w.started[large].IsZero() || waited > 6 && codes[millrace.WaitHostKept] == 0 {
			t.Fatalf("the large job waited for %v", codes)
		}
	})
}

// Repositories with more jobs than slots have them in proportion to their priorities, whoever came first and however
// many they queued.
func TestRepositoriesShare(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.IntRange(-1, 1).Draw(t, "priority"), rapid.IntRange(-1, 1).Draw(t, "other priority")
		w := newTown(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"), rapid.IntRange(8, 40).Draw(t, "slots"), millrace.PlacementSettings{
			Strategy: rapid.SampledFrom(millrace.Strategies).Draw(t, "strategy"),
			Shares:   []millrace.Share{{RepositoryID: 1, Priority: a}, {RepositoryID: 2, Priority: b}},
		})
		w.hosts = []millrace.Host{host(w.src, "h", millrace.AMD64, 64, 64)}
		for range 300 {
			w.queue(1, "millrace-1cpu-1gb", rapid.IntRange(1, 5).Draw(t, "minutes"))
		}
		w.minute(t)
		for range 300 {
			w.queue(2, "millrace-1cpu-1gb", rapid.IntRange(1, 5).Draw(t, "minutes"))
		}
		for range 5 { // until what ran before has ended
			w.minute(t)
		}
		has := map[int64]int{}
		for _, v := range w.vms {
			has[v.RepositoryID]++
		}
		weights := map[int64]int{1: 1 << (a + 1), 2: 1 << (b + 1)}
		if len(w.queued) == 0 || len(w.vms) != w.slots {
			t.Fatalf("%d VMs in %d slots while %d jobs wait", len(w.vms), w.slots, len(w.queued))
		}
		for _, id := range slices.Sorted(maps.Keys(weights)) {
			fair := float64(w.slots*weights[id]) / float64(weights[1]+weights[2])
			if off := float64(has[id]) - fair; off < -1 || off > 1 {
				t.Fatalf("of %d slots repository %d has %d, where %.1f is fair", w.slots, id, has[id], fair)
			}
		}
	})
}

func TestSpread(t *testing.T) {
	t.Parallel()
	src := ids(12)
	hosts := []millrace.Host{host(src, "large", millrace.AMD64, 8, 16), host(src, "small", millrace.AMD64, 8, 12)}
	var jobs []millrace.Job
	for n := range 4 {
		jobs = append(jobs, job(src, n, "millrace-1cpu-4gb"))
	}
	for strategy, want := range map[millrace.Strategy][]int{millrace.Pack: {1, 3}, millrace.Spread: {2, 2}} {
		p := pass(8, jobs, hosts)
		p.Settings.Strategy = strategy
		var got [2]int
		for _, place := range scheduler.Decide(p).Place {
			got[slices.IndexFunc(hosts, func(h millrace.Host) bool { return h.ID == place.HostID })]++
		}
		if !slices.Equal(got[:], want) {
			t.Errorf("%s: %v of the VMs are on the large and the small host, want %v", strategy, got, want)
		}
	}
}

// What a job waits for names the limit and its repository.
func TestLimit(t *testing.T) {
	t.Parallel()
	src := ids(13)
	hosts := []millrace.Host{host(src, "h", millrace.AMD64, 8, 16)}
	first, second, other := job(src, 0, "millrace"), job(src, 1, "millrace"), job(src, 2, "millrace")
	other.RepositoryID, other.Repository = 2, "calm/site"
	p := pass(8, []millrace.Job{first, second, other}, hosts)
	p.Settings.Shares = []millrace.Share{{RepositoryID: 1, Limit: 1}}
	p.Queue = map[millrace.JobID]millrace.Durations{first.ID: {N: 9, P50: time.Minute, P90: 2 * time.Minute}}
	d := scheduler.Decide(p)
	w := d.Wait[second.ID]
	if len(d.Place) != 2 || w.Code != millrace.WaitRepositoryLimit || w.Text != "calm/app may have one VM at once, and has it." || w.Estimate == nil {
		t.Errorf("placed %+v; the second waits for %+v", d.Place, w)
	}
}
