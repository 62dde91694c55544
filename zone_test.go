package millrace_test

import (
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

// Hosts whose networks are open to what jobs come to them are named; those that jobs can't come to are not.
func TestExposed(t *testing.T) {
	t.Parallel()
	host := func(name string, network millrace.VMNetwork, labels ...string) millrace.Host {
		return millrace.Host{Name: name, Admin: millrace.HostEnabled, Facts: millrace.HostFacts{Arch: millrace.ARM64, Network: network, Labels: labels}}
	}
	disabled := host("disabled", millrace.NetworkUser, "dmz")
	disabled.Admin = millrace.HostDisabled
	hosts := []millrace.Host{
		host("closed", millrace.NetworkTap, "dmz"), host("open", millrace.NetworkUser, "DMZ"), host("old", millrace.NetworkUnknown, "dmz"), host("inner", millrace.NetworkUser), disabled,
	}
	for want, rule := range map[string]millrace.ZoneRule{
		"open old inner": {Zone: millrace.ZonePublic, Allowed: true, Egress: millrace.EgressInternet},
		"open old":       {Zone: millrace.ZoneFork, Allowed: true, Egress: millrace.EgressInternet, HostLabels: []string{"dmz"}},
		"":               {Zone: millrace.ZonePublic, Egress: millrace.EgressInternet},
		" ":              {Zone: millrace.ZonePublic, Allowed: true, Egress: millrace.EgressNone}, // they refuse such VMs
	} {
		var names []string
		for _, h := range rule.Exposed(hosts) {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != strings.TrimSpace(want) {
			t.Errorf("%+v exposes %q, want %q", rule, got, want)
		}
	}
}
