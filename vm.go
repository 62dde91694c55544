package millrace

import (
	"slices"
	"time"
)

// VMState is where a VM is in its life. States are observed as levels, so they may be skipped.
type VMState string

// The states.
const (
	VMPending  VMState = "pending"  // placed; the host has not begun
	VMBooting  VMState = "booting"  // the machine started
	VMOnline   VMState = "online"   // its runner is registered and connected
	VMBusy     VMState = "busy"     // it runs a job
	VMStopping VMState = "stopping" // unregistered; to be destroyed
	VMLost     VMState = "lost"     // its host is silent
	VMGone     VMState = "gone"     // disk, network and process are no more
)

// VMStates are all states in order of life.
var VMStates = []VMState{VMPending, VMBooting, VMOnline, VMBusy, VMStopping, VMLost, VMGone}

// vmNext is the state machine. The CHECK constraint in SQL and the diagram in the docs are made from it.
var vmNext = map[VMState][]VMState{
	VMPending:  {VMBooting, VMOnline, VMBusy, VMStopping, VMLost, VMGone},
	VMBooting:  {VMOnline, VMBusy, VMStopping, VMLost, VMGone},
	VMOnline:   {VMBusy, VMStopping, VMLost, VMGone},
	VMBusy:     {VMStopping, VMLost, VMGone},
	VMStopping: {VMGone, VMLost},
	VMLost:     {VMBooting, VMOnline, VMBusy, VMStopping, VMGone}, // hosts come back
	VMGone:     {},
}

// Next are the states that s may become.
func (s VMState) Next() []VMState { return slices.Clone(vmNext[s]) }

// Live reports whether a VM in state s holds a slot and a place on its host.
func (s VMState) Live() bool { return s != VMGone }

// VM is one microVM on one host. It was launched because of a job, and in the end has run a job: perhaps another one,
// for GitHub picks the runner, not we.
type VM struct {
	OrgID          OrgID
	ID             VMID
	HostID         HostID
	ForJob         JobID
	RanJob         JobID // zero until GitHub gave it one
	State          VMState
	Epoch          int64 // raised whenever the VM is given out anew
	Zone           Zone
	Egress         Egress // what it may reach, as its zone's rule was when it was placed
	Arch           Arch
	Size           Size
	Burstable      bool
	Labels         []string // the runner's: exactly its job's
	InstallationID int64
	RepositoryID   int64
	Repository     string // owner/name: where the runner registers when its owner is a personal account
	RunnerID       int64  // GitHub's; 0 until registered
	RunnerName     string
	Reason         string // why it ended, or what it waits for, in words
	ExitCode       *int   // the runner's; nil until it ended by itself
	RetireReason   string // not empty: to be unregistered and stopped
	Usage          Metering
	Stamps         VMStamps
}

// VMStamps are when a VM entered each state, by the server's clock; zero when it did not (yet).
type VMStamps struct {
	Placed, Booting, Online, Busy, Stopping, Gone time.Time
	Changed                                       time.Time
}

// RunnerName is the name under which the VM's runner registers: derived from the VM's ID, so that a repeated
// registration finds itself (GitHub answers 409).
func RunnerName(id VMID, epoch int64) string {
	s := id.String()
	if epoch > 1 {
		s += "-" + string(rune('a'+(epoch-2)%26))
	}
	return "millrace-" + s[len("vm_"):]
}

// To moves v to state s at time at. An illegal move is a Conflict error and changes nothing.
func (v *VM) To(s VMState, at time.Time) error {
	if !slices.Contains(vmNext[v.State], s) {
		return Errorf(Conflict, "VM %s is %s and cannot become %s.", v.ID, v.State, s)
	}
	v.State = s
	v.Stamps.Changed = at
	if stamp := v.Stamps.of(s); stamp != nil && stamp.IsZero() {
		*stamp = at
	}
	return nil
}

// of is the stamp of state s; nil for lost, which may happen more than once.
func (t *VMStamps) of(s VMState) *time.Time {
	switch s {
	case VMPending:
		return &t.Placed
	case VMBooting:
		return &t.Booting
	case VMOnline:
		return &t.Online
	case VMBusy:
		return &t.Busy
	case VMStopping:
		return &t.Stopping
	case VMGone:
		return &t.Gone
	case VMLost:
	}
	return nil
}

// Observation is what an agent says of one VM. Steps is the VM's history as the agent saw it; ages instead of times,
// because nothing is decided by a peer's clock.
type Observation struct {
	VMID     VMID
	Epoch    int64
	State    VMState
	Steps    []Step
	Reason   string
	ExitCode *int
	Usage    Metering
}

// Step is one state of a VM and how long ago it was entered.
type Step struct {
	State VMState
	Age   time.Duration
}

// Observe joins o, received at time now, into v and reports whether anything changed. What contradicts v (an older
// epoch, a state behind v's) changes nothing: an observation is a level and may arrive late.
func (v *VM) Observe(o Observation, now time.Time) bool {
	if o.VMID != v.ID || o.Epoch != v.Epoch || v.State == VMGone {
		return false
	}
	changed := false
	for _, step := range o.Steps {
		stamp := v.Stamps.of(step.State)
		if stamp == nil || !stamp.IsZero() || step.Age < 0 {
			continue
		}
		at := now.Add(-step.Age)
		if at.Before(v.Stamps.Placed) {
			at = v.Stamps.Placed
		}
		*stamp, changed = at, true
	}
	if u := v.Usage.Max(o.Usage); u != v.Usage && o.Usage.plausible() {
		v.Usage, changed = u, true
	}
	if v.To(o.State, now) != nil {
		return changed
	}
	if o.Reason != "" {
		v.Reason = o.Reason
	}
	if o.ExitCode != nil {
		v.ExitCode = o.ExitCode
	}
	return true
}

// exitOutdated is the exit code of GitHub's runner when GitHub takes its version no more (actions/runner,
// Constants.Runner.ReturnCode.RunnerVersionDeprecated; actions-runner-controller #4404 acts on it).
const exitOutdated = 7

// RunnerRefused reports whether v ended because GitHub refused its runner's version.
func (v VM) RunnerRefused() bool {
	return v.State == VMGone && v.ExitCode != nil && *v.ExitCode == exitOutdated && v.RanJob.IsZero()
}

// Metering is what a VM has used since it started. Every figure only grows, but PeakMemory, which is a maximum.
type Metering struct {
	PeakMemory int64 `json:"peak_memory_bytes"`
	CPUMillis  int64 `json:"cpu_ms"`
	DiskRead   int64 `json:"disk_read_bytes"`
	DiskWrite  int64 `json:"disk_write_bytes"`
	NetRx      int64 `json:"net_rx_bytes"`
	NetTx      int64 `json:"net_tx_bytes"`
}

// plausible bounds what a host says, as [Sample] is: sums of it stay far from overflow.
func (m Metering) plausible() bool {
	return Sample{Memory: m.PeakMemory, CPUMillis: m.CPUMillis, DiskRead: m.DiskRead, DiskWrite: m.DiskWrite, NetRx: m.NetRx, NetTx: m.NetTx}.plausible()
}

// Max is the join of two readings of the same VM.
func (m Metering) Max(o Metering) Metering {
	return Metering{
		PeakMemory: max(m.PeakMemory, o.PeakMemory),
		CPUMillis:  max(m.CPUMillis, o.CPUMillis),
		DiskRead:   max(m.DiskRead, o.DiskRead),
		DiskWrite:  max(m.DiskWrite, o.DiskWrite),
		NetRx:      max(m.NetRx, o.NetRx),
		NetTx:      max(m.NetTx, o.NetTx),
	}
}

// How long a VM may take. Agents have limits of their own, which are shorter: these are for what an agent doesn't see, or
// can't say.
const (
	onlineWithin   = 4 * time.Minute    // from placed to online
	assignedWithin = 3 * time.Minute    // from online to a job: GitHub gives a job to another runner after a minute
	goneWithin     = 3 * time.Minute    // from its job's end to its own
	knownWithin    = 10 * time.Minute   // from its being busy to our hearing with which job: deliveries and polls tell
	deadHostAfter  = time.Hour          // a VM that is unregistered counts as gone when its host is silent for as long
	MaxJobTime     = 5 * 24 * time.Hour // GitHub's limit of a job on self-hosted runners (docs, Actions limits)
	OverdueAtLeast = time.Minute        // nothing is overdue that changed less long ago
)

// Overdue is what is to be done about a VM that should have got further.
type Overdue struct {
	Do     OverdueAction
	Reason string
}

// OverdueAction is a watchdog's verdict.
type OverdueAction string

// The verdicts. To retire a VM is to unregister its runner at GitHub, which refuses when it runs a job, and then to stop
// it.
const (
	OverdueNothing OverdueAction = ""
	OverdueRetire  OverdueAction = "retire"
	OverdueRetry   OverdueAction = "retry"  // retire, and its job's try has failed
	OverdueForget  OverdueAction = "forget" // its host is dead, and with it the VM
)

// Overdue says at time now whether v should have got further. hostSeen is when its host was last heard, zero when it was
// removed and never will be, jobEnded when the
// job that it ran ended, zero while it runs. A VM of a silent host is waited for: it says nothing.
func (v VM) Overdue(hostSeen, jobEnded, now time.Time) Overdue {
	online := now.Sub(hostSeen) < OfflineAfter
	since := func(at time.Time) time.Duration {
		if at.IsZero() {
			at = v.Stamps.Placed
		}
		return now.Sub(at)
	}
	switch {
	case v.State == VMGone:
	case v.State == VMStopping && hostSeen.IsZero():
		return Overdue{OverdueForget, "Its host was removed."}
	case v.State == VMStopping:
		if now.Sub(hostSeen) >= deadHostAfter && now.Sub(v.Stamps.Changed) >= deadHostAfter {
			return Overdue{OverdueForget, "Its host was silent for an hour."}
		}
	case !v.RanJob.IsZero() && !jobEnded.IsZero() && now.Sub(jobEnded) >= goneWithin && now.Sub(v.Stamps.Changed) >= goneWithin:
		return Overdue{OverdueRetire, "Its job has ended, and it has not."}
	case !v.RanJob.IsZero() && since(v.Stamps.Busy) >= MaxJobTime+goneWithin:
		return Overdue{OverdueRetire, "Its job ran for five days, which is GitHub's limit."}
	case !online || !v.RanJob.IsZero():
	case (v.State == VMPending || v.State == VMBooting) && since(v.Stamps.Placed) >= onlineWithin:
		return Overdue{OverdueRetry, "Its runner was not online after " + onlineWithin.String() + "."}
	case v.State == VMOnline && since(v.Stamps.Online) >= assignedWithin:
		return Overdue{OverdueRetry, "GitHub gave its runner no job within " + assignedWithin.String() + " of its being online."}
	case v.State == VMBusy && now.Sub(v.Stamps.Changed) >= knownWithin:
		// GitHub once refused to remove its runner, which can be wrong; it refuses again if it is not, and that is noted.
		return Overdue{OverdueRetire, "For " + knownWithin.String() + " nobody told which job it runs."}
	}
	return Overdue{}
}
