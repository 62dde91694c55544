package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

var now = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// ids makes IDs that a seed repeats.
func ids(seed uint64) *millrace.Source {
	return &millrace.Source{Rand: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})}
}

func host(src *millrace.Source, name string, arch millrace.Arch, cpus, gb int) millrace.Host {
	offer := millrace.Size{MilliCPU: cpus * 1000, MemoryMB: gb * 1024}
	return millrace.Host{
		ID: millrace.NewHostID(src, now), Name: name, Admin: millrace.HostEnabled, SeenAt: now,
		Facts: millrace.HostFacts{Arch: arch, VCPUs: cpus, MemoryMB: gb * 1024, Offer: offer},
	}
}

func job(src *millrace.Source, n int, labels ...string) millrace.Job {
	d, ours, err := millrace.ParseLabels(labels, []string{"millrace"}, millrace.Size{MilliCPU: 1000, MemoryMB: 1024})
	j := millrace.Job{
		ID: millrace.NewJobID(src, now), InstallationID: 1, RepositoryID: 1, Repository: "calm/app", Zone: millrace.ZonePrivate, Labels: labels,
		Status: millrace.JobQueued, ReceivedAt: now.Add(time.Duration(n) * time.Second), Demand: d,
	}
	if err != nil || !ours {
		j.Wait = millrace.WaitReason{Code: millrace.WaitLabelUnparseable, Text: fmt.Sprint(err)}
	}
	return j
}

func pass(slots int, jobs []millrace.Job, hosts []millrace.Host, vms ...millrace.VM) millrace.Pass {
	return millrace.Pass{
		Now: now, Org: millrace.Org{ID: 1, Concurrency: slots}, Jobs: jobs, Hosts: hosts, VMs: vms,
		Installations: []millrace.InstallationBudget{{Installation: millrace.Installation{ID: 1, OwnerLogin: "calm", OwnerType: millrace.Organization}, JITLeft: millrace.JITPerMinute}},
	}
}

// vmFor is a booting VM that was launched for j on h.
func vmFor(src *millrace.Source, j millrace.Job, h millrace.Host) millrace.VM {
	return millrace.VM{
		ID: millrace.NewVMID(src, now), HostID: h.ID, ForJob: j.ID, State: millrace.VMBooting, Zone: j.Zone, Arch: h.Facts.Arch, Size: j.Demand.Size,
		Labels: j.Labels, InstallationID: j.InstallationID, RepositoryID: j.RepositoryID, Repository: j.Repository,
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	src := ids(1)
	rack1, rack2 := host(src, "rack-1", millrace.AMD64, 8, 16), host(src, "rack-2", millrace.AMD64, 4, 32)
	offline := host(src, "arm-1", millrace.ARM64, 8, 16)
	offline.SeenAt = now.Add(-time.Hour)
	big := job(src, 0, "millrace-8cpu-16gb")
	retry := job(src, 0, "millrace")
	retry.Tries, retry.Failure, retry.RetryAt = 2, "The VM did not come up within 60 s.", now.Add(10*time.Second)
	for name, tc := range map[string]struct {
		pass millrace.Pass
		code millrace.WaitCode
		says []string
	}{
		"too big":     {pass(8, []millrace.Job{job(src, 0, "millrace-64cpu-512gb")}, []millrace.Host{rack1, rack2}), millrace.WaitTooBig, []string{"64 vCPU, 512 GB", "4 vCPU, 32 GB", "rack-2"}},
		"no arch":     {pass(8, []millrace.Job{job(src, 0, "millrace-arm64")}, []millrace.Host{rack1}), millrace.WaitNoHost, []string{"arm64"}},
		"no label":    {pass(8, []millrace.Job{job(src, 0, "millrace", "gpu")}, []millrace.Host{rack1}), millrace.WaitNoHost, []string{"gpu"}},
		"no host":     {pass(8, []millrace.Job{job(src, 0, "millrace")}, nil), millrace.WaitNoHost, []string{"Add such a host"}},
		"offline":     {pass(8, []millrace.Job{job(src, 0, "millrace-arm64")}, []millrace.Host{rack1, offline}), millrace.WaitHostUnavailable, []string{"arm-1"}},
		"full":        {pass(8, []millrace.Job{big, job(src, 1, "millrace-8cpu-16gb")}, []millrace.Host{rack1}, vmFor(src, big, rack1)), millrace.WaitNoCapacity, []string{"8 vCPU, 16 GB", "0 vCPU", "rack-1"}},
		"plan":        {pass(0, []millrace.Job{job(src, 0, "millrace")}, []millrace.Host{rack1}), millrace.WaitPlanLimit, []string{"All 0 slots"}},
		"unparseable": {pass(8, []millrace.Job{job(src, 0, "millrace-4cpu")}, []millrace.Host{rack1}), millrace.WaitLabelUnparseable, []string{"without memory"}},
		"retry":       {pass(8, []millrace.Job{retry}, []millrace.Host{rack1}), millrace.WaitRetry, []string{"did not come up within 60 s", "in 10s", "try 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := scheduler.Decide(tc.pass)
			last := tc.pass.Jobs[len(tc.pass.Jobs)-1]
			got := d.Wait[last.ID]
			if got.Code != tc.code || len(d.Place) > 0 {
				t.Fatalf("reason %+v, placed %v", got, d.Place)
			}
			for _, want := range tc.says {
				if !strings.Contains(got.Text, want) {
					t.Errorf("%q doesn't say %q", got.Text, want)
				}
			}
		})
	}
	spent := pass(8, []millrace.Job{job(src, 0, "millrace")}, []millrace.Host{rack1})
	spent.Installations[0].JITLeft = 0.5
	d := scheduler.Decide(spent)
	if d.Wait[spent.Jobs[0].ID].Code != millrace.WaitRateLimited || !d.NextAt.After(now) || d.NextAt.After(now.Add(time.Second)) {
		t.Errorf("without a JIT budget: %+v, again at %v", d.Wait, d.NextAt)
	}
	spent.Installations[0].SuspendedAt = now
	if d := scheduler.Decide(spent); d.Wait[spent.Jobs[0].ID].Code != millrace.WaitSuspended {
		t.Errorf("suspended: %+v", d.Wait)
	}
}

func TestBestFit(t *testing.T) {
	t.Parallel()
	src := ids(2)
	large, small, arm := host(src, "large", millrace.AMD64, 32, 64), host(src, "small", millrace.AMD64, 4, 8), host(src, "arm", millrace.ARM64, 64, 256)
	hosts := []millrace.Host{large, small, arm}
	for labels, want := range map[string]millrace.Host{"millrace": small, "millrace-8cpu-16gb": large, "millrace-any": arm, "millrace-arm64": arm} {
		d := scheduler.Decide(pass(8, []millrace.Job{job(src, 0, labels)}, hosts))
		if len(d.Place) != 1 || d.Place[0].HostID != want.ID || d.Place[0].Arch != want.Facts.Arch {
			t.Errorf("%s went to %+v, want %s", labels, d.Place, want.Name)
		}
	}
}

// One repository with many jobs doesn't keep the others waiting.
func TestRepositoriesTakeTurns(t *testing.T) {
	t.Parallel()
	src := ids(3)
	var jobs []millrace.Job
	for n := range 50 {
		jobs = append(jobs, job(src, n, "millrace"))
	}
	late := job(src, 99, "millrace")
	late.RepositoryID = 2
	d := scheduler.Decide(pass(2, append(jobs, late), []millrace.Host{host(src, "h", millrace.AMD64, 64, 64)}))
	if len(d.Place) != 2 || d.Place[0].JobID != jobs[0].ID || d.Place[1].JobID != late.ID {
		t.Errorf("placed %+v", d.Place)
	}
}

// A repository with hundreds of older jobs has one slot of two; when the other is free, it is the turn of the one that has
// none, also past its jobs that can't start.
func TestTurnsCountVMs(t *testing.T) {
	t.Parallel()
	src := ids(6)
	h := host(src, "h", millrace.AMD64, 64, 64)
	running := job(src, 0, "millrace")
	busy := vmFor(src, running, h)
	busy.RanJob, busy.State = running.ID, millrace.VMBusy
	var jobs []millrace.Job
	for n := range 50 {
		jobs = append(jobs, job(src, n, "millrace"))
	}
	for n := range 20 {
		stuck := job(src, 90+n, "millrace-512cpu-1gb")
		stuck.RepositoryID = 2
		jobs = append(jobs, stuck)
	}
	late := job(src, 200, "millrace")
	late.RepositoryID = 2
	d := scheduler.Decide(pass(2, append(jobs, late), []millrace.Host{h}, busy))
	if len(d.Place) != 1 || d.Place[0].JobID != late.ID {
		t.Errorf("placed %+v, want %v", d.Place, late.ID)
	}
}

// The runner of a personal account registers at one repository and is never given another one's job.
func TestCoverOfPersonalAccounts(t *testing.T) {
	t.Parallel()
	src := ids(7)
	h := host(src, "h", millrace.AMD64, 64, 64)
	over, other := job(src, 1, "millrace"), job(src, 2, "millrace")
	other.RepositoryID, other.Repository = 2, "calm/site"
	p := pass(8, []millrace.Job{other}, []millrace.Host{h}, vmFor(src, over, h))
	if d := scheduler.Decide(p); len(d.Cover) != 1 {
		t.Errorf("in an organisation: %+v", d)
	}
	p.Installations[0].OwnerType = millrace.Personal
	if d := scheduler.Decide(p); len(d.Cover) != 0 || len(d.Retire) != 1 || len(d.Place) != 1 {
		t.Errorf("in a personal account: %+v", d)
	}
}

// The order in which a pass lists its rows decides nothing.
func TestOrderDecidesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPass(t)
		q := p
		q.Hosts = rapid.Permutation(p.Hosts).Draw(t, "order of hosts")
		want, got := scheduler.Decide(p), scheduler.Decide(q)
		if diff := cmp.Diff(want.Place, got.Place); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCover(t *testing.T) {
	t.Parallel()
	src := ids(4)
	h := host(src, "h", millrace.AMD64, 64, 64)
	first, second := job(src, 1, "millrace"), job(src, 2, "millrace")
	a, b := vmFor(src, first, h), vmFor(src, second, h)

	t.Run("a stolen job's VM stands for the thief's", func(t *testing.T) {
		t.Parallel()
		stolen := a
		stolen.RanJob, stolen.State = second.ID, millrace.VMBusy // meant for the first, runs the second
		d := scheduler.Decide(pass(8, []millrace.Job{first}, []millrace.Host{h}, stolen, b))
		if diff := cmp.Diff([]millrace.Binding{{VMID: b.ID, JobID: first.ID}}, d.Cover); diff != "" || len(d.Place) > 0 || len(d.Retire) > 0 {
			t.Errorf("%s, placed %v, retired %v", diff, d.Place, d.Retire)
		}
	})
	t.Run("one with other labels is retired, and the job gets a new VM", func(t *testing.T) {
		t.Parallel()
		other := b
		other.Labels = []string{"millrace-2cpu-4gb"}
		stolen := a
		stolen.RanJob = second.ID
		d := scheduler.Decide(pass(8, []millrace.Job{first}, []millrace.Host{h}, stolen, other))
		if len(d.Cover) != 0 || len(d.Place) != 1 || len(d.Retire) != 1 || d.Retire[0].VMID != other.ID {
			t.Errorf("covered %v, placed %v, retired %v", d.Cover, d.Place, d.Retire)
		}
	})
	t.Run("a cancelled job's VM is retired", func(t *testing.T) {
		t.Parallel()
		d := scheduler.Decide(pass(8, nil, []millrace.Host{h}, a))
		if len(d.Retire) != 1 || d.Retire[0].VMID != a.ID {
			t.Errorf("retired %v", d.Retire)
		}
	})
	t.Run("another zone's VM never stands in", func(t *testing.T) {
		t.Parallel()
		public := second
		public.Zone = millrace.ZonePublic
		d := scheduler.Decide(pass(8, []millrace.Job{public}, []millrace.Host{h}, a))
		if len(d.Cover) != 0 || len(d.Retire) != 1 {
			t.Errorf("covered %v, retired %v", d.Cover, d.Retire)
		}
	})
	t.Run("busy and lost VMs are left alone, and a lost one's job waits for it", func(t *testing.T) {
		t.Parallel()
		busy, lost := a, b
		busy.State, lost.State = millrace.VMBusy, millrace.VMLost
		d := scheduler.Decide(pass(8, []millrace.Job{second}, []millrace.Host{h}, busy, lost))
		if len(d.Retire)+len(d.Place)+len(d.Cover) != 0 {
			t.Errorf("decided %+v", d)
		}
	})
}

// A VM that is unregistered, on a host that died, holds no slot; one that might still run a job does.
func TestDeadHostsHoldNoSlots(t *testing.T) {
	t.Parallel()
	src := ids(6)
	dead, alive := host(src, "dead", millrace.AMD64, 8, 16), host(src, "alive", millrace.AMD64, 8, 16)
	dead.SeenAt = now.Add(-time.Hour)
	old, waiting := job(src, 1, "millrace"), job(src, 2, "millrace")
	v := vmFor(src, old, dead)
	for state, want := range map[millrace.VMState]int{millrace.VMStopping: 1, millrace.VMLost: 0} {
		v.State = state
		if d := scheduler.Decide(pass(1, []millrace.Job{waiting}, []millrace.Host{dead, alive}, v)); len(d.Place) != want {
			t.Errorf("with a VM that is %s on the dead host %d were placed, want %d", state, len(d.Place), want)
		}
	}
}

// TestDecideProperties throws any org at a pass.
func TestDecideProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPass(t)
		d := scheduler.Decide(p)

		used := map[millrace.HostID]millrace.Size{}
		for _, v := range p.VMs {
			u := used[v.HostID]
			used[v.HostID] = millrace.Size{MilliCPU: u.MilliCPU + v.Size.MilliCPU, MemoryMB: u.MemoryMB + v.Size.MemoryMB}
		}
		hosts, jobs := map[millrace.HostID]millrace.Host{}, map[millrace.JobID]millrace.Job{}
		for _, h := range p.Hosts {
			hosts[h.ID] = h
		}
		for _, j := range p.Jobs {
			jobs[j.ID] = j
		}
		covered := map[millrace.JobID]int{}
		for _, v := range p.VMs {
			if _, queued := jobs[v.ForJob]; queued && v.RanJob.IsZero() && v.State != millrace.VMStopping {
				covered[v.ForJob]++
			}
		}
		for _, c := range d.Cover {
			covered[c.JobID]++
		}
		for _, place := range d.Place {
			covered[place.JobID]++
			h, j := hosts[place.HostID], jobs[place.JobID]
			if h.Status(p.Now) != millrace.StatusOnline || !h.HasLabels(j.Demand) || place.Arch != h.Facts.Arch || j.RetryAt.After(p.Now) {
				t.Fatalf("job %+v was placed on %+v", j, h)
			}
			u := used[h.ID]
			u.MilliCPU += j.Demand.Size.MilliCPU
			u.MemoryMB += j.Demand.Size.MemoryMB
			used[h.ID] = u
			if u.MilliCPU > h.Facts.Offer.MilliCPU || u.MemoryMB > h.Facts.Offer.MemoryMB {
				t.Fatalf("%s holds %v of %v", h.Name, u, h.Facts.Offer)
			}
		}
		stopping := 0
		for _, v := range p.VMs {
			if v.State == millrace.VMStopping && p.Now.Sub(hosts[v.HostID].SeenAt) >= millrace.OfflineAfter {
				stopping++
			}
		}
		if len(d.Place) > 0 && len(p.VMs)-stopping+len(d.Place) > p.Org.Concurrency {
			t.Fatalf("%d VMs and %d slots", len(p.VMs)+len(d.Place), p.Org.Concurrency)
		}
		if float64(len(d.Place)) > p.Installations[0].JITLeft {
			t.Fatalf("%d placed with a budget of %v", len(d.Place), p.Installations[0].JITLeft)
		}
		for _, j := range p.Jobs {
			reason, waits := d.Wait[j.ID]
			if n := covered[j.ID]; n > 1 || (n == 1) == waits || waits && (reason.Code == "" || reason.Text == "") {
				t.Fatalf("job %s has %d VMs and the reason %+v", j.ID, n, reason)
			}
		}
		for _, r := range d.Retire {
			i := slices.IndexFunc(p.VMs, func(v millrace.VM) bool { return v.ID == r.VMID })
			if v := p.VMs[i]; !v.RanJob.IsZero() || v.State == millrace.VMBusy || v.State == millrace.VMLost || covered[v.ForJob] > 0 && jobs[v.ForJob].ID == v.ForJob {
				t.Fatalf("retired %+v", v)
			}
		}
		if diff := cmp.Diff(d, scheduler.Decide(p)); diff != "" {
			t.Fatalf("the same pass gave another decision: %s", diff)
		}
	})
}

func drawPass(t *rapid.T) millrace.Pass {
	src := ids(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"))
	labels := []string{"millrace", "millrace-arm64", "millrace-any-2cpu-2gb", "millrace-8cpu-16gb", "millrace-512cpu-1gb", "millrace-4cpu"}
	var hosts []millrace.Host
	for n := range rapid.IntRange(0, 4).Draw(t, "hosts") {
		h := host(src, fmt.Sprintf("h%d", n), rapid.SampledFrom([]millrace.Arch{millrace.AMD64, millrace.ARM64}).Draw(t, "arch"), rapid.IntRange(1, 16).Draw(t, "cpus"), rapid.IntRange(1, 32).Draw(t, "gb"))
		h.Admin = rapid.SampledFrom([]millrace.HostAdmin{millrace.HostEnabled, millrace.HostEnabled, millrace.HostDraining, millrace.HostDisabled}).Draw(t, "admin")
		h.SeenAt = now.Add(-time.Duration(rapid.IntRange(0, 40).Draw(t, "silent")) * time.Second)
		hosts = append(hosts, h)
	}
	var jobs, gone []millrace.Job
	for n := range rapid.IntRange(0, 12).Draw(t, "jobs") {
		j := job(src, n, rapid.SampledFrom(labels).Draw(t, "label"))
		j.RepositoryID = rapid.Int64Range(1, 3).Draw(t, "repository")
		if rapid.IntRange(0, 5).Draw(t, "failed") == 0 {
			j.Tries, j.RetryAt = 1, now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "retry"))*time.Second)
		}
		if rapid.Bool().Draw(t, "queued") {
			jobs = append(jobs, j)
		} else {
			gone = append(gone, j)
		}
	}
	var vms []millrace.VM
	for _, j := range append(slices.Clone(jobs), gone...) {
		if len(hosts) == 0 || j.Demand.Size.MilliCPU == 0 || rapid.IntRange(0, 2).Draw(t, "has a VM") > 0 {
			continue
		}
		v := vmFor(src, j, rapid.SampledFrom(hosts).Draw(t, "on"))
		v.State = rapid.SampledFrom([]millrace.VMState{millrace.VMPending, millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMStopping, millrace.VMLost}).Draw(t, "state")
		if len(gone) > 0 && v.State == millrace.VMBusy && rapid.Bool().Draw(t, "ran") {
			v.RanJob = rapid.SampledFrom(gone).Draw(t, "job").ID
		}
		vms = append(vms, v)
	}
	p := pass(rapid.IntRange(0, 10).Draw(t, "slots"), jobs, hosts, vms...)
	p.Installations[0].JITLeft = float64(rapid.IntRange(0, 5).Draw(t, "budget"))
	return p
}

// TestStealing plays GitHub: any idle runner gets any queued job that its labels allow. Whatever it picks, every job runs,
// once, and nothing is left.
func TestStealing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		src := ids(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"))
		hosts := []millrace.Host{host(src, "h", millrace.AMD64, 16, 64)}
		var queued []millrace.Job
		for n := range rapid.IntRange(1, 10).Draw(t, "jobs") {
			queued = append(queued, job(src, n, rapid.SampledFrom([][]string{{"millrace"}, {"millrace", "x64"}, {"millrace-2cpu-2gb"}}).Draw(t, "labels")...))
		}
		var vms []millrace.VM
		ran, launched := 0, 0
		total := len(queued)
		for round := 0; len(queued) > 0 || len(vms) > 0; round++ {
			if round > 10*total {
				t.Fatalf("after %d rounds %d jobs are queued and %d VMs live", round, len(queued), len(vms))
			}
			d := scheduler.Decide(pass(6, queued, hosts, vms...))
			byJob := map[millrace.JobID]millrace.Job{}
			for _, j := range queued {
				byJob[j.ID] = j
			}
			for _, c := range d.Cover {
				i := slices.IndexFunc(vms, func(v millrace.VM) bool { return v.ID == c.VMID })
				vms[i].ForJob = c.JobID
			}
			for _, r := range d.Retire {
				vms = slices.DeleteFunc(vms, func(v millrace.VM) bool { return v.ID == r.VMID })
			}
			for _, place := range d.Place {
				launched++
				vms = append(vms, vmFor(src, byJob[place.JobID], hosts[0]))
			}
			for range rapid.IntRange(0, 3).Draw(t, "events") {
				if len(vms) == 0 {
					break
				}
				i := rapid.IntRange(0, len(vms)-1).Draw(t, "runner")
				if !vms[i].RanJob.IsZero() { // its job ends
					vms = slices.Delete(vms, i, i+1)
					continue
				}
				fits := slices.DeleteFunc(slices.Clone(queued), func(j millrace.Job) bool {
					return slices.ContainsFunc(j.Labels, func(l string) bool { return !slices.Contains(vms[i].Labels, l) })
				})
				if len(fits) == 0 {
					continue
				}
				stolen := rapid.SampledFrom(fits).Draw(t, "job")
				vms[i].RanJob, vms[i].State = stolen.ID, millrace.VMBusy
				queued = slices.DeleteFunc(queued, func(j millrace.Job) bool { return j.ID == stolen.ID })
				ran++
			}
			if round > 5*total && len(queued) == 0 {
				vms = slices.DeleteFunc(vms, func(v millrace.VM) bool { return !v.RanJob.IsZero() })
			}
		}
		if ran != total || launched > 2*total {
			t.Fatalf("%d of %d jobs ran in %d VMs", ran, total, launched)
		}
	})
}

// BenchmarkDecide is one pass over 10,000 waiting jobs and 1,000 hosts. The goal is to stay far below 50 ms.
func BenchmarkDecide(b *testing.B) {
	src := ids(5)
	var hosts []millrace.Host
	for n := range 1000 {
		hosts = append(hosts, host(src, fmt.Sprintf("h%d", n), millrace.AMD64, 16, 64))
	}
	jobs := func(label func(n int) string) (list []millrace.Job) {
		for n := range 10_000 {
			j := job(src, n, label(n))
			j.RepositoryID = int64(n % 200)
			list = append(list, j)
		}
		return list
	}
	alike := jobs(func(int) string { return "millrace-2cpu-8gb" })
	sizes := jobs(func(n int) string { return fmt.Sprintf("millrace-%dcpu-%dmb", 1+n%4, 1024+n%500) })
	var orphans []millrace.VM // of 1,000 jobs that were cancelled
	for n := range 1000 {
		orphans = append(orphans, vmFor(src, job(src, n, "millrace-1cpu-1gb"), hosts[n]))
	}
	for name, tc := range map[string]struct {
		pass millrace.Pass
		jit  float64
		want int
	}{
		"one size":          {pass(20_000, alike, hosts), 20_000, 8000},
		"2,000 sizes":       {pass(20_000, sizes, hosts), 20_000, 6400},
		"no JIT budget":     {pass(20_000, alike, hosts), 0, 0},
		"1,000 surplus VMs": {pass(20_000, sizes, hosts, orphans...), 166, 166},
	} {
		b.Run(name, func(b *testing.B) {
			tc.pass.Installations[0].JITLeft = tc.jit
			for b.Loop() {
				if d := scheduler.Decide(tc.pass); len(d.Place) != tc.want {
					b.Fatalf("placed %d", len(d.Place))
				}
			}
		})
	}
}
