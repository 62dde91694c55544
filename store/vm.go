package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const vmColumns = `v.org_id, v.vm_id, v.host_id, v.for_job, v.ran_job, v.state, v.epoch, v.zone, v.egress, v.arch, v.cpu, v.memory, v.burstable,
	v.labels, v.installation_id, v.repository_id, v.repository, v.runner_id, v.runner_name, v.reason, v.exit_code, v.retire_reason,
	v.peak_memory, v.cpu_ms, v.disk_read, v.disk_write, v.net_rx, v.net_tx,
	v.placed_at, v.booting_at, v.online_at, v.busy_at, v.stopping_at, v.gone_at, v.changed_at`

// vmTargets are where [vmColumns] are scanned to.
func vmTargets(v *millrace.VM) []any {
	return []any{
		(*int64)(&v.OrgID), scanID(&v.ID), scanID(&v.HostID), scanID(&v.ForJob), scanID(&v.RanJob), (*string)(&v.State), &v.Epoch, (*string)(&v.Zone),
		(*string)(&v.Egress), (*string)(&v.Arch), &v.Size.MilliCPU, &v.Size.MemoryMB, &v.Burstable, &v.Labels, &v.InstallationID, &v.RepositoryID,
		&v.Repository, &v.RunnerID, &v.RunnerName, &v.Reason, &v.ExitCode, &v.RetireReason, &v.Usage.PeakMemory, &v.Usage.CPUMillis,
		&v.Usage.DiskRead, &v.Usage.DiskWrite, &v.Usage.NetRx, &v.Usage.NetTx, scanTime(&v.Stamps.Placed), scanTime(&v.Stamps.Booting),
		scanTime(&v.Stamps.Online), scanTime(&v.Stamps.Busy), scanTime(&v.Stamps.Stopping), scanTime(&v.Stamps.Gone), scanTime(&v.Stamps.Changed),
	}
}

func scanVM(row pgx.CollectableRow) (v millrace.VM, err error) {
	return v, row.Scan(vmTargets(&v)...)
}

// collectVMs reads rows of [vmColumns].
func collectVMs(rows pgx.Rows) (list []millrace.VM, err error) {
	var v millrace.VM
	_, err = pgx.ForEachRow(rows, vmTargets(&v), func() error {
		list = append(list, v)
		return nil
	})
	return list, err
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
	Job    millrace.JobID // launched or reassigned for it, or ran it
	Cursor string
	Limit  int // 1 to 100; 0 is 50
}

// VMPage is one page of VMs; Next is "" on the last.
type VMPage struct {
	VMs  []VMRow
	Next string
}

func scanVMRow(row pgx.CollectableRow) (r VMRow, err error) {
	return r, row.Scan(append(vmTargets(&r.VM), &r.HostName)...)
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
	if !f.Job.IsZero() { // two look-ups by key; an OR might read all of the org's, newest first
		w.and(`v.vm_id IN (
			SELECT vm_id FROM vms WHERE org_id = ? AND for_job = ? UNION ALL SELECT vm_id FROM vms WHERE org_id = ? AND ran_job = ?
		)`, o.id, f.Job, o.id, f.Job)
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
