package scheduler_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

func TestReasons(t *testing.T) {
	t.Parallel()
	src := ids(1)
	rack1, rack2 := host(src, "rack-1", millrace.AMD64, 8, 16), host(src, "rack-2", millrace.AMD64, 4, 32)
	arm1, arm2 := host(src, "arm-1", millrace.ARM64, 8, 16), host(src, "arm-2", millrace.ARM64, 8, 16)
	arm1.SeenAt, arm2.Admin = now.Add(-time.Hour), millrace.HostDraining
	full := host(src, "rack-3", millrace.AMD64, 8, 16)
	full.Refuses = "its disk is nearly full (1.2 GB free)"
	single := host(src, "rack-4", millrace.AMD64, 64, 256)
	single.Facts.MaxVMs = 1
	big, small := job(src, 0, "millrace-8cpu-16gb"), job(src, 0, "millrace-4cpu-8gb")
	cpu := job(src, 0, "millrace-7cpu-1gb")
	retry := job(src, 0, "millrace")
	retry.Tries, retry.Failure, retry.RetryAt = 2, "The VM did not come up within 60 s.", now.Add(10*time.Second)
	one := func(labels ...string) []millrace.Job { return []millrace.Job{job(src, 1, labels...)} }
	for name, tc := range map[string]struct {
		pass         millrace.Pass
		code         millrace.WaitCode
		text, remedy string
	}{
		"too big": {
			pass(8, one("millrace-64cpu-512gb"), []millrace.Host{rack1, rack2}), millrace.WaitTooBig,
			"Needs 64 vCPU, 512 GB; the largest amd64 host, rack-2, offers 4 vCPU, 32 GB.",
			"Ask for at most 4 vCPU, 32 GB in runs-on, or add a larger host.",
		},
		"no arch": {
			pass(8, one("millrace-arm64"), []millrace.Host{rack1}), millrace.WaitNoHost,
			"The org has no arm64 host.", "Add an arm64 host, or change runs-on in the workflow.",
		},
		"no label": {
			pass(8, one("millrace", "gpu"), []millrace.Host{rack1, rack2}), millrace.WaitNoHost,
			"The org has no amd64 host with the label gpu.", "Give rack-1 or rack-2 the label gpu, add such a host, or change runs-on in the workflow.",
		},
		"no host": {
			pass(8, one("millrace-any"), nil), millrace.WaitNoHost,
			"The org has no host.", "Add a host, or change runs-on in the workflow.",
		},
		"away": {
			pass(8, one("millrace-arm64"), []millrace.Host{rack1, arm1, arm2}), millrace.WaitHostUnavailable,
			"No host that could run it takes jobs now: arm-1 is offline since 1 Mar, 08:00 UTC and arm-2 is draining.",
			"Start the agent on arm-1, or enable arm-2 again.",
		},
		"refuses": {
			pass(8, one("millrace"), []millrace.Host{full}), millrace.WaitHostUnavailable,
			"No host that could run it takes jobs now: rack-3 takes none: its disk is nearly full (1.2 GB free).",
			"See to rack-3.",
		},
		"refuses, and others are away": {
			pass(8, one("millrace-any"), []millrace.Host{full, arm1, arm2}), millrace.WaitHostUnavailable,
			"No host that could run it takes jobs now: arm-1 is offline since 1 Mar, 08:00 UTC, arm-2 is draining and rack-3 takes none: its disk is nearly full (1.2 GB free).",
			"See to rack-3, or start the agent on arm-1, or enable arm-2 again.",
		},
		"little memory": {
			pass(8, []millrace.Job{small, job(src, 1, "millrace-4cpu-12gb")}, []millrace.Host{rack1}, vmFor(src, small, rack1)), millrace.WaitNoCapacity,
			"Needs 12 GB; the largest free slot on an amd64 host is 8 GB, on rack-1.",
			"It starts by itself when enough is free. Another amd64 host, or less than 12 GB in runs-on, shortens the wait.",
		},
		"no memory": {
			pass(8, []millrace.Job{big, job(src, 1, "millrace-8cpu-16gb")}, []millrace.Host{rack1}, vmFor(src, big, rack1)), millrace.WaitNoCapacity,
			"Needs 16 GB; no memory is free on rack-1.",
			"It starts by itself when enough is free. Another amd64 host, or less than 16 GB in runs-on, shortens the wait.",
		},
		"little CPU": {
			pass(8, []millrace.Job{cpu, job(src, 1, "millrace-2cpu-4gb")}, []millrace.Host{rack1}, vmFor(src, cpu, rack1)), millrace.WaitNoCapacity,
			"Needs 2 vCPU beside 4 GB; the most that is free on an amd64 host is 1 vCPU, on rack-1.",
			"It starts by itself when enough is free. Another amd64 host, or less than 2 vCPU in runs-on, shortens the wait.",
		},
		"no VM more": {
			pass(8, []millrace.Job{small, job(src, 1, "millrace-4cpu-8gb")}, []millrace.Host{single}, vmFor(src, small, single)), millrace.WaitNoCapacity,
			"Needs 8 GB; rack-4 runs as many VMs at once as its owner allows.",
			"It starts by itself when enough is free. Another amd64 host, or more for --max-vms there, shortens the wait.",
		},
		"no VM more, and no memory": {
			pass(8, []millrace.Job{big, small, job(src, 1, "millrace-4cpu-8gb")}, []millrace.Host{rack1, single}, vmFor(src, big, rack1), vmFor(src, small, single)), millrace.WaitNoCapacity,
			"Needs 8 GB; no memory is free on rack-1, and rack-4 runs as many VMs at once as its owner allows.",
			"It starts by itself when enough is free. Another amd64 host, or more for --max-vms there, shortens the wait.",
		},
		"no VM more, and little memory": {
			pass(8, []millrace.Job{small, small, job(src, 1, "millrace-4cpu-12gb")}, []millrace.Host{single, rack1}, vmFor(src, small, rack1), vmFor(src, small, single)), millrace.WaitNoCapacity,
			"Needs 12 GB; the largest free slot on an amd64 host is 8 GB, on rack-1.",
			"It starts by itself when enough is free. Another amd64 host, or less than 12 GB in runs-on, shortens the wait.",
		},
		"plan": {
			pass(0, one("millrace"), []millrace.Host{rack1}), millrace.WaitPlanLimit,
			"All 0 slots of the plan are in use.", millrace.WaitPlanLimit.Remedy(),
		},
		"unparseable": {
			pass(8, one("millrace-4cpu"), []millrace.Host{rack1}), millrace.WaitLabelUnparseable,
			`Label "millrace-4cpu" gives vCPUs without memory; write it behind them, for example -4gb.`, "Correct runs-on in the workflow and run it again.",
		},
		"retry": {
			pass(8, []millrace.Job{retry}, []millrace.Host{rack1}), millrace.WaitRetry,
			"Its VM ended before it was online: The VM did not come up within 60 s. After a pause comes try 3.", millrace.WaitRetry.Remedy(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := scheduler.Decide(tc.pass)
			last := tc.pass.Jobs[len(tc.pass.Jobs)-1]
			got := d.Wait[last.ID]
			got.Estimate = nil
			if diff := cmp.Diff(millrace.WaitReason{Code: tc.code, Text: tc.text, Remedy: tc.remedy}, got); diff != "" || len(d.Place) > 0 {
				t.Errorf("%s, placed %v", diff, d.Place)
			}
		})
	}
}

// What is exact is exact: the pause before a try, and registrations at their rate.
func TestExactEstimates(t *testing.T) {
	t.Parallel()
	src := ids(2)
	h := host(src, "rack-1", millrace.AMD64, 64, 64)
	retry := job(src, 0, "millrace")
	retry.Tries, retry.RetryAt = 1, now.Add(10*time.Second)
	p := pass(8, []millrace.Job{retry}, []millrace.Host{h})
	d := scheduler.Decide(p)
	if e := d.Wait[retry.ID].Estimate; !e.From.Equal(retry.RetryAt) || !e.To.Equal(retry.RetryAt) || !d.NextAt.Equal(retry.RetryAt) {
		t.Errorf("the pause ends at %v, %+v, next pass %v", retry.RetryAt, e, d.NextAt)
	}
	p.Boots = map[millrace.HostID]millrace.Durations{h.ID: {N: 50, P50: 2 * time.Second, P90: 4 * time.Second}}
	if e := scheduler.Decide(p).Wait[retry.ID].Estimate; !e.From.Equal(retry.RetryAt.Add(time.Second)) || !e.To.Equal(retry.RetryAt.Add(4*time.Second)) {
		t.Errorf("then a VM boots: %+v", e)
	}

	var jobs []millrace.Job
	for n := range 200 {
		jobs = append(jobs, job(src, n, "millrace-1cpu-256mb"))
	}
	p = pass(1000, jobs, []millrace.Host{h})
	p.Installations[0].JITLeft = 0.5
	d = scheduler.Decide(p)
	each := time.Minute / millrace.JITPerMinute
	if d.NextAt.Sub(now) < each/2 || d.NextAt.Sub(now) > each/2+time.Millisecond {
		t.Errorf("the next registration is allowed after %s", d.NextAt.Sub(now))
	}
	for n, j := range jobs {
		r := d.Wait[j.ID]
		want := now.Add(each/2 + time.Duration(n)*each)
		if r.Code != millrace.WaitRateLimited || r.Estimate.From.Sub(want).Abs() > time.Millisecond {
			t.Fatalf("job %d: %+v, want %s", n, r, want)
		}
	}
	if b := d.Wait[jobs[47].ID].Estimate.Basis; b != "about 50 jobs are before it; GitHub allows 166 registrations a minute" {
		t.Errorf("basis %q", b)
	}
}

// A placed job waits for its VM to boot, as long as those before it on its host.
func TestBooting(t *testing.T) {
	t.Parallel()
	src := ids(3)
	h := host(src, "rack-2", millrace.AMD64, 8, 16)
	p := pass(8, []millrace.Job{job(src, 0, "millrace")}, []millrace.Host{h})
	want := millrace.WaitReason{Code: millrace.WaitBooting, Text: "A VM boots for it on rack-2.", Remedy: millrace.WaitBooting.Remedy()}
	if diff := cmp.Diff(want, scheduler.Decide(p).Place[0].Wait); diff != "" {
		t.Error(diff)
	}
	p.Boots = map[millrace.HostID]millrace.Durations{h.ID: {N: 50, P50: 2100 * time.Millisecond, P90: 3400 * time.Millisecond}}
	want.Estimate = &millrace.Estimate{
		From: now.Add(2100 * time.Millisecond), To: now.Add(3400 * time.Millisecond),
		Basis: "half of the last 50 VMs on rack-2 were online after 2.1 s, nine in ten after 3.4 s",
	}
	if diff := cmp.Diff(want, scheduler.Decide(p).Place[0].Wait); diff != "" {
		t.Error(diff)
	}
}

func TestIncidents(t *testing.T) {
	t.Parallel()
	src := ids(4)
	h := host(src, "rack-1", millrace.AMD64, 64, 64)
	mine, other := job(src, 0, "millrace"), job(src, 1, "millrace")
	other.RepositoryID = 2
	disabled := millrace.Incident{
		ID: millrace.NewIncidentID(src, now), Code: millrace.WaitSelfHostedDisabled, InstallationID: 1, Owner: "calm", RepositoryID: 1, Repository: "calm/app",
		Detail: "Self-hosted runners\n\x1b[31mare disabled.", OpenedAt: now.Add(-90 * time.Minute), ProbeAt: now.Add(time.Minute),
	}
	limited := disabled
	limited.Code, limited.RepositoryID = millrace.WaitRateLimited, 0

	t.Run("stops its repository's jobs alone", func(t *testing.T) {
		t.Parallel()
		p := pass(8, []millrace.Job{mine, other}, []millrace.Host{h})
		p.Incidents = []millrace.Incident{disabled}
		d := scheduler.Decide(p)
		want := millrace.WaitReason{
			Code:   millrace.WaitSelfHostedDisabled,
			Text:   "Self-hosted runners are disabled in this GitHub organisation (calm/app), since 1 Mar 2026, 07:30 UTC. GitHub said: “Self-hosted runners [31mare disabled.”",
			Remedy: disabled.Remedy(),
		}
		if diff := cmp.Diff(want, d.Wait[mine.ID]); diff != "" || len(d.Place) != 1 || d.Place[0].JobID != other.ID {
			t.Errorf("%s, placed %+v", diff, d.Place)
		}
	})
	t.Run("retires VMs whose runner is not registered", func(t *testing.T) {
		t.Parallel()
		pending, registered, lost, busy := vmFor(src, mine, h), vmFor(src, mine, h), vmFor(src, mine, h), vmFor(src, mine, h)
		registered.RunnerID, lost.State, busy.State = 7, millrace.VMLost, millrace.VMBusy
		for _, v := range []millrace.VM{pending, registered, lost, busy} {
			p := pass(8, []millrace.Job{mine}, []millrace.Host{h}, v)
			p.Incidents = []millrace.Incident{disabled}
			d := scheduler.Decide(p)
			if got, want := len(d.Retire), 0; v.ID != pending.ID && (got != want || len(d.Wait) != 0) {
				t.Errorf("a %s VM with runner %d: %+v", v.State, v.RunnerID, d)
			} else if v.ID == pending.ID && (got != 1 || d.Wait[mine.ID].Code != disabled.Code || len(d.Place) != 0) {
				t.Errorf("a pending VM: %+v", d)
			}
			p.Incidents = []millrace.Incident{limited} // VMs keep trying
			if d := scheduler.Decide(p); len(d.Retire)+len(d.Place)+len(d.Wait) != 0 {
				t.Errorf("a %s VM while GitHub limits the rate: %+v", v.State, d)
			}
		}
	})
	t.Run("a surplus VM without a runner never stands for a stopped job", func(t *testing.T) {
		t.Parallel()
		for runner, covers := range map[int64]int{0: 0, 9: 1} {
			v := vmFor(src, job(src, 5, "millrace"), h)
			v.RunnerID = runner
			p := pass(8, []millrace.Job{mine}, []millrace.Host{h}, v)
			p.Incidents = []millrace.Incident{disabled}
			if d := scheduler.Decide(p); len(d.Cover) != covers || len(d.Retire) != 1-covers || len(d.Place) != 0 {
				t.Errorf("with runner %d: %+v", runner, d)
			}
		}
	})
	t.Run("no runner is kept for a repository that the runner group excludes", func(t *testing.T) {
		t.Parallel()
		excluded := disabled
		excluded.Code = millrace.WaitRunnerGroup
		for _, own := range []millrace.Job{mine, job(src, 5, "millrace")} { // its own VM, and one that could stand for it
			v := vmFor(src, own, h)
			v.RunnerID, v.State = 9, millrace.VMOnline
			p := pass(8, []millrace.Job{mine}, []millrace.Host{h}, v)
			p.Incidents = []millrace.Incident{excluded}
			if d := scheduler.Decide(p); len(d.Retire) != 1 || len(d.Cover)+len(d.Place) != 0 || d.Wait[mine.ID].Code != millrace.WaitRunnerGroup {
				t.Errorf("%+v", d)
			}
			p.Jobs = append(p.Jobs, other)
			if d := scheduler.Decide(p); len(d.Cover)+len(d.Place) != 1 {
				t.Errorf("another repository's job: %+v", d)
			}
		}
	})
	t.Run("a rate limit says when GitHub is asked again", func(t *testing.T) {
		t.Parallel()
		p := pass(8, []millrace.Job{mine, other}, []millrace.Host{h})
		p.Incidents = []millrace.Incident{limited}
		d := scheduler.Decide(p)
		e := d.Wait[mine.ID].Estimate
		if len(d.Place) != 0 || e == nil || !e.From.Equal(limited.ProbeAt) || !d.NextAt.Equal(limited.ProbeAt) {
			t.Errorf("%+v, next pass %v", e, d.NextAt)
		}
		p.Now = limited.ProbeAt
		p.Hosts[0].SeenAt = p.Now
		if d := scheduler.Decide(p); d.Wait[mine.ID].Estimate != nil || !d.NextAt.IsZero() {
			t.Errorf("at that time: %+v", d)
		}
	})
	t.Run("what needs somebody comes before what passes", func(t *testing.T) {
		t.Parallel()
		p := pass(8, []millrace.Job{mine}, []millrace.Host{h})
		p.Incidents = []millrace.Incident{limited, disabled}
		if d := scheduler.Decide(p); d.Wait[mine.ID].Code != disabled.Code {
			t.Errorf("waits for %+v", d.Wait[mine.ID])
		}
	})
	t.Run("a suspended installation is one without an incident, too", func(t *testing.T) {
		t.Parallel()
		p := pass(8, []millrace.Job{mine}, []millrace.Host{h}, vmFor(src, mine, h))
		p.Installations[0].SuspendedAt = now.Add(-time.Hour)
		d := scheduler.Decide(p)
		if r := d.Wait[mine.ID]; r.Code != millrace.WaitSuspended || !strings.Contains(r.Text, "(calm), since 1 Mar 2026, 08:00 UTC") || len(d.Retire) != 1 {
			t.Errorf("%+v, retired %v", r, d.Retire)
		}
	})
}

// Until NextAt, time alone changes nothing but estimates.
func TestNextAtCoversWhatTimeChanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPass(t)
		d := scheduler.Decide(p)
		span := time.Hour
		if !d.NextAt.IsZero() {
			if span = d.NextAt.Sub(p.Now); span <= 0 {
				t.Fatalf("the next pass is due %s ago", -span)
			}
		}
		later := time.Duration(rapid.Float64Range(0, 0.99).Draw(t, "later") * float64(span))
		q := p
		q.Now = p.Now.Add(later)
		q.Hosts = append([]millrace.Host(nil), p.Hosts...)
		for i := range q.Hosts {
			q.Hosts[i].SeenAt = q.Hosts[i].SeenAt.Add(later) // they keep on saying that they are there
		}
		q.Installations = append([]millrace.InstallationBudget(nil), p.Installations...)
		q.Installations[0].JITLeft = min(millrace.JITPerMinute, q.Installations[0].JITLeft+later.Minutes()*millrace.JITPerMinute)
		if d.NextAt.IsZero() {
			q.Installations[0].JITLeft = p.Installations[0].JITLeft
		}
		got := scheduler.Decide(q)
		for id, was := range d.Wait {
			is := got.Wait[id]
			if was.Code == millrace.WaitHostUnavailable { // says since when
				was.Text, is.Text = "", ""
			}
			if was.Code != is.Code || was.Text != is.Text || was.Remedy != is.Remedy {
				t.Fatalf("after %s of %s: %+v became %+v", later, span, was, is)
			}
		}
		same := func(a, b millrace.Placement) bool { return a.JobID == b.JobID && a.HostID == b.HostID }
		if !slices.EqualFunc(d.Place, got.Place, same) {
			t.Fatalf("after %s of %s: placed %v, then %v", later, span, d.Place, got.Place)
		}
	})
}
