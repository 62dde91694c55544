package scheduler_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
)

// What strangers can start runs nowhere until somebody says so; then where, and how large, the rule of its zone says.
func TestZones(t *testing.T) {
	t.Parallel()
	src := ids(21)
	inside, outside := host(src, "inside", millrace.AMD64, 8, 12), host(src, "outside", millrace.AMD64, 8, 16)
	outside.Facts.Labels = []string{"outside"}
	private, public, fork, publicFork, unknown, large := job(src, 0, "millrace"), job(src, 0, "millrace"), job(src, 0, "millrace"), job(src, 0, "millrace"), job(src, 0, "millrace"), job(src, 0, "millrace-4cpu-8gb")
	public.Private, public.Zone = false, millrace.ZonePublic
	fork.Zone = millrace.ZoneFork
	publicFork.Private, publicFork.Zone = false, millrace.ZoneFork
	unknown.ZoneKnown = false
	large.Private, large.Zone = false, millrace.ZonePublic
	rule := func(z millrace.Zone, labels ...string) millrace.ZoneRule {
		return millrace.ZoneRule{Zone: z, Allowed: true, HostLabels: labels, Egress: millrace.EgressInternet, MaxSize: millrace.Size{MilliCPU: 2000}}
	}
	shut := func(z millrace.Zone, labels ...string) millrace.ZoneRule {
		r := rule(z, labels...)
		r.Egress = millrace.EgressNone
		return r
	}
	closed, small := host(src, "closed", millrace.AMD64, 8, 16), host(src, "small", millrace.AMD64, 1, 1)
	closed.Facts.Network, small.Facts.Network, inside.Facts.Network = millrace.NetworkTap, millrace.NetworkTap, millrace.NetworkUser // and of outside nothing is known
	for name, tc := range map[string]struct {
		job   millrace.Job
		zones []millrace.ZoneRule
		hosts []millrace.Host
		on    string
		code  millrace.WaitCode
		text  string
	}{
		"private": {job: private, on: "inside"},
		"public, by default": {
			job: public, code: millrace.WaitPublicOff, text: "This org runs no jobs of public repositories.",
		},
		"a fork, by default": {
			job: fork, code: millrace.WaitForksOff, text: "This org runs no pull requests from forks.",
		},
		"a fork of a public repository, by default": {
			job: publicFork, code: millrace.WaitPublicOff, text: "This org runs no jobs of public repositories.",
		},
		"a fork of a public repository, where only forks are allowed": {
			job: publicFork, zones: []millrace.ZoneRule{rule(millrace.ZoneFork)}, code: millrace.WaitPublicOff, text: "This org runs no jobs of public repositories.",
		},
		"a fork of a public repository, where only those are allowed": {
			job: publicFork, zones: []millrace.ZoneRule{rule(millrace.ZonePublic)}, code: millrace.WaitForksOff, text: "This org runs no pull requests from forks.",
		},
		"both are": {job: publicFork, zones: []millrace.ZoneRule{rule(millrace.ZonePublic), rule(millrace.ZoneFork)}, on: "inside"},
		"not known": {
			job: unknown, code: millrace.WaitZoneUnknown, text: "GitHub is being asked whether it comes from a fork.",
		},
		"public, allowed on some hosts": {job: public, zones: []millrace.ZoneRule{rule(millrace.ZonePublic, "outside")}, on: "outside"},
		"private, while public ones have hosts": {
			job: private, zones: []millrace.ZoneRule{rule(millrace.ZonePublic, "outside")}, on: "inside",
		},
		"public, no host of theirs": {
			job: public, zones: []millrace.ZoneRule{rule(millrace.ZonePublic, "outside", "spare")}, code: millrace.WaitZoneHosts,
			text: "Jobs of public repositories may use hosts with the labels outside and spare only, and no amd64 host has them.",
		},
		"public, no host at all": {
			job: public, zones: []millrace.ZoneRule{rule(millrace.ZonePublic, "outside")}, hosts: []millrace.Host{}, code: millrace.WaitNoHost,
			text: "The org has no amd64 host with the label outside.",
		},
		"public, too large": {
			job: large, zones: []millrace.ZoneRule{rule(millrace.ZonePublic)}, code: millrace.WaitZoneSize,
			text: "Needs 4 vCPU, 8 GB; jobs of public repositories may have 2 vCPU at the most.",
		},
		"nothing to reach, and no host has closed networks": {
			job: private, zones: []millrace.ZoneRule{shut(millrace.ZonePrivate)}, code: millrace.WaitZoneHosts,
			text: "VMs of private repositories may reach nothing but what hosts' owners open to them; on inside and outside they reach all that the host does.",
		},
		"nothing to reach, on the host with closed networks": {
			job: private, zones: []millrace.ZoneRule{shut(millrace.ZonePrivate)}, hosts: []millrace.Host{inside, closed}, on: "closed",
		},
		"nothing to reach, and the one with closed networks isn't theirs": {
			job: public, zones: []millrace.ZoneRule{shut(millrace.ZonePublic, "outside")}, hosts: []millrace.Host{outside, closed}, code: millrace.WaitZoneHosts,
			text: "VMs of public repositories may reach nothing but what hosts' owners open to them; on outside they reach all that the host does.",
		},
		"nothing to reach, and no host is theirs": {
			job: public, zones: []millrace.ZoneRule{shut(millrace.ZonePublic, "spare")}, hosts: []millrace.Host{outside, closed}, code: millrace.WaitZoneHosts,
			text: "Jobs of public repositories may use hosts with the label spare only, and no amd64 host has it.",
		},
		"nothing to reach, and the host with closed networks is small": {
			job: large, zones: []millrace.ZoneRule{{Zone: millrace.ZonePublic, Allowed: true, Egress: millrace.EgressNone}}, hosts: []millrace.Host{inside, small}, code: millrace.WaitTooBig,
			text: "Needs 4 vCPU, 8 GB; the largest amd64 host with closed networks, small, offers 1 vCPU, 1 GB.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hosts := tc.hosts
			if hosts == nil {
				hosts = []millrace.Host{inside, outside}
			}
			p := pass(8, []millrace.Job{tc.job}, hosts)
			p.Settings.Zones = tc.zones
			d := scheduler.Decide(p)
			w := d.Wait[tc.job.ID]
			on := ""
			for _, place := range d.Place {
				on = hosts[slices.IndexFunc(hosts, func(h millrace.Host) bool { return h.ID == place.HostID })].Name
			}
			if on != tc.on || w.Code != tc.code || w.Text != tc.text || (w.Remedy == "") != (tc.on != "") || len(d.Trace) > 0 != (tc.code == millrace.WaitZoneUnknown) {
				t.Errorf("on %q, asked about %d, waits for %+v", on, len(d.Trace), w)
			}
		})
	}
}

// GitHub is asked once: while the job waits for the answer no pass asks again.
func TestTracedOnce(t *testing.T) {
	t.Parallel()
	src := ids(22)
	j := job(src, 0, "millrace")
	j.ZoneKnown = false
	p := pass(8, []millrace.Job{j}, []millrace.Host{host(src, "h", millrace.AMD64, 8, 16)})
	d := scheduler.Decide(p)
	p.Jobs[0].Wait = d.Wait[j.ID]
	if again := scheduler.Decide(p); len(d.Trace) != 1 || len(again.Trace) != 0 || len(again.Place) != 0 {
		t.Errorf("asked about %v, then %v", d.Trace, again.Trace)
	}
}

// A setting that is changed, or a repository that is, takes the VMs with it that nothing runs in.
func TestRulesRetireVMs(t *testing.T) {
	t.Parallel()
	src := ids(23)
	h := host(src, "h", millrace.AMD64, 8, 16)
	h.Facts.Network = millrace.NetworkTap
	j := job(src, 0, "millrace")
	j.Private, j.Zone = false, millrace.ZonePublic
	open := millrace.ZoneRule{Zone: millrace.ZonePublic, Allowed: true, Egress: millrace.EgressInternet}
	off, none, elsewhere := open, open, open
	off.Allowed, none.Egress, elsewhere.HostLabels = false, millrace.EgressNone, []string{"outside"}
	busy, online := vmFor(src, j, h), vmFor(src, j, h)
	busy.State, busy.RunnerID, busy.Stamps.Busy = millrace.VMBusy, 7, now
	online.State, online.RunnerID = millrace.VMOnline, 7
	wrong := vmFor(src, j, h)
	wrong.Zone = millrace.ZonePrivate
	for name, tc := range map[string]struct {
		rule   millrace.ZoneRule
		vm     millrace.VM
		retire int
	}{
		"as it was": {open, vmFor(src, j, h), 0}, "off": {off, vmFor(src, j, h), 1}, "off, online": {off, online, 1}, "off, busy": {off, busy, 0},
		"no egress": {none, vmFor(src, j, h), 1}, "other hosts": {elsewhere, online, 1}, "made public": {open, wrong, 1},
	} {
		p := pass(8, []millrace.Job{j}, []millrace.Host{h}, tc.vm)
		p.Settings.Zones = []millrace.ZoneRule{tc.rule}
		d := scheduler.Decide(p)
		got := len(d.Retire)
		if diff := cmp.Diff(tc.retire, got); diff != "" || len(d.Place) > 0 && tc.retire == 0 {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
