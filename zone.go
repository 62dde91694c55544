package millrace

import (
	"slices"
	"strings"
)

// Zone is the trust class of a job. It decides which hosts may run the job and what it may reach, and two jobs of
// different zones never share a runner.
type Zone string

// The zones.
const (
	ZonePrivate Zone = "private"
	ZonePublic  Zone = "public"
	ZoneFork    Zone = "fork"
)

// Zones are all of them, the most trusted first.
var Zones = []Zone{ZonePrivate, ZonePublic, ZoneFork}

// ZoneOf is the zone of a job of a repository that is private or not, from a fork or not.
func ZoneOf(private, fork bool) Zone {
	switch {
	case fork:
		return ZoneFork
	case private:
		return ZonePrivate
	default:
		return ZonePublic
	}
}

// Jobs says whose jobs are of the zone.
func (z Zone) Jobs() string {
	switch z {
	case ZonePublic:
		return "public repositories"
	case ZoneFork:
		return "pull requests from forks"
	case ZonePrivate:
	}
	return "private repositories"
}

// Egress is what a VM may reach, by the name of a policy; its host enforces it.
type Egress string

// The policies.
const (
	EgressInternet Egress = "internet" // what its host reaches
	EgressNone     Egress = "none"     // what its host's owner opened to VMs, and nothing else
)

// Egresses are all of them.
var Egresses = []Egress{EgressInternet, EgressNone}

// ZoneRule is what an org lets the jobs of a zone do.
type ZoneRule struct {
	Zone       Zone
	Allowed    bool     // they run at all; those of private repositories always do
	HostLabels []string // that a host must have to run them, beside those that they ask for; lower case, sorted
	Egress     Egress
	MaxSize    Size // the largest VM that one may have; 0 in either half: no limit
}

// Asks is what a host must have to run a job that asks for d, by the rule, too.
func (r ZoneRule) Asks(d Demand) Demand {
	if len(r.HostLabels) > 0 {
		d.Extra = slices.Concat(d.Extra, r.HostLabels)
		slices.Sort(d.Extra)
		d.Extra = slices.Compact(d.Extra)
	}
	d.Closed = r.Egress == EgressNone // VMs of open networks reach more, and hosts refuse them
	return d
}

// Exposed are those of hosts that jobs of the rule's zone can come to and whose VMs reach, or may reach, what the host does: its
// own services and the networks around it.
func (r ZoneRule) Exposed(hosts []Host) (exposed []Host) {
	for _, h := range hosts {
		if r.Allowed && h.Admin != HostDisabled && h.Facts.Network != NetworkTap && h.HasLabels(r.Asks(Demand{Arch: ArchAny})) {
			exposed = append(exposed, h)
		}
	}
	return exposed
}

// ZoneChange changes the rule of a zone; what is nil stays.
type ZoneChange struct {
	Zone       Zone
	Allowed    *bool
	HostLabels *[]string
	Egress     *Egress
	MaxSize    *Size
}

// Apply is a rule with the change.
func (c ZoneChange) Apply(r ZoneRule) (ZoneRule, error) {
	if c.Allowed != nil {
		r.Allowed = *c.Allowed
	}
	if c.HostLabels != nil {
		r.HostLabels = *c.HostLabels
	}
	if c.Egress != nil {
		r.Egress = *c.Egress
	}
	if c.MaxSize != nil {
		r.MaxSize = *c.MaxSize
	}
	return r, r.check()
}

// ruleOf is what holds for a zone of which nothing was said: what strangers can start does not run.
func ruleOf(z Zone) ZoneRule {
	return ZoneRule{Zone: z, Allowed: z == ZonePrivate, HostLabels: []string{}, Egress: EgressInternet}
}

// check puts the rule's labels in order, and returns an Unprocessable error when no zone can have it.
func (r *ZoneRule) check() error {
	labels := []string{}
	for _, l := range r.HostLabels {
		if l = strings.ToLower(strings.TrimSpace(l)); l != "" {
			labels = append(labels, l)
		}
	}
	slices.Sort(labels)
	r.HostLabels = slices.Compact(labels)
	switch {
	case !slices.Contains(Zones, r.Zone):
		return Errorf(Unprocessable, "A zone is private, public or fork; %q is none.", r.Zone)
	case r.Zone == ZonePrivate && !r.Allowed:
		return Errorf(Unprocessable, "Jobs of private repositories always run.")
	case !slices.Contains(Egresses, r.Egress):
		return Errorf(Unprocessable, "What VMs may reach is internet or none; %q is neither.", r.Egress)
	case r.MaxSize.MilliCPU < 0 || r.MaxSize.MilliCPU > maxMilliCPU || r.MaxSize.MemoryMB < 0 || r.MaxSize.MemoryMB > maxMemoryMB:
		return Errorf(Unprocessable, "The largest VM has up to %d vCPU and %d GB; 0 is no limit.", maxMilliCPU/1000, maxMemoryMB/1024)
	case len(r.HostLabels) > maxHostLabels || slices.ContainsFunc(r.HostLabels, func(l string) bool { return len(l) > maxHostLabel || strings.ContainsAny(l, ",\x00 ") }):
		return Errorf(Unprocessable, "At most %d labels of hosts, each of at most %d bytes without spaces and commas.", maxHostLabels, maxHostLabel)
	}
	return nil
}

// Bounds of the labels that a zone asks of hosts.
const (
	maxHostLabels = 10
	maxHostLabel  = 100
)

// Holds reports whether the rule lets a VM be of that size.
func (r ZoneRule) Holds(s Size) bool {
	return (r.MaxSize.MilliCPU == 0 || s.MilliCPU <= r.MaxSize.MilliCPU) && (r.MaxSize.MemoryMB == 0 || s.MemoryMB <= r.MaxSize.MemoryMB)
}

// Zone is the rule of a zone.
func (s PlacementSettings) Zone(z Zone) ZoneRule {
	for _, r := range s.Zones {
		if r.Zone == z {
			return r
		}
	}
	return ruleOf(z)
}

// Refuses is the reason for which the org runs no jobs of a zone, in repositories that are private or not; "" when it runs
// them. A pull request from a fork in a public repository needs both to be allowed.
func (s PlacementSettings) Refuses(z Zone, private bool) WaitCode {
	switch {
	case (z == ZonePublic || z == ZoneFork && !private) && !s.Zone(ZonePublic).Allowed:
		return WaitPublicOff
	case z == ZoneFork && !s.Zone(ZoneFork).Allowed:
		return WaitForksOff
	}
	return ""
}
