package client

import (
	"fmt"
	"time"

	"github.com/millrace-ci/millrace"
)

// Agent protocol, in the order in which it happens. Every body is JSON but the console's and the log's.
//
//	POST /agent/v1/enroll                 EnrollRequest → EnrollResponse      once, with an enrollment token
//	POST /agent/v1/keys                   KeysRequest   → 204                 now and then, before a start: new keys
//	POST /agent/v1/start                  StartRequest  → StartResponse       at each start: a new host epoch
//	POST /agent/v1/sync                   SyncRequest   → SyncResponse        for ever: observation out, orders in
//	POST /agent/v1/vms/{vm}/jit           JITRequest    → JITResponse         while the VM's kernel boots
//	POST /agent/v1/vms/{vm}/console?offset=N   raw bytes → 204                what the VM printed, from byte N on
//	POST /agent/v1/log?offset=N           raw bytes → 204                what the agent's process says, from byte N on
//	POST /agent/v1/vms/{vm}/samples       SamplesRequest → 204                what the VM used, now and then while it runs
//
// All but enroll are signed, see [SignatureHeader] and [Verify].

// EnrollRequest turns a machine into a host.
type EnrollRequest struct {
	Token   string             `json:"token"`
	Name    string             `json:"name"`
	SignKey []byte             `json:"sign_key"` // Ed25519 public key, 32 bytes
	SealKey []byte             `json:"seal_key"` // X25519 public key, 32 bytes
	Facts   millrace.HostFacts `json:"facts"`
}

// EnrollResponse is the new host.
type EnrollResponse struct {
	HostID     millrace.HostID `json:"host_id"`
	Org        string          `json:"org"`
	Epoch      int64           `json:"epoch"`
	ServerTime time.Time       `json:"server_time"`
}

// KeysRequest replaces a host's keys. It is signed by the present one and, as a start is, in epoch 0; once it was done, a repeat
// is signed by the new one.
type KeysRequest struct {
	SignKey []byte `json:"sign_key"` // Ed25519 public key, 32 bytes
	SealKey []byte `json:"seal_key"` // X25519 public key, 32 bytes
	// Proof that the host has the new key: its signature of [KeysRequest.Text].
	Proof  []byte `json:"proof"`
	BootID string `json:"boot_id"` // as in StartRequest
}

// Text is what the new key signs: these lines joined by "\n", with nothing after the last.
//
//	millrace-agent-keys-v1
//	<host>
//	<sign_key, lower-case hex>
//	<seal_key, lower-case hex>
func (k KeysRequest) Text(host millrace.HostID) []byte {
	return fmt.Appendf(nil, "millrace-agent-keys-v1\n%s\n%x\n%x", host, k.SignKey, k.SealKey)
}

// StartRequest announces an agent's start and the facts of its machine, which may have changed.
type StartRequest struct {
	Facts  millrace.HostFacts `json:"facts"`
	BootID string             `json:"boot_id"` // random(4): the kernel's /proc/sys/kernel/random/boot_id; "" when there is none
}

// StartResponse carries the epoch that all later requests of this process are signed in; sequence numbers start anew.
type StartResponse struct {
	Epoch      int64     `json:"epoch"`
	ServerTime time.Time `json:"server_time"`
}

// SyncRequest is what the host observes: the whole list of the VMs it has, and those that ended since it last had an
// answer. Have is the version of the list of orders that it follows; 0 at first.
type SyncRequest struct {
	Have int64 `json:"have"`
	// Refuses is why the host takes no VM now, whoever orders it: "its disk is nearly full (1.2 GB free)". "" when it does.
	Refuses string     `json:"refuses,omitempty"`
	VMs     []VMReport `json:"vms"`
}

// SyncResponse is the whole list of VMs that the host should have: a level, not a queue of commands. A VM that isn't
// in it is to be destroyed. The answer comes at once when Version differs from the request's Have, otherwise when it
// changes, and after [millrace.LongestSync] at the latest.
type SyncResponse struct {
	Version    int64     `json:"version"`
	VMs        []VMOrder `json:"vms"`
	ServerTime time.Time `json:"server_time"`
	// Restart asks this process to start anew: the next one is not asked again. Reboot asks it to reboot the machine once it has no
	// VM, where the host's owner allows that, until the machine was.
	Restart bool `json:"restart,omitempty"`
	Reboot  bool `json:"reboot,omitempty"`
	Rotate  bool `json:"rotate,omitempty"` // asks it to make new keys and start anew with them
}

// VMReport is a [millrace.Observation] on the wire; ages are in milliseconds.
type VMReport struct {
	ID       millrace.VMID     `json:"id"`
	Epoch    int64             `json:"epoch"`
	State    millrace.VMState  `json:"state"`
	Steps    []StepReport      `json:"steps"`
	Reason   string            `json:"reason,omitempty"`
	ExitCode *int              `json:"exit_code,omitempty"`
	Usage    millrace.Metering `json:"usage"`
	// Watched says that the agent knows that somebody watches what the VM prints.
	Watched bool `json:"watched,omitempty"`
}

// StepReport is a [millrace.Step] on the wire.
type StepReport struct {
	State millrace.VMState `json:"state"`
	AgeMS int64            `json:"age_ms"`
}

// VMOrder is one VM that the host should have.
type VMOrder struct {
	ID        millrace.VMID `json:"id"`
	Epoch     int64         `json:"epoch"`
	Arch      millrace.Arch `json:"arch"`
	MilliCPU  int           `json:"milli_cpu"`
	MemoryMB  int           `json:"memory_mb"`
	Burstable bool          `json:"burstable,omitempty"`
	Zone      millrace.Zone `json:"zone"`
	// Egress is what the VM may reach, at the most: the host's own bounds hold beside it.
	Egress millrace.Egress `json:"egress"`
	// State is what the server last heard of the VM. An agent that doesn't know the VM, as its journal was lost, boots
	// anew only what was never begun.
	State millrace.VMState `json:"state"`
	// Watched says that somebody watches what the VM prints: it is wanted at once.
	Watched bool `json:"watched,omitempty"`
}

// Size is what the VM gets.
func (o VMOrder) Size() millrace.Size {
	return millrace.Size{MilliCPU: o.MilliCPU, MemoryMB: o.MemoryMB}
}

// NewVMOrder is the order for v.
func NewVMOrder(v millrace.VM) VMOrder {
	return VMOrder{
		ID: v.ID, Epoch: v.Epoch, Arch: v.Arch, MilliCPU: v.Size.MilliCPU, MemoryMB: v.Size.MemoryMB, Burstable: v.Burstable, Zone: v.Zone, Egress: v.Egress,
		State: v.State,
	}
}

// JITRequest asks for the VM's sealed registration.
type JITRequest struct {
	Epoch int64 `json:"epoch"`
}

// SamplesRequest is what a VM has used since the last of them, in order of time; at most [millrace.MaxSamples]. Samples that
// aren't later than those that the server has change nothing, so that a repeat doesn't.
type SamplesRequest struct {
	Epoch   int64           `json:"epoch"`
	Samples millrace.Series `json:"samples"`
}

// JITResponse is the runner's JIT config, sealed to the host's X25519 key, the host's ID, the VM's ID and
// the VM's epoch, see [Seal]. A repeat gets the same blob.
type JITResponse struct {
	Sealed []byte `json:"sealed"`
}
