package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// VM is a VM as the REST API shows it.
//
//	GET /api/v1/orgs/{org}/vms?live=true&host={host}&limit=50&cursor=…   → List[VM]
//	GET /api/v1/orgs/{org}/vms/{vm}                                      → VM
//	GET /api/v1/orgs/{org}/vms/{vm}/samples                              → List[millrace.Sample]
type VM struct {
	ID         millrace.VMID     `json:"id"`
	Host       string            `json:"host"` // its name
	HostID     millrace.HostID   `json:"host_id"`
	ForJob     millrace.JobID    `json:"for_job"`
	RanJob     millrace.JobID    `json:"ran_job"` // "" until GitHub gave it one
	State      millrace.VMState  `json:"state"`
	Zone       millrace.Zone     `json:"zone"`
	Arch       millrace.Arch     `json:"arch"`
	Size       millrace.Size     `json:"size"`
	Burstable  bool              `json:"burstable"`
	RunnerName string            `json:"runner_name"`
	Reason     string            `json:"reason"`    // why it ended, in words
	ExitCode   *int              `json:"exit_code"` // the runner's; null until it ended by itself
	Usage      millrace.Metering `json:"usage"`

	// When it entered each state, by the server's clock; null when it did not (yet).
	PlacedAt   *time.Time `json:"placed_at"`
	BootingAt  *time.Time `json:"booting_at"`
	OnlineAt   *time.Time `json:"online_at"`
	BusyAt     *time.Time `json:"busy_at"`
	StoppingAt *time.Time `json:"stopping_at"`
	GoneAt     *time.Time `json:"gone_at"`
}

// NewVM is v on the host named host.
func NewVM(v millrace.VM, host string) VM {
	return VM{
		ID:         v.ID,
		Host:       host,
		HostID:     v.HostID,
		ForJob:     v.ForJob,
		RanJob:     v.RanJob,
		State:      v.State,
		Zone:       v.Zone,
		Arch:       v.Arch,
		Size:       v.Size,
		Burstable:  v.Burstable,
		RunnerName: v.RunnerName,
		Reason:     v.Reason,
		ExitCode:   v.ExitCode,
		Usage:      v.Usage,
		PlacedAt:   Time(v.Stamps.Placed),
		BootingAt:  Time(v.Stamps.Booting),
		OnlineAt:   Time(v.Stamps.Online),
		BusyAt:     Time(v.Stamps.Busy),
		StoppingAt: Time(v.Stamps.Stopping),
		GoneAt:     Time(v.Stamps.Gone),
	}
}

// Time is t on the wire: UTC, null when zero.
func Time(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
