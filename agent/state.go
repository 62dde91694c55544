package agent

import (
	"bytes"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// Delays. TCG guests need 2 s for what KVM guests do in a tenth of it, and many may boot at once.
const (
	helloWithin  = 60 * time.Second      // from the order to the guest's first word
	onlineWithin = 120 * time.Second     // from the order to a connected runner
	offWithin    = 30 * time.Second      // from the runner's end to the machine's
	cutAfter     = 50 * time.Millisecond // that a call is left before one that says more takes its place
	cutAtMost    = 2 * time.Second       // what that may come to, see [State.cutAt]
	heldAfter    = 2 * cutAtMost         // a call that is older waits at the server for something to say
	tellsWithin  = time.Second           // that a VM's runner is online or busy: nobody waits for it, and the other's news may come with it
	usageEvery   = 5 * time.Second
	idleSpacing  = time.Second // between syncs that are answered at once and say nothing new
	hastyAnswers = 20          // in a row that come within cutAfter; from then on syncs are that far apart, whatever they say
	firstRetry   = 250 * time.Millisecond
	lastRetry    = 8 * time.Second // well below millrace.OfflineAfter
)

// Bounds of what a control plane may have this host keep, and say again: an honest one takes at most 4 MB at once.
const (
	maxOrders = 1000 // in an answer
	maxReason = 500  // bytes of why a VM ended
	maxHello  = 100  // bytes of what a VM says that it is
	maxPast   = 1000 // VMs that ended
)

// State is all that the agent knows. Its zero value with Facts is an agent that has just been started on a host without
// VMs; [Resume] is one that finds some. [Step] never changes a state in place.
type State struct {
	Facts    millrace.HostFacts
	Refuses  string // why the host takes no VM; "": it does
	Started  bool   // this process has an epoch
	Stopping bool
	Reboots  bool             // the host's owner lets the control plane reboot it
	Restart  bool             // the control plane asks this process to start anew
	Reboot   bool             // which it asks for
	Rotate   bool             // it asks for new keys
	Unsure   bool             // it may know new keys of this host
	Removed  bool             // the host is no host any more
	Ordered  bool             // there was an answer: without one no VM is known to be unwanted
	Version  int64            // of Orders
	Orders   []client.VMOrder // the last answer
	Settled  bool             // they are followed, until there are others or a VM ends
	VMs      map[millrace.VMID]VM
	Past     []Ref         // the last VMs that ended here and were forgotten: none of them begins again
	Hasty    int           // answers in a row that came at once
	Patience time.Duration // how long a call is left before one that says more takes its place, if more than cutAfter

	Calls    int // made so far; their numbers
	Call     Call
	Failures int       // calls in a row
	RetryAt  time.Time // no call before
	TellAt   time.Time // when a fact that no call in flight carries is to be told; zero: there is none
	Used     bool      // there is such a reading of usage, which can wait longer
}

// Call is a request in flight; its zero value is none.
type Call struct {
	N    int
	At   time.Time
	Have int64 // the version it named
}

// VM is one VM of this host, until its end is confirmed. Its JSON is what the journal has of it: what the guest doesn't say
// again and the server neither. A registration is in no file; one that the guest has not got yet is asked for again.
type VM struct {
	Order    client.VMOrder    `json:"order"`
	State    millrace.VMState  `json:"state"` // booting, online, busy, gone
	Steps    []Stamp           `json:"steps"`
	Reason   string            `json:"reason,omitempty"`
	ExitCode *int              `json:"exit_code,omitempty"`
	ExitedAt time.Time         `json:"exited_at,omitzero"` // its runner ended
	Usage    millrace.Metering `json:"usage"`
	Console  int64             `json:"console"` // bytes of it that the server has

	AdoptedAt  time.Time       `json:"-"` // this process found it
	Hello      bool            `json:"-"` // its kernel runs
	JIT        millrace.Secret `json:"-"` // its registration, until it has it
	JITAsked   bool            `json:"-"`
	JITError   string          `json:"-"` // why there is none yet
	JITTries   int             `json:"-"`
	JITAt      time.Time       `json:"-"` // when to ask for it again
	Configured bool            `json:"-"` // it was told who it is
	Killed     bool            `json:"-"` // it was ended by us; VMDone follows
	ReportedIn int             `json:"-"` // the last call that said it is gone
	Watched    bool            `json:"-"` // somebody watches what it prints
}

// Stamp is when a VM entered a state, by this host's clock; only differences are ever sent.
type Stamp struct {
	State millrace.VMState `json:"state"`
	At    time.Time        `json:"at"`
}

// Resume is the state of an agent that finds the journal of an earlier process: its entries, of different VMs, and which of
// their machines still run.
func Resume(facts millrace.HostFacts, journal []VM, runs func(Ref) bool, now time.Time) State {
	s := State{Facts: facts, VMs: map[millrace.VMID]VM{}}
	for _, v := range journal {
		switch {
		case !v.live():
		case runs(v.ref()):
			v.AdoptedAt = now
			if !v.ExitedAt.IsZero() {
				v.ExitedAt = now // it has as long to power off as if it had ended now
			}
		default:
			if v.ExitedAt.IsZero() {
				v.because("The VM ended while the host's agent was away.")
			}
			v.State = millrace.VMGone
			v.Steps = append(slices.Clip(v.Steps), Stamp{State: v.State, At: now})
		}
		s.VMs[v.Order.ID] = v
	}
	return s
}

// recordedAs reports whether o's entry in the journal will do for v. Usage rides along with the rest: the guest says it again.
func (v VM) recordedAs(o VM) bool {
	return v.ref() == o.ref() && v.State == o.State && v.Reason == o.Reason && v.ExitedAt.Equal(o.ExitedAt) && v.Console == o.Console
}

// ref names v.
func (v VM) ref() Ref { return Ref{ID: v.Order.ID, Epoch: v.Order.Epoch} }

// comesTo reports whether state lies ahead of v's.
func (v VM) comesTo(state millrace.VMState) bool {
	return slices.Index(millrace.VMStates, state) > slices.Index(millrace.VMStates, v.State)
}

// live reports whether v has a machine, or is to have one.
func (v VM) live() bool { return v.State != millrace.VMGone }

// begunAt is when v's order came, or when this process found it: until then nobody heard it.
func (v VM) begunAt() time.Time {
	if v.AdoptedAt.After(v.Steps[0].At) {
		return v.AdoptedAt
	}
	return v.Steps[0].At
}

// deadline is when v is killed if nothing changes, and why; zero when it may take its time.
func (v VM) deadline() (at time.Time, reason string) {
	switch {
	case !v.live() || v.Killed:
		return time.Time{}, ""
	case !v.ExitedAt.IsZero():
		return v.ExitedAt.Add(offWithin), "The VM did not power off within " + offWithin.String() + " of its runner's end."
	case v.State != millrace.VMBooting:
		return time.Time{}, ""
	case !v.Hello:
		return v.begunAt().Add(helloWithin), "The VM's kernel did not come up within " + helloWithin.String() + "."
	case !v.Configured:
		return v.begunAt().Add(onlineWithin), "There was no runner registration within " + onlineWithin.String() + ". " + v.JITError
	default:
		return v.begunAt().Add(onlineWithin), "The runner did not come online within " + onlineWithin.String() + "."
	}
}

// Ended is why the agent is to end now, or "". A reboot waits until no VM is left.
func (s State) Ended() End {
	switch {
	case s.Removed && s.Live() == 0:
		return EndRemoved
	case s.Rotate:
		return EndRotate
	case s.Restart:
		return EndRestart
	case s.Reboot && s.Reboots && len(s.VMs) == 0:
		return EndReboot
	}
	return ""
}

// Stopped reports whether a stopping agent has nothing left to end or to say.
func (s State) Stopped() bool { return s.Stopping && len(s.VMs) == 0 }

// Live is the number of VMs that have a machine, or are to have one.
func (s State) Live() int {
	n := 0
	for _, v := range s.VMs {
		if v.live() {
			n++
		}
	}
	return n
}

// ids are the VMs' IDs in order, so that the same state gives the same effects.
func (s State) ids() []millrace.VMID { return inOrder(maps.Keys(s.VMs)) }

func inOrder(ids iter.Seq[millrace.VMID]) []millrace.VMID {
	return slices.SortedFunc(ids, func(a, b millrace.VMID) int { return bytes.Compare(a[:], b[:]) })
}

// due are those for which something is to be done by now: see [VM.deadline], or a registration is to be asked for.
func (s State) due(now time.Time) []millrace.VMID {
	return inOrder(func(yield func(millrace.VMID) bool) {
		for id, v := range s.VMs {
			at, _ := v.deadline()
			if (passed(at, now) || passed(v.JITAt, now)) && !yield(id) {
				return
			}
		}
	})
}

// passed reports whether a moment has come by now; zero never does.
func passed(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// cutAt is when the call in flight is given up for a new one that says more; zero: not at all. The short wait lets
// the server answer what it is busy with, and several facts travel together. It doubles with each call that is cut while the server
// may be busy with it: such calls cost it as much as others, and of a host that always has news a slow one would answer none.
func (s State) cutAt() time.Time {
	switch {
	case s.Call.N == 0 || !s.Started:
		return time.Time{}
	case s.TellAt.After(s.Call.At.Add(s.patience())):
		return s.TellAt
	case !s.TellAt.IsZero():
		return s.Call.At.Add(s.patience())
	case s.Used && !s.Stopping:
		return s.Call.At.Add(usageEvery)
	default:
		return time.Time{}
	}
}

func (s State) patience() time.Duration { return max(cutAfter, s.Patience) }

// silent reports whether an agent that ends has said all it has to say for now.
func (s State) silent() bool { return s.Removed || s.Stopping && s.TellAt.IsZero() }

// Wake is when [Step] wants to be called with a Timer at the latest; zero: no need.
func (s State) Wake() time.Time {
	var wake time.Time
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	if s.Call.N == 0 && !s.silent() {
		sooner(s.RetryAt)
	}
	sooner(s.cutAt())
	for _, v := range s.VMs {
		at, _ := v.deadline()
		sooner(at)
		sooner(v.JITAt)
	}
	return wake
}
