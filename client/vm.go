package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace-ci/millrace"
)

// VM is a VM as the REST API shows it.
//
//	GET /api/v1/orgs/{org}/vms?live=true&host={host}&job={job}&limit=50&cursor=…   → List[VM]
//	GET /api/v1/orgs/{org}/vms/{vm}                                      → VM
//	GET /api/v1/orgs/{org}/vms/{vm}/samples                              → List[millrace.Sample]
//	GET /api/v1/orgs/{org}/vms/{vm}/console?after={position}             → text; [LogPositionHeader] is where it ends
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

// VMQuery narrows a list of VMs; its zero value is all of them, newest first.
type VMQuery struct {
	Live   bool // not gone
	Host   millrace.HostID
	Job    millrace.JobID // meant for it, or ran it
	Cursor string
	Limit  int
}

// VMs is one page of VMs.
func (c REST) VMs(ctx context.Context, q VMQuery) (List[VM], error) {
	v := url.Values{}
	if q.Live {
		v.Set("live", "true")
	}
	set(v, "host", q.Host.String())
	set(v, "job", q.Job.String())
	set(v, "cursor", q.Cursor)
	setLimit(v, q.Limit)
	return get[List[VM]](ctx, c, "vms", v)
}

// VM is one VM.
func (c REST) VM(ctx context.Context, id millrace.VMID) (VM, error) {
	return get[VM](ctx, c, "vms/"+id.String(), nil)
}

// Samples are what a VM used over time.
func (c REST) Samples(ctx context.Context, id millrace.VMID) (List[millrace.Sample], error) {
	return get[List[millrace.Sample]](ctx, c, "vms/"+id.String()+"/samples", nil)
}

// Console is what a VM printed from byte after on, at most the last MiB of it, and the position after that.
func (c REST) Console(ctx context.Context, id millrace.VMID, after int64) (text []byte, end int64, err error) {
	v := url.Values{}
	if after != 0 {
		v.Set("after", strconv.FormatInt(after, 10))
	}
	header, err := c.send(ctx, http.MethodGet, "vms/"+id.String()+"/console", v, nil, &text)
	if err != nil {
		return nil, after, err
	}
	if end, err = strconv.ParseInt(header.Get(LogPositionHeader), 10, 64); err != nil {
		return nil, after, fmt.Errorf("client: the server says no position, it may be older than this program: %w", err)
	}
	return text, end, nil
}
