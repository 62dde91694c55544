package millrace

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Heartbeat is the time between two syncs of a healthy agent: one without news is answered after it.
const Heartbeat = 10 * time.Second

// LongestSync is how long a sync is held at the most.
const LongestSync = Heartbeat + Heartbeat/5

// UntilHeartbeat is how long a host's sync that is made now is held when there is no news: [Heartbeat] when the one before was
// answered so too. Each host has a moment of its own in that time: those that sync at once, as after a restart of the server, do
// so only once. A moment that is near is left out: an agent doesn't ask again at once whom nothing was told. Moments are tenths
// of a second: to answer some hosts together costs half of what it costs to wake up for each.
func UntilHeartbeat(host HostID, now time.Time) time.Duration {
	const slot = 100 * time.Millisecond
	moment := time.Duration(binary.BigEndian.Uint64(host[8:])%uint64(Heartbeat/slot)) * slot
	until := Heartbeat - time.Duration(now.UnixNano()+int64(moment))%Heartbeat
	if until < LongestSync-Heartbeat {
		until += Heartbeat
	}
	return until
}

// OfflineAfter is how long a host may be silent. Three missed heartbeats: an agent's upgrade restarts the process and
// loses one, and that must not move its VMs.
const OfflineAfter = 3 * Heartbeat

// MaxHostVMs is how many VMs a host has at most.
const MaxHostVMs = 10_000

// KeyLife is how long a host has the same keys: then its agent is asked for new ones.
const KeyLife = 90 * 24 * time.Hour

// Host is a customer's machine with our agent on it.
type Host struct {
	OrgID     OrgID
	ID        HostID
	Name      string
	Facts     HostFacts
	Admin     HostAdmin
	Refuses   string // why it takes no VM, as its agent says: "its disk is nearly full (1.2 GB free)"; "" when it does
	SignKey   []byte // Ed25519 public key: who speaks
	SealKey   []byte // X25519 public key: who may read a JIT config
	Epoch     int64  // raised at enrollment and at each agent start
	Desired   int64  // version of the list of VMs the host should have
	SeenAt    time.Time
	CreatedAt time.Time

	TokenID     EnrollmentTokenID // that it was enrolled with; zero: not known
	FixedLabels []string          // given by that token: the agent's own count for nothing; nil: none are
	Ephemeral   bool              // removed [VanishedAfter] it was last heard
	Restart     bool              // its agent is asked to start anew
	Reboot      bool              // its agent is asked to reboot the machine once it has no VM
	Rotate      bool              // its agent is asked to make new keys
	KeysAt      time.Time         // when its keys came
	ClonedAt    time.Time         // when a second machine was last found to have its key; zero: none was
}

// HostFacts is what an agent says of its machine. Offer and MaxVMs are the upper bounds that the host's owner set there: the
// control plane can never place more.
type HostFacts struct {
	Arch     Arch      `json:"arch"`
	Emulates []Arch    `json:"emulates,omitempty"` // others that the host's owner lets it emulate, many times slower
	VCPUs    int       `json:"vcpus"`
	MemoryMB int       `json:"memory_mb"`
	DiskMB   int       `json:"disk_mb"`
	Offer    Size      `json:"offer"`
	MaxVMs   int       `json:"max_vms,omitempty" doc:"How many VMs it runs at once; none or 0: as many as its offer holds"`
	Labels   []string  `json:"labels"`
	Driver   string    `json:"driver"` // e.g. "qemu/kvm", "qemu/tcg", "fake"
	Network  VMNetwork `json:"network,omitempty"`
	Version  string    `json:"version"`
	Kernel   string    `json:"kernel"`
	CPUModel string    `json:"cpu_model"`
	BootMS   int       `json:"boot_ms"` // how long the agent's trial VM took to boot; 0: there was none
	Reboots  bool      `json:"reboots,omitempty" doc:"Whether its owner lets it be rebooted from afar"`
	// Findings are what the agent found at its start. They are read with a host, not with a list of them.
	Findings []Finding `json:"findings,omitempty"`
}

// VMNetwork is what VMs' networks on a host are.
type VMNetwork string

// The networks. An agent that says none is older than the question.
const (
	NetworkTap     VMNetwork = "tap"  // closed: the internet, and what the host's owner opened
	NetworkUser    VMNetwork = "user" // open to all that the host reaches, its own services included
	NetworkUnknown VMNetwork = "unknown"
)

// VMNetworks are all of them.
var VMNetworks = []VMNetwork{NetworkTap, NetworkUser, NetworkUnknown}

// Room is what the host has for VMs when it is empty.
func (f HostFacts) Room() Room {
	if f.MaxVMs == 0 {
		return Room{f.Offer, math.MaxInt32} // so many that arithmetic is safe
	}
	return Room{f.Offer, f.MaxVMs}
}

// Bounds says what bounds the VMs of the host, e.g. "8 vCPU, 16 GB", "8 vCPU, 16 GB, 4 VMs".
func (f HostFacts) Bounds() string {
	switch f.MaxVMs {
	case 0:
		return f.Offer.String()
	case 1:
		return f.Offer.String() + ", 1 VM"
	default:
		return fmt.Sprintf("%s, %d VMs", f.Offer, f.MaxVMs)
	}
}

// Runs reports whether the host has VMs of arch, by its own processor or by emulation.
func (f HostFacts) Runs(arch Arch) bool { return arch == f.Arch || slices.Contains(f.Emulates, arch) }

// Arches says of which architectures VMs may be, e.g. "amd64", "amd64, emulates arm64".
func (f HostFacts) Arches() string {
	words := []string{string(f.Arch)}
	for _, arch := range f.Emulates {
		words = append(words, "emulates "+string(arch))
	}
	return strings.Join(words, ", ")
}

// MaxHostLabels and MaxHostLabel bound a host's labels: how many, and how long each, in bytes.
const (
	MaxHostLabels = 100
	MaxHostLabel  = 256
)

// CheckHostLabels is Unprocessable unless a host may have these labels. A job asks for them in runs-on, where commas and
// spaces part.
func CheckHostLabels(labels []string) error {
	if len(labels) > MaxHostLabels {
		return Errorf(Unprocessable, "A host has at most %d labels.", MaxHostLabels)
	}
	for _, l := range labels {
		if l == "" || len(l) > MaxHostLabel || strings.ContainsFunc(l, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f || r == utf8.RuneError }) {
			return Errorf(Unprocessable, "A label has 1 to %d characters without spaces and commas; %.40q has not.", MaxHostLabel, l)
		}
	}
	return nil
}

// HostAdmin is what an admin wants of a host.
type HostAdmin string

// The wishes: take jobs; finish what runs and take no more; take none at all.
const (
	HostEnabled  HostAdmin = "enabled"
	HostDraining HostAdmin = "draining"
	HostDisabled HostAdmin = "disabled"
)

// HostStatus is what people see of a host.
type HostStatus string

// The statuses.
const (
	StatusOnline   HostStatus = "online"
	StatusOffline  HostStatus = "offline"
	StatusDraining HostStatus = "draining"
	StatusDisabled HostStatus = "disabled"
)

// Status is the host's status at time now.
func (h Host) Status(now time.Time) HostStatus {
	switch {
	case h.Admin == HostDisabled:
		return StatusDisabled
	case h.Silent(now):
		return StatusOffline
	case h.Admin == HostDraining:
		return StatusDraining
	default:
		return StatusOnline
	}
}

// Silent reports whether the host has not been heard for [OfflineAfter], whatever is wanted of it: a disabled host's VMs are
// lost like any other's.
func (h Host) Silent(now time.Time) bool { return now.Sub(h.SeenAt) >= OfflineAfter }

// TakesVMs reports whether VMs may be placed on the host at time now.
func (h Host) TakesVMs(now time.Time) bool { return h.Status(now) == StatusOnline && h.Refuses == "" }

// Suits reports whether the host could ever run d when empty: arch, extra labels and offer.
func (h Host) Suits(d Demand) bool {
	return h.HasLabels(d) && h.Facts.Room().Holds(d.Size.Room())
}

// HasLabels reports whether the host runs d's arch, has its extra labels, and closed networks where d takes them.
func (h Host) HasLabels(d Demand) bool {
	if d.Arch != ArchAny && !h.Facts.Runs(d.Arch) {
		return false
	}
	if d.Closed && h.Facts.Network != NetworkTap {
		return false
	}
	for _, want := range d.Extra {
		if !slices.ContainsFunc(h.Facts.Labels, func(l string) bool { return strings.EqualFold(l, want) }) {
			return false
		}
	}
	return true
}
