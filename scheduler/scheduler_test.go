package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
		ID: millrace.NewJobID(src, now), InstallationID: 1, RepositoryID: 1, Repository: "calm/app", Private: true, Zone: millrace.ZonePrivate, ZoneKnown: true, Labels: labels,
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
		ID: millrace.NewVMID(src, now), HostID: h.ID, ForJob: j.ID, State: millrace.VMBooting, Zone: j.Zone, Egress: millrace.EgressInternet, Arch: h.Facts.Arch, Size: j.Demand.Size,
		Labels: j.Labels, InstallationID: j.InstallationID, RepositoryID: j.RepositoryID, Repository: j.Repository,
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

// Jobs that take any architecture go where more is free, and to the other side once that is no longer so.
func TestAnyArchTakesTheFreerSide(t *testing.T) {
	t.Parallel()
	src := ids(11)
	amd, arm := host(src, "amd", millrace.AMD64, 8, 16), host(src, "arm", millrace.ARM64, 8, 17)
	var jobs []millrace.Job
	for n := range 6 {
		jobs = append(jobs, job(src, n, "millrace-any-1cpu-2gb"))
	}
	var got []millrace.Arch
	for _, p := range scheduler.Decide(pass(8, jobs, []millrace.Host{amd, arm})).Place {
		got = append(got, p.Arch)
	}
	want := []millrace.Arch{millrace.ARM64, millrace.AMD64, millrace.ARM64, millrace.AMD64, millrace.ARM64, millrace.AMD64}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// More is free over there, but on no host enough for the job.
	split := []millrace.Host{amd, host(src, "arm1", millrace.ARM64, 4, 12), host(src, "arm2", millrace.ARM64, 4, 12)}
	if d := scheduler.Decide(pass(8, []millrace.Job{job(src, 0, "millrace-any-8cpu-16gb")}, split)); len(d.Place) != 1 || d.Place[0].HostID != amd.ID {
		t.Errorf("placed %+v", d.Place)
	}
}

// A host that emulates an architecture gets jobs of it when no host of the architecture's own has room, and never one that
// takes any.
func TestEmulation(t *testing.T) {
	t.Parallel()
	src := ids(12)
	amd, arm := host(src, "amd", millrace.AMD64, 64, 64), host(src, "arm", millrace.ARM64, 2, 2)
	amd.Facts.Emulates = []millrace.Arch{millrace.ARM64}
	jobs := []millrace.Job{job(src, 0, "millrace-arm64-2cpu-2gb"), job(src, 1, "millrace-arm64-2cpu-2gb"), job(src, 2, "millrace-any-2cpu-2gb")}
	placed := func(hosts ...millrace.Host) (list []string) {
		for _, p := range scheduler.Decide(pass(8, jobs, hosts)).Place {
			name := map[millrace.HostID]string{amd.ID: "amd", arm.ID: "arm"}[p.HostID]
			list = append(list, name+" runs "+string(p.Arch))
		}
		return list
	}
	if diff := cmp.Diff([]string{"arm runs arm64", "amd runs arm64", "amd runs amd64"}, placed(amd, arm)); diff != "" {
		t.Error(diff)
	}
	amd.Facts.Emulates = nil
	if diff := cmp.Diff([]string{"amd runs amd64"}, placed(amd)); diff != "" {
		t.Errorf("its owner doesn't let it: %s", diff)
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
		if diff := cmp.Diff(want, got); diff != "" {
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
		want := millrace.Binding{VMID: b.ID, JobID: first.ID, Wait: millrace.WaitReason{
			Code: millrace.WaitBooting, Text: "A VM that another job no longer needs stands for it, on h.", Remedy: millrace.WaitBooting.Remedy(),
		}}
		if diff := cmp.Diff([]millrace.Binding{want}, d.Cover); diff != "" || len(d.Place) > 0 || len(d.Retire) > 0 {
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
	t.Run("a VM at work on a job that nobody told of stands for one that waits, for a while", func(t *testing.T) {
		t.Parallel()
		for busy, covers := range map[time.Duration]bool{time.Second: true, 3 * time.Minute: false} {
			atWork := b // its own job was taken by another VM, and so waits no longer
			atWork.State, atWork.RunnerID, atWork.Stamps.Busy = millrace.VMBusy, 7, now.Add(-busy)
			d := scheduler.Decide(pass(8, []millrace.Job{first}, []millrace.Host{h}, atWork))
			if bound := len(d.Cover) == 1 && d.Cover[0].VMID == atWork.ID && d.Cover[0].JobID == first.ID; bound != covers || (len(d.Place) == 0) != covers {
				t.Errorf("at work for %s: covered %v, placed %v", busy, d.Cover, d.Place)
			}
			if len(d.Retire) > 0 {
				t.Errorf("at work for %s and retired: %v", busy, d.Retire)
			}
		}
	})
	t.Run("an idle VM stands before one at work", func(t *testing.T) {
		t.Parallel()
		idle, atWork := a, b
		idle.ForJob = second.ID
		atWork.State, atWork.RunnerID, atWork.Stamps.Busy = millrace.VMBusy, 7, now
		atWork.ForJob = millrace.NewJobID(ids(9), now)
		d := scheduler.Decide(pass(8, []millrace.Job{first}, []millrace.Host{h}, atWork, idle))
		if len(d.Cover) != 1 || d.Cover[0].VMID != idle.ID {
			t.Errorf("covered %v", d.Cover)
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

// runsAs reports whether h's VM for d has the architecture that it should have.
func runsAs(h millrace.Host, d millrace.Demand, arch millrace.Arch) bool {
	if d.Arch == millrace.ArchAny {
		return arch == h.Facts.Arch
	}
	return arch == d.Arch && h.Facts.Runs(arch)
}

// TestDecideProperties throws any org at a pass.
func TestDecideProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPass(t)
		d := scheduler.Decide(p)

		used := map[millrace.HostID]millrace.Room{}
		for _, v := range p.VMs {
			used[v.HostID] = used[v.HostID].Plus(v.Size.Room())
		}
		hosts, jobs := map[millrace.HostID]millrace.Host{}, map[millrace.JobID]millrace.Job{}
		for _, h := range p.Hosts {
			hosts[h.ID] = h
		}
		for _, j := range p.Jobs {
			jobs[j.ID] = j
		}
		covered := map[millrace.JobID]int{}
		retired := map[millrace.VMID]bool{}
		for _, r := range d.Retire {
			retired[r.VMID] = true
		}
		for _, v := range p.VMs {
			if _, queued := jobs[v.ForJob]; queued && v.RanJob.IsZero() && v.State != millrace.VMStopping && !retired[v.ID] {
				covered[v.ForJob]++
			}
		}
		for _, c := range d.Cover {
			covered[c.JobID]++
		}
		for _, place := range d.Place {
			covered[place.JobID]++
			h, j := hosts[place.HostID], jobs[place.JobID]
			rule := p.Settings.Zone(j.Zone)
			if p.Settings.Refuses(j.Zone, j.Private) != "" || !j.ZoneKnown || !rule.Holds(j.Demand.Size) || !takes(rule, h) {
				t.Fatalf("job %+v was placed on %+v in spite of the rule %+v", j, h, rule)
			}
			if h.Status(p.Now) != millrace.StatusOnline || !h.HasLabels(j.Demand) || !runsAs(h, j.Demand, place.Arch) || j.RetryAt.After(p.Now) {
				t.Fatalf("job %+v was placed on %+v", j, h)
			}
			used[h.ID] = used[h.ID].Plus(j.Demand.Size.Room())
			if u := used[h.ID]; !h.Facts.Room().Holds(u) {
				t.Fatalf("%s holds %d VMs, %v, of %s", h.Name, u.VMs, u, h.Facts.Bounds())
			}
		}
		for _, share := range p.Settings.Shares {
			before, launched := 0, 0
			for _, v := range p.VMs {
				if v.RepositoryID == share.RepositoryID && v.State != millrace.VMStopping {
					before++
				}
			}
			for _, place := range d.Place {
				if jobs[place.JobID].RepositoryID == share.RepositoryID {
					launched++
				}
			}
			if share.Limit > 0 && launched > max(0, share.Limit-before) {
				t.Fatalf("%d VMs and %d more for a repository that may have %d", before, launched, share.Limit)
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
			if n := covered[j.ID]; n > 1 || (n == 1) == waits || waits && !whole(reason) {
				t.Fatalf("job %s has %d VMs and the reason %+v", j.ID, n, reason)
			}
		}
		for _, place := range d.Place {
			if i := holding(p, jobs[place.JobID]); !whole(place.Wait) || place.Wait.Code != millrace.WaitBooting || i != nil {
				t.Fatalf("placed with %+v in spite of %+v", place.Wait, i)
			}
		}
		for _, c := range d.Cover {
			i := slices.IndexFunc(p.VMs, func(v millrace.VM) bool { return v.ID == c.VMID })
			if v := p.VMs[i]; !whole(c.Wait) || !keeps(p, v, jobs[c.JobID].Zone) {
				t.Fatalf("%+v was covered by %+v with %+v", jobs[c.JobID], v, c.Wait)
			}
		}
		for _, id := range d.Trace {
			if j := jobs[id]; j.ZoneKnown || d.Wait[id].Code != millrace.WaitZoneUnknown {
				t.Fatalf("GitHub is to be asked about %+v, which waits for %s", j, d.Wait[id].Code)
			}
		}
		for _, r := range d.Retire {
			i := slices.IndexFunc(p.VMs, func(v millrace.VM) bool { return v.ID == r.VMID })
			v := p.VMs[i]
			j, queued := jobs[v.ForJob]
			if !v.RanJob.IsZero() || v.State == millrace.VMBusy || v.State == millrace.VMLost || r.Reason == "" || queued && !halted(p, j) && keeps(p, v, j.Zone) ||
				queued && (v.RunnerID != 0 || v.State == millrace.VMOnline) && !shunned(p, j) && keeps(p, v, j.Zone) {
				t.Fatalf("retired %+v: %s", v, r.Reason)
			}
		}
		if diff := cmp.Diff(d, scheduler.Decide(p)); diff != "" {
			t.Fatalf("the same pass gave another decision: %s", diff)
		}
	})
}

// whole reports whether a reason says all that it must.
func whole(r millrace.WaitReason) bool {
	e := r.Estimate
	return r.Code != "" && r.Text != "" && r.Remedy != "" && (e == nil || e.Basis != "" && !e.From.Before(now) && !e.To.Before(e.From))
}

// holding is an incident that stops j; nil when there is none.
func holding(p millrace.Pass, j millrace.Job) *millrace.Incident {
	for _, i := range p.Incidents {
		if i.Stops(j.InstallationID, j.RepositoryID) {
			return &i
		}
	}
	return nil
}

// keeps reports whether a job of a zone may run in v.
func keeps(p millrace.Pass, v millrace.VM, zone millrace.Zone) bool {
	rule := p.Settings.Zone(zone)
	return v.Zone == zone && v.Egress == rule.Egress && slices.ContainsFunc(p.Hosts, func(h millrace.Host) bool {
		return h.ID == v.HostID && takes(rule, h)
	})
}

// takes reports whether a host may run jobs by a rule.
func takes(rule millrace.ZoneRule, h millrace.Host) bool {
	return h.HasLabels(millrace.Demand{Arch: millrace.ArchAny, Extra: rule.HostLabels}) && (rule.Egress != millrace.EgressNone || h.Facts.Network == millrace.NetworkTap)
}

// ruled reports whether j's zone stops it.
func ruled(p millrace.Pass, j millrace.Job) bool {
	return p.Settings.Refuses(j.Zone, j.Private) != "" || !p.Settings.Zone(j.Zone).Holds(j.Demand.Size) || !j.ZoneKnown
}

// halted reports whether no runner can be registered for j.
func halted(p millrace.Pass, j millrace.Job) bool {
	if ruled(p, j) {
		return true
	}
	p.Incidents = slices.DeleteFunc(slices.Clone(p.Incidents), func(i millrace.Incident) bool {
		return i.Code == millrace.WaitRateLimited || i.Code == millrace.WaitGitHubDown
	})
	return holding(p, j) != nil
}

// shunned reports whether GitHub gives j to no runner.
func shunned(p millrace.Pass, j millrace.Job) bool {
	return ruled(p, j) || slices.ContainsFunc(p.Incidents, func(i millrace.Incident) bool {
		return i.Code == millrace.WaitRunnerGroup && i.RepositoryID == j.RepositoryID
	})
}

func drawPass(t *rapid.T) millrace.Pass {
	src := ids(rapid.Uint64Range(0, 1<<16-1).Draw(t, "seed"))
	labels := []string{"millrace", "millrace-arm64", "millrace-any-2cpu-2gb", "millrace-8cpu-16gb", "millrace-512cpu-1gb", "millrace-4cpu"}
	var hosts []millrace.Host
	for n := range rapid.IntRange(0, 4).Draw(t, "hosts") {
		h := host(src, fmt.Sprintf("h%d", n), rapid.SampledFrom([]millrace.Arch{millrace.AMD64, millrace.ARM64}).Draw(t, "arch"), rapid.IntRange(1, 16).Draw(t, "cpus"), rapid.IntRange(1, 32).Draw(t, "gb"))
		h.Admin = rapid.SampledFrom([]millrace.HostAdmin{millrace.HostEnabled, millrace.HostEnabled, millrace.HostDraining, millrace.HostDisabled}).Draw(t, "admin")
		h.Facts.Labels = rapid.SampledFrom([][]string{{}, {"outside"}}).Draw(t, "labels")
		h.Facts.Network = rapid.SampledFrom(append([]millrace.VMNetwork{""}, millrace.VMNetworks...)).Draw(t, "network")
		h.Facts.MaxVMs = rapid.IntRange(0, 3).Draw(t, "VMs at once")
		h.SeenAt = now.Add(-time.Duration(rapid.IntRange(0, 40).Draw(t, "silent")) * time.Second)
		if h.Facts.Arch == millrace.AMD64 && rapid.Bool().Draw(t, "emulates") {
			h.Facts.Emulates = []millrace.Arch{millrace.ARM64}
		}
		hosts = append(hosts, h)
	}
	var jobs, gone []millrace.Job
	for n := range rapid.IntRange(0, 12).Draw(t, "jobs") {
		j := job(src, n, rapid.SampledFrom(labels).Draw(t, "label"))
		j.RepositoryID = rapid.Int64Range(1, 3).Draw(t, "repository")
		j.Private = rapid.IntRange(0, 3).Draw(t, "private") > 0
		j.Zone = millrace.ZoneOf(j.Private, rapid.IntRange(0, 3).Draw(t, "fork") == 0)
		j.ZoneKnown = j.Zone == millrace.ZoneFork || rapid.IntRange(0, 5).Draw(t, "known") > 0
		j.ReceivedAt = j.ReceivedAt.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "waits")) * time.Minute)
		if j.Wait.Code == "" && rapid.IntRange(0, 4).Draw(t, "had a host") == 0 {
			j.Wait.Code = millrace.WaitHostKept
		}
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
		if rapid.IntRange(0, 5).Draw(t, "other zone") == 0 {
			v.Zone = rapid.SampledFrom(millrace.Zones).Draw(t, "zone")
		}
		v.Egress = rapid.SampledFrom(millrace.Egresses).Draw(t, "egress")
		v.State = rapid.SampledFrom([]millrace.VMState{millrace.VMPending, millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMStopping, millrace.VMLost}).Draw(t, "state")
		if len(gone) > 0 && v.State == millrace.VMBusy && rapid.Bool().Draw(t, "ran") {
			v.RanJob = rapid.SampledFrom(gone).Draw(t, "job").ID
		}
		vms = append(vms, v)
	}
	p := pass(rapid.IntRange(0, 10).Draw(t, "slots"), jobs, hosts, vms...)
	p.Installations[0].JITLeft = float64(rapid.IntRange(0, 5).Draw(t, "budget"))
	p.Settings = drawSettings(t)
	for range rapid.IntRange(0, 2).Draw(t, "incidents") {
		p.Incidents = append(p.Incidents, millrace.Incident{
			ID: millrace.NewIncidentID(src, now), Code: rapid.SampledFrom(millrace.IncidentCodes).Draw(t, "incident"), InstallationID: 1, Owner: "calm",
			RepositoryID: rapid.Int64Range(0, 3).Draw(t, "of"), Repository: "calm/app", Detail: "No.", OpenedAt: now.Add(-time.Hour),
			ProbeAt: now.Add(time.Duration(rapid.IntRange(-5, 60).Draw(t, "probe")) * time.Second),
		})
	}
	drawPast(t, &p)
	return p
}

// drawSettings makes up what an org's admins decided.
func drawSettings(t *rapid.T) millrace.PlacementSettings {
	s := millrace.PlacementSettings{Strategy: rapid.SampledFrom(append(millrace.Strategies, "")).Draw(t, "strategy")}
	for id := range int64(3) {
		if rapid.Bool().Draw(t, "has a share") {
			s.Shares = append(s.Shares, millrace.Share{
				RepositoryID: 1 + id, Priority: rapid.IntRange(-millrace.MaxPriority, millrace.MaxPriority).Draw(t, "priority"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"),
			})
		}
	}
	for _, z := range millrace.Zones {
		if rapid.Bool().Draw(t, "has a rule") {
			s.Zones = append(s.Zones, millrace.ZoneRule{
				Zone: z, Allowed: z == millrace.ZonePrivate || rapid.IntRange(0, 3).Draw(t, "allowed") > 0, Egress: rapid.SampledFrom(millrace.Egresses).Draw(t, "may reach"),
				HostLabels: rapid.SampledFrom([][]string{{}, {}, {"outside"}}).Draw(t, "host labels"),
				MaxSize:    millrace.Size{MilliCPU: rapid.SampledFrom([]int{0, 0, 2000}).Draw(t, "most CPU"), MemoryMB: rapid.SampledFrom([]int{0, 4096}).Draw(t, "most memory")},
			})
		}
	}
	return s
}

// drawPast makes up past runs.
func drawPast(t *rapid.T, p *millrace.Pass) {
	durations := func(label string) (d millrace.Durations, ok bool) {
		if rapid.IntRange(0, 2).Draw(t, label) == 0 {
			return d, false
		}
		d.N, d.P50 = rapid.IntRange(1, 50).Draw(t, label+" n"), time.Duration(rapid.IntRange(0, 600_000).Draw(t, label+" p50"))*time.Millisecond
		d.P90 = d.P50 + time.Duration(rapid.IntRange(0, 600_000).Draw(t, label+" p90"))*time.Millisecond
		return d, true
	}
	p.Runs, p.Queue, p.Boots = map[millrace.VMID]millrace.Durations{}, map[millrace.JobID]millrace.Durations{}, map[millrace.HostID]millrace.Durations{}
	for i := range p.VMs {
		v := &p.VMs[i]
		v.RunnerID = rapid.Int64Range(0, 1).Draw(t, "runner")
		v.Stamps.Placed = now.Add(-time.Duration(rapid.IntRange(0, 900).Draw(t, "age")) * time.Second)
		if v.State == millrace.VMBusy {
			v.Stamps.Busy = v.Stamps.Placed.Add(time.Second)
			if d, ok := durations("run"); ok {
				p.Runs[v.ID] = d
			}
		}
	}
	for _, j := range p.Jobs {
		if d, ok := durations("queue"); ok {
			p.Queue[j.ID] = d
		}
	}
	for _, h := range p.Hosts {
		if d, ok := durations("boot"); ok {
			p.Boots[h.ID] = d
		}
	}
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
	withPast := func(p millrace.Pass) millrace.Pass {
		p.Runs, p.Queue, p.Boots = map[millrace.VMID]millrace.Durations{}, map[millrace.JobID]millrace.Durations{}, map[millrace.HostID]millrace.Durations{}
		past := func(n int) millrace.Durations {
			return millrace.Durations{N: 50, P50: time.Duration(60+n%300) * time.Second, P90: time.Duration(90+n%450) * time.Second}
		}
		for n, j := range p.Jobs {
			p.Queue[j.ID] = past(n)
		}
		for n, v := range p.VMs {
			p.Runs[v.ID] = past(n)
		}
		for _, h := range p.Hosts {
			p.Boots[h.ID] = millrace.Durations{N: 50, P50: 2 * time.Second, P90: 3 * time.Second}
		}
		return p
	}
	var busy []millrace.VM // that leave no room
	for n := range 1000 {
		v := vmFor(src, job(src, n, "millrace-16cpu-64gb"), hosts[n])
		v.State, v.RanJob, v.Stamps.Busy = millrace.VMBusy, v.ForJob, now.Add(-time.Duration(n%200)*time.Second)
		busy = append(busy, v)
	}
	for name, tc := range map[string]struct {
		pass millrace.Pass
		jit  float64
		want int
	}{
		"one size":               {pass(20_000, alike, hosts), 20_000, 8000},
		"one size, past runs":    {withPast(pass(20_000, alike, hosts)), 20_000, 8000},
		"2,000 sizes":            {pass(20_000, sizes, hosts), 20_000, 6400},
		"2,000 sizes, past runs": {withPast(pass(20_000, sizes, hosts)), 20_000, 6400},
		"all busy, past runs":    {withPast(pass(20_000, sizes, hosts, busy...)), 20_000, 0},
		"100 slots, past runs":   {withPast(pass(100, sizes, hosts)), 20_000, 100},
		"no JIT budget":          {pass(20_000, alike, hosts), 0, 0},
		"1,000 surplus VMs":      {pass(20_000, sizes, hosts, orphans...), 166, 166},
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
