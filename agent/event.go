package agent

import (
	"fmt"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
)

// Ref is one VM in one of its epochs. What is said of an older epoch changes nothing.
type Ref struct {
	ID    millrace.VMID
	Epoch int64
}

// machine is the name of the VM's machine for the driver, and of its entry in the journal.
func (r Ref) machine() string { return fmt.Sprintf("%s-%d", r.ID, r.Epoch) }

// Event is something that happened.
type Event interface{ event() }

// The events.
type (
	// Started is the answer to SendStart: this process has an epoch.
	Started struct{ Call int }
	// Synced is the answer to SendSync.
	Synced struct {
		Call     int
		Response client.SyncResponse
	}
	// CallFailed is what came of a SendStart or SendSync instead of an answer. Code is "" when the server wasn't
	// reached. Jitter, from 0 to 1, spreads the retries of many agents.
	CallFailed struct {
		Call   int
		Code   millrace.Code
		Jitter float64
	}

	// JITReady is the answer to FetchJIT.
	JITReady struct {
		Ref
		JIT millrace.Secret
	}
	// JITFailed is what came of a FetchJIT instead of an answer.
	JITFailed struct {
		Ref
		Code    millrace.Code
		Message string
		Jitter  float64
	}

	// VMHello is a guest's first word to this process: its kernel runs. One that an earlier process configured says so.
	VMHello struct {
		Ref
		Configured bool
	}
	// VMReached is a guest's word on its runner: online or busy.
	VMReached struct {
		Ref
		State millrace.VMState
	}
	// VMUsage is what the guest has used so far.
	VMUsage struct {
		Ref
		Usage millrace.Metering
	}
	// VMPrinted says how many bytes of what a VM printed the server has.
	VMPrinted struct {
		Ref
		Console int64
	}
	// VMExit is a guest's last word: the runner ended, or the guest can no longer be spoken with. Code is nil then.
	VMExit struct {
		Ref
		Code   *int
		Reason string
	}
	// VMDone says that the machine, its disk and its network are no more, or never came to be. Reason is "" when it
	// powered off by itself.
	VMDone struct {
		Ref
		Reason string
	}

	// Refusal says why the host can't take a VM; "" when it can.
	Refusal struct{ Why string }
	// Timer says that [State.Wake] has come. One that comes early or twice changes nothing.
	Timer struct{}
	// Stop says that the agent is to end: every VM is killed and no other begun.
	Stop struct{}
)

func (Started) event()    {}
func (Synced) event()     {}
func (CallFailed) event() {}
func (JITReady) event()   {}
func (JITFailed) event()  {}
func (VMHello) event()    {}
func (VMReached) event()  {}
func (VMUsage) event()    {}
func (VMPrinted) event()  {}
func (VMExit) event()     {}
func (VMDone) event()     {}
func (Refusal) event()    {}
func (Timer) event()      {}
func (Stop) event()       {}

// End is why an agent ends by itself.
type End string

// The ends: to start anew, with new keys or the present ones, to reboot the machine, and because its host is no host any more.
const (
	EndRestart End = "restart"
	EndRotate  End = "rotate" // see [MakeKeys]
	EndReboot  End = "reboot"
	EndRemoved End = "removed"
)

// Error says what the end is.
func (e End) Error() string {
	switch e {
	case EndRestart:
		return "the control plane asks the agent to start anew"
	case EndRotate:
		return "the control plane asks the agent for new keys"
	case EndReboot:
		return "the control plane asks for a reboot"
	case EndRemoved:
		return "this host was removed from its org; enroll the machine anew to use it again"
	}
	return string(e)
}

// Effect is something to do. Each is done in the background; what comes of it is an event.
type Effect interface{ effect() }

// The effects. Calls are numbered; a new one cuts short the one in flight, whose outcome is of no interest any more.
// Record and Forget are done at once, before the effects that follow them.
type (
	// Record notes in the journal what is known of a VM.
	Record struct{ VM VM }
	// Forget removes a VM from the journal.
	Forget struct{ Ref }

	// SendStart asks for an epoch.
	SendStart struct {
		Call  int
		Facts millrace.HostFacts
	}
	// SendSync reports and waits for orders.
	SendSync struct {
		Call    int
		Request client.SyncRequest
	}
	// StartVM boots a machine.
	StartVM struct {
		Ref
		Spec vm.Spec
	}
	// FetchJIT asks for a VM's registration.
	FetchJIT struct{ Ref }
	// ConfigureVM tells a guest who it is.
	ConfigureVM struct {
		Ref
		Hostname string
		JIT      millrace.Secret
	}
	// WatchVM says whether somebody watches what a VM prints.
	WatchVM struct {
		Ref
		Watched bool
	}
	// DismissVM tells a guest that its last word is recorded: it may power off.
	DismissVM struct{ Ref }
	// KillVM ends a machine at once.
	KillVM struct {
		Ref
		Reason string // for the log
	}
)

func (Record) effect()      {}
func (Forget) effect()      {}
func (SendStart) effect()   {}
func (SendSync) effect()    {}
func (StartVM) effect()     {}
func (FetchJIT) effect()    {}
func (ConfigureVM) effect() {}
func (WatchVM) effect()     {}
func (DismissVM) effect()   {}
func (KillVM) effect()      {}
