package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const vmColumns = `v.org_id, v.vm_id, v.host_id, v.for_job, v.ran_job, v.state, v.epoch, v.zone, v.egress, v.arch, v.cpu, v.memory, v.burstable,
	v.labels, v.installation_id, v.repository_id, v.repository, v.runner_id, v.runner_name, v.reason, v.exit_code, v.retire_reason,
	v.peak_memory, v.cpu_ms, v.disk_read, v.disk_write, v.net_rx, v.net_tx,
	v.placed_at, v.booting_at, v.online_at, v.busy_at, v.stopping_at, v.gone_at, v.changed_at`

// nullableVM scans [vmColumns] of an outer join: every column may be NULL.
type nullableVM struct {
	org, epoch, installation, repositoryID, runner                    *int64
	id, host, forJob, ranJob                                          millrace.VMID // as bare UUIDs
	state, zone, egress, arch, repository, runnerName, reason, retire *string
	cpu, memory, exit                                                 *int
	burstable                                                         *bool
	labels                                                            []string
	usage                                                             [6]*int64
	stamps                                                            [7]*time.Time
}

func (n *nullableVM) targets() []any {
	t := []any{
		&n.org, &n.id, &n.host, &n.forJob, &n.ranJob, &n.state, &n.epoch, &n.zone, &n.egress, &n.arch, &n.cpu, &n.memory, &n.burstable, &n.labels,
		&n.installation, &n.repositoryID, &n.repository, &n.runner, &n.runnerName, &n.reason, &n.exit, &n.retire,
	}
	for i := range n.usage {
		t = append(t, &n.usage[i])
	}
	for i := range n.stamps {
		t = append(t, &n.stamps[i])
	}
	return t
}

func (n *nullableVM) vm() *millrace.VM {
	if n.org == nil {
		return nil
	}
	return &millrace.VM{
		OrgID: millrace.OrgID(*n.org), ID: n.id, HostID: millrace.HostID(n.host), ForJob: millrace.JobID(n.forJob), RanJob: millrace.JobID(n.ranJob),
		State: millrace.VMState(*n.state), Epoch: *n.epoch, Zone: millrace.Zone(*n.zone), Egress: millrace.Egress(*n.egress), Arch: millrace.Arch(*n.arch),
		Size: millrace.Size{MilliCPU: *n.cpu, MemoryMB: *n.memory}, Burstable: *n.burstable, Labels: n.labels,
		InstallationID: *n.installation, RepositoryID: *n.repositoryID, Repository: *n.repository, RunnerID: *n.runner, RunnerName: *n.runnerName,
		Reason: *n.reason, ExitCode: n.exit, RetireReason: *n.retire,
		Usage: millrace.Metering{
			PeakMemory: *n.usage[0], CPUMillis: *n.usage[1], DiskRead: *n.usage[2], DiskWrite: *n.usage[3], NetRx: *n.usage[4], NetTx: *n.usage[5],
		},
		Stamps: millrace.VMStamps{
			Placed: val(n.stamps[0]), Booting: val(n.stamps[1]), Online: val(n.stamps[2]), Busy: val(n.stamps[3]), Stopping: val(n.stamps[4]),
			Gone: val(n.stamps[5]), Changed: val(n.stamps[6]),
		},
	}
}

func scanVM(row pgx.CollectableRow) (millrace.VM, error) {
	var n nullableVM
	if err := row.Scan(n.targets()...); err != nil {
		return millrace.VM{}, err
	}
	return *n.vm(), nil
}

// queueVM saves what a use case may change of a VM.
func (tx *Tx) queueVM(b *pgx.Batch, v millrace.VM) {
	b.Queue(`
		UPDATE vms SET state = $3, reason = $4, exit_code = $5, retire_reason = $6,
			peak_memory = $7, cpu_ms = $8, disk_read = $9, disk_write = $10, net_rx = $11, net_tx = $12,
			booting_at = $13, online_at = $14, busy_at = $15, stopping_at = $16, gone_at = $17, changed_at = $18,
			jit_sealed = CASE WHEN $3 IN ('pending', 'booting', 'lost') THEN jit_sealed END
		WHERE (org_id, vm_id) = ($1, $2)`,
		v.OrgID, v.ID, v.State, v.Reason, v.ExitCode, v.RetireReason, v.Usage.PeakMemory, v.Usage.CPUMillis, v.Usage.DiskRead,
		v.Usage.DiskWrite, v.Usage.NetRx, v.Usage.NetTx, ptr(v.Stamps.Booting), ptr(v.Stamps.Online), ptr(v.Stamps.Busy),
		ptr(v.Stamps.Stopping), ptr(v.Stamps.Gone), v.Stamps.Changed)
}

// queueDesired raises the version of the list of VMs that a host should have.
func (tx *Tx) queueDesired(b *pgx.Batch, org millrace.OrgID, host millrace.HostID) {
	tx.announceTo(TopicHost(host))
	b.Queue(`UPDATE hosts SET desired_version = desired_version + 1 WHERE (org_id, host_id) = ($1, $2)`, org, host)
}

// VMRow is a VM with its host's name.
type VMRow struct {
	millrace.VM
	HostName string
}

// VMFilter narrows a list of VMs. Its zero value is all VMs, newest first.
type VMFilter struct {
	Live   bool // only those that hold a slot
	Host   millrace.HostID
	Cursor string
	Limit  int // 1 to 100; 0 is 50
}

// VMPage is one page of VMs; Next is "" on the last.
type VMPage struct {
	VMs  []VMRow
	Next string
}

func scanVMRow(row pgx.CollectableRow) (r VMRow, err error) {
	var n nullableVM
	if err := row.Scan(append(n.targets(), &r.HostName)...); err != nil {
		return r, err
	}
	r.VM = *n.vm()
	return r, nil
}

// VMs lists VMs, newest first.
func (o Org) VMs(ctx context.Context, f VMFilter) (page VMPage, err error) {
	limit := pageSize(f.Limit)
	var w where
	w.and(`v.org_id = ?`, o.id)
	if f.Live {
		w.and(`v.gone_at IS NULL`)
	}
	if !f.Host.IsZero() {
		w.and(`v.host_id = ?`, f.Host)
	}
	if f.Cursor != "" {
		at, id, err := o.parseCursor(f.Cursor)
		if err != nil {
			return page, err
		}
		w.and(`(v.placed_at, v.vm_id) < (?, ?::uuid)`, at, id)
	}
	sql := fmt.Sprintf(`
		SELECT %s, h.name FROM vms v JOIN hosts h ON (h.org_id, h.host_id) = (v.org_id, v.host_id)
		WHERE %s ORDER BY v.placed_at DESC, v.vm_id DESC LIMIT %d`, vmColumns, w.sql.String(), limit+1)
	err = o.tx(ctx, func(tx *Tx) error {
		page.VMs, err = many(ctx, tx, scanVMRow, sql, w.args...)
		return err
	})
	if len(page.VMs) > limit {
		page.VMs = page.VMs[:limit]
		last := page.VMs[limit-1]
		page.Next = o.cursor(last.Stamps.Placed, last.ID)
	}
	return page, err
}

// VM finds one VM.
func (o Org) VM(ctx context.Context, id millrace.VMID) (row VMRow, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		row, err = one(ctx, tx, scanVMRow, `
			SELECT `+vmColumns+`, h.name FROM vms v JOIN hosts h ON (h.org_id, h.host_id) = (v.org_id, v.host_id)
			WHERE (v.org_id, v.vm_id) = ($1, $2)`, o.id, id)
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errNoVM
	}
	return row, err
}

var errNoVM = millrace.Errorf(millrace.NotFound, "There is no VM with this ID.")
