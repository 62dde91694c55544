package millrace

import (
	"slices"
	"time"
)

// Strategy is which of the hosts that have room for a job gets it.
type Strategy string

// The strategies.
const (
	Pack   Strategy = "pack"   // the one with the least left, so that large jobs find whole hosts
	Spread Strategy = "spread" // the one with the most left, so that a job has few neighbours
)

// Strategies are all of them; the first is what an org begins with.
var Strategies = []Strategy{Pack, Spread}

// PlacementSettings is what an org's owners and admins decide of where and when its jobs run. Its zero value packs,
// treats all repositories alike, and runs the jobs of private repositories alone.
type PlacementSettings struct {
	Strategy Strategy
	Shares   []Share    // of the repositories that are not like all others, in order of their IDs
	Zones    []ZoneRule // those that were set; see [PlacementSettings.Zone]
}

// PlacementChange is what is to be changed of an org's [PlacementSettings]; what is nil stays.
type PlacementChange struct {
	Strategy *Strategy
	Shares   []ShareChange
	Zones    []ZoneChange
}

// ShareChange changes the share of a repository. One with priority 0 and limit 0 is like all others.
type ShareChange struct {
	RepositoryID int64  // GitHub's; 0: it is found by its name
	Repository   string // owner/name, in any case
	Priority     *int
	Limit        *int
}

// Apply is a share with the change.
func (c ShareChange) Apply(s Share) (Share, error) {
	if c.Priority != nil {
		s.Priority = *c.Priority
	}
	if c.Limit != nil {
		s.Limit = *c.Limit
	}
	return s, s.Check()
}

// MaxPriority is the highest priority of a repository; its negative is the lowest.
const MaxPriority = 5

// MaxLimit is the largest limit of a repository.
const MaxLimit = 10_000

// Share is what a repository gets of its org's slots and hosts. Its zero value is what those get of which nothing is said.
type Share struct {
	RepositoryID int64
	Repository   string // owner/name, display only
	// Priority doubles the repository's part with each step: while jobs wait, one of priority 1 has two VMs for each one of a
	// repository of priority 0. No priority keeps another repository waiting for ever.
	Priority int
	Limit    int // VMs that may exist for it at once; 0: as many as the plan has slots
}

// Check returns an Unprocessable error when no repository can have that share.
func (s Share) Check() error {
	if s.Priority < -MaxPriority || s.Priority > MaxPriority {
		return Errorf(Unprocessable, "A priority is a whole number from %d to %d; 0 is what every repository has at first.", -MaxPriority, MaxPriority)
	}
	if s.Limit < 0 || s.Limit > MaxLimit {
		return Errorf(Unprocessable, "A limit is a whole number of VMs up to %d; 0 is none.", MaxLimit)
	}
	return nil
}

// Check returns an Unprocessable error unless s is one of [Strategies].
func (s Strategy) Check() error {
	if !slices.Contains(Strategies, s) {
		return Errorf(Unprocessable, "A strategy is %s or %s; %q is neither.", Pack, Spread, s)
	}
	return nil
}

// Pass is all that one placement decision for one org may look at, read in one transaction after every VM was tied to
// the job that GitHub says its runner runs. Every list is ordered by the ID of its rows, so that the same pass gives the
// same decision.
type Pass struct {
	Now           time.Time
	Org           Org
	Jobs          []Job // queued
	VMs           []VM  // live, including those that are being retired
	Hosts         []Host
	Installations []InstallationBudget
	Incidents     []Incident // open
	Settings      PlacementSettings

	// What estimates rest on; what nothing is known of is left out.
	Runs  map[VMID]Durations   // of a busy VM's job, over its past runs
	Queue map[JobID]Durations  // of a queued job, over its past runs
	Boots map[HostID]Durations // from placed to online, over the host's last VMs
}

// InstallationBudget is an installation and how many JIT configs it may still make at Pass.Now.
type InstallationBudget struct {
	Installation
	JITLeft float64
}

// Decision is what a placement pass changes.
type Decision struct {
	Cover  []Binding            // VMs that now stand for another job than the one they were launched for
	Place  []Placement          // new VMs
	Retire []Retirement         // VMs that no job needs
	Trace  []JobID              // jobs of which GitHub is to be asked whether they come from a fork
	Wait   map[JobID]WaitReason // for every queued job without a VM: why
	// NextAt is when the same facts would give another decision (a backoff ends, the JIT budget refills, GitHub is asked
	// again); zero: never. That estimates move with time is no other decision: any later pass renews them.
	NextAt time.Time
}

// Binding makes a VM stand for a job.
type Binding struct {
	VMID  VMID
	JobID JobID
	Wait  WaitReason // as in [Placement]
}

// Placement is a new VM for a job on a host.
type Placement struct {
	JobID  JobID
	HostID HostID
	Arch   Arch       // the job's, or the host's where the job takes any
	Wait   WaitReason // that its VM boots, and when it is likely to be online
}

// Retirement is a VM to unregister and stop, and why.
type Retirement struct {
	VMID   VMID
	Reason string
}
