package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const hostColumns = `h.org_id, h.host_id, h.name, h.arch, h.emulates, h.vcpus, h.memory_mb, h.disk_mb, h.offer_cpu, h.offer_memory, h.max_vms, h.labels,
	h.network, h.driver, h.version, h.kernel, h.cpu_model, h.boot_ms, h.reboots, h.admin, h.refuses, h.sign_key, h.seal_key, h.epoch, h.desired_version, b.seen_at, h.created_at,
	coalesce(h.token_id, '00000000-0000-0000-0000-000000000000'), h.fixed_labels, h.ephemeral, h.restart_epoch = h.epoch, h.reboot_epoch = h.epoch, h.rotate_epoch = h.epoch, coalesce(h.keys_at, h.created_at),
	coalesce(h.cloned_at, '0001-01-01 00:00:00Z')`

const (
	anyHostFrom = ` FROM hosts h JOIN host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)`
	hostFrom    = anyHostFrom + ` AND h.removed_at IS NULL`
)

func hostTargets(h *millrace.Host) []any {
	f := &h.Facts
	return []any{
		&h.OrgID, &h.ID, &h.Name, &f.Arch, &f.Emulates, &f.VCPUs, &f.MemoryMB, &f.DiskMB, &f.Offer.MilliCPU, &f.Offer.MemoryMB, &f.MaxVMs, &f.Labels, &f.Network, &f.Driver,
		&f.Version, &f.Kernel, &f.CPUModel, &f.BootMS, &f.Reboots, &h.Admin, &h.Refuses, &h.SignKey, &h.SealKey, &h.Epoch, &h.Desired, &h.SeenAt, &h.CreatedAt,
		&h.TokenID, &h.FixedLabels, &h.Ephemeral, &h.Restart, &h.Reboot, &h.Rotate, &h.KeysAt, &h.ClonedAt,
	}
}

func scanHost(row pgx.CollectableRow) (h millrace.Host, err error) {
	return h, row.Scan(hostTargets(&h)...)
}

// HostRow is a host with what is committed of it.
type HostRow struct {
	millrace.Host
	VMs       int
	Committed millrace.Size
	RemovedAt time.Time // zero while it is one of the org's; others are found by [Org.AnyHost] alone
}

const hostLoad = ` LEFT JOIN LATERAL (
		SELECT count(*) AS vms, coalesce(sum(cpu), 0) AS cpu, coalesce(sum(memory), 0) AS memory FROM vms v
		WHERE (v.org_id, v.host_id) = (h.org_id, h.host_id) AND v.gone_at IS NULL
	) l ON true`

func scanHostRow(row pgx.CollectableRow) (r HostRow, err error) {
	return r, row.Scan(append(hostTargets(&r.Host), &r.VMs, &r.Committed.MilliCPU, &r.Committed.MemoryMB)...)
}

// Hosts lists the org's hosts by name.
func (o Org) Hosts(ctx context.Context) (list []HostRow, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, scanHostRow, `SELECT `+hostColumns+`, l.vms, l.cpu, l.memory`+hostFrom+hostLoad+` WHERE h.org_id = $1 ORDER BY h.name`, o.id)
		return err
	})
	return list, err
}

// Host finds one host, with what its agent found of it. NotFound: there is none, or it was removed.
func (o Org) Host(ctx context.Context, id millrace.HostID) (HostRow, error) {
	return o.findHost(ctx, id, hostFrom)
}

// AnyHost is [Org.Host] that finds one that was removed, too: what it ran and what its agent said outlast it.
func (o Org) AnyHost(ctx context.Context, id millrace.HostID) (HostRow, error) {
	return o.findHost(ctx, id, anyHostFrom)
}

func (o Org) findHost(ctx context.Context, id millrace.HostID, from string) (row HostRow, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		row, err = one(ctx, tx, func(row pgx.CollectableRow) (r HostRow, err error) {
			return r, row.Scan(append(hostTargets(&r.Host), &r.VMs, &r.Committed.MilliCPU, &r.Committed.MemoryMB, &r.Facts.Findings, scanTime(&r.RemovedAt))...)
		}, `SELECT `+hostColumns+`, l.vms, l.cpu, l.memory, h.findings, h.removed_at`+from+hostLoad+` WHERE (h.org_id, h.host_id) = ($1, $2)`, o.id, id)
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errNoHost
	}
	return row, err
}

var errNoHost = millrace.Errorf(millrace.NotFound, "There is no host with this ID.")

// StartHost notes an agent's start and its machine's facts, and gives the new epoch: what the process before it still
// says changes nothing. bootID is the machine's, of this boot: where it is another one, a host that was asked to reboot has, and
// takes jobs again. When it is that of the boot before, the other one is of a second machine with the host's key, which is refused
// from then on: no machine returns to an earlier boot. And a machine that was heard just now has hardly been booted since: what it
// says of the ends of VMs isn't believed until it would have been found to be a second one, see [Org.Cloned].
// Conflict: that machine is the second.
func (o Org) StartHost(ctx context.Context, id millrace.HostID, bootID string, f millrace.HostFacts) (epoch int64, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		var h millrace.Host
		var boot, former, cloned string
		var doubted time.Time
		err := tx.QueryRow(ctx, `SELECT `+hostColumns+`, h.boot_id, h.former_boot, h.cloned_boot, h.doubted_until`+hostFrom+` WHERE (h.org_id, h.host_id) = ($1, $2) FOR NO KEY UPDATE OF h`, o.id, id).
			Scan(append(hostTargets(&h), &boot, &former, &cloned, scanTime(&doubted))...)
		if err != nil {
			return err
		}
		if cloned != "" && cloned == bootID {
			return errCloned
		}
		silent := tx.now.Sub(h.SeenAt) >= millrace.OfflineAfter
		if booted := bootID != boot || bootID == ""; booted && h.Reboot {
			h.Reboot = false
			if h.Admin == millrace.HostDraining {
				h.Admin = millrace.HostEnabled
			}
		}
		switch {
		case bootID == boot || bootID == "" || boot == "":
			former = boot
		case bootID == former:
			former, cloned, h.ClonedAt, doubted = "", boot, tx.now, time.Time{}
			if err := tx.cloned(ctx, o.id, id, h.Name); err != nil {
				return err
			}
		case silent:
			former, doubted = boot, time.Time{}
		default:
			former, doubted = boot, tx.now.Add(millrace.OfflineAfter)
		}
		err = tx.QueryRow(ctx, `
			UPDATE hosts SET epoch = epoch + 1, started_at = $16, former_boot = $22, boot_id = $15, arch = $3, vcpus = $4, memory_mb = $5, disk_mb = $6, offer_cpu = $7, offer_memory = $8,
				labels = coalesce(fixed_labels, $9), driver = $10, version = $11, kernel = $12, cpu_model = $13, boot_ms = $14, emulates = $17, findings = $18, network = $19, max_vms = $20, reboots = $21,
				cloned_boot = $23, cloned_at = $24, doubted_until = $25, admin = $26,
				reboot_epoch = CASE WHEN $27 THEN epoch + 1 ELSE 0 END, rotate_epoch = CASE WHEN $28 THEN epoch + 1 ELSE 0 END
			WHERE (org_id, host_id) = ($1, $2) AND removed_at IS NULL RETURNING epoch`,
			o.id, id, f.Arch, f.VCPUs, f.MemoryMB, f.DiskMB, f.Offer.MilliCPU, f.Offer.MemoryMB, notNil(f.Labels), f.Driver, f.Version,
			f.Kernel, f.CPUModel, f.BootMS, bootID, tx.now, notNil(f.Emulates), notNil(f.Findings), cmp.Or(f.Network, millrace.NetworkUnknown), f.MaxVMs, f.Reboots,
			former, cloned, ptr(h.ClonedAt), ptr(doubted), h.Admin, h.Reboot, h.Rotate).Scan(&epoch)
		if err != nil {
			return err
		}
		var b pgx.Batch
		b.Queue(`UPDATE host_beats SET seen_at = $3, epoch = $4, sequence = 0 WHERE (org_id, host_id) = ($1, $2)`, o.id, id, tx.now, epoch)
		// The runner is in the image, and a new image comes with a start of the agent.
		b.Queue(`UPDATE incidents SET closed_at = $2 WHERE org_id = $1 AND code = $3 AND closed_at IS NULL`, o.id, tx.now, millrace.WaitRunnerVersion)
		if silent && o.store.hearsAll() {
			tx.queueReturned(&b, silence{o.id, id, h.Name, h.SeenAt})
		}
		tx.announceRules(o.id)
		return tx.SendBatch(ctx, &b).Close()
	})
	return epoch, err
}

// Desired is what a host should be doing. Its version is raised by every change but that of keys that grew old.
type Desired struct {
	Version int64
	VMs     []millrace.VM // that it should be running
	Removed bool          // it should be doing nothing any more
	Restart bool          // its agent is asked to start anew
	Reboot  bool          // its agent is asked to reboot the machine once it has no VM
	Rotate  bool          // its agent is asked to make new keys
	KeysAt  time.Time     // when its present keys came
}

// KeysDue reports whether the host is to have new keys: it is asked, or its keys are old.
func (d Desired) KeysDue(now time.Time) bool {
	return d.Rotate || now.Sub(d.KeysAt) > millrace.KeyLife
}

const desiredColumns = `h.desired_version, h.removed_at IS NOT NULL, h.restart_epoch = h.epoch, h.reboot_epoch = h.epoch, h.rotate_epoch = h.epoch, coalesce(h.keys_at, h.created_at)`

func (d *Desired) targets() []any {
	return []any{&d.Version, &d.Removed, &d.Restart, &d.Reboot, &d.Rotate, &d.KeysAt}
}

// Desired returns what the host should be doing.
func (o Org) Desired(ctx context.Context, host millrace.HostID) (d Desired, err error) {
	_, err = o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		// The version first: a list that is newer than its version is fetched once more, an older one would be missed.
		b.Queue(`SELECT `+desiredColumns+` FROM hosts h WHERE (h.org_id, h.host_id) = ($1, $2)`, o.id, host).QueryRow(func(row pgx.Row) error {
			return row.Scan(d.targets()...)
		})
		b.Queue(`
			SELECT `+vmColumns+` FROM vms v
			WHERE (v.org_id, v.host_id) = ($1, $2) AND v.gone_at IS NULL AND v.state <> 'stopping' ORDER BY v.vm_id`,
			o.id, host).Query(func(rows pgx.Rows) (err error) {
			d.VMs, err = collectVMs(rows)
			return err
		})
	})
	return d, err
}

// HostView is a host at one moment: what its requests are checked against, and what it should be doing.
type HostView struct {
	HostCredentials
	Changed <-chan struct{} // closed when it should be doing something else

	org          Org
	at           time.Time
	refuses      string
	doubtedUntil time.Time // see doubts
	desired      Desired
	vms          []millrace.VM // all that aren't gone
}

// ViewHost finds a host by its ID alone. NotFound when there is none.
func (s *Store) ViewHost(ctx context.Context, id millrace.HostID) (HostView, error) {
	org, err := s.orgOfHost(ctx, id)
	if err != nil {
		return HostView{}, err
	}
	return s.Org(org).viewHost(ctx, id)
}

func (o Org) viewHost(ctx context.Context, id millrace.HostID) (v HostView, err error) {
	v.org = o
	v.Changed = o.store.Bus.On(TopicHost(id))
	v.at, err = o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) { v.queue(b, id, ` ORDER BY v.vm_id`) })
	return v, err
}

// queue reads the view; which says which of its VMs, and how. The version comes first: a list that is newer than its version is
// fetched once more, an older one would be missed.
func (v *HostView) queue(b *pgx.Batch, id millrace.HostID, which string, args ...any) {
	b.Queue(`SELECT `+credentialColumns+`, h.refuses, h.doubted_until, `+desiredColumns+credentialsFrom, v.org.id, id).QueryRow(func(row pgx.Row) error {
		return row.Scan(slices.Concat(v.targets(), []any{&v.refuses, scanTime(&v.doubtedUntil)}, v.desired.targets())...)
	})
	b.Queue(`SELECT `+vmColumns+` FROM vms v WHERE (v.org_id, v.host_id) = ($1, $2) AND v.gone_at IS NULL`+which, append([]any{v.org.id, id}, args...)...).
		Query(func(rows pgx.Rows) (err error) {
			v.vms, err = collectVMs(rows)
			return err
		})
}

// admits checks that the host still is one, and what it says of this process of its agent.
func (v HostView) admits(epoch int64) error {
	switch {
	case v.Removed:
		return ErrHostRemoved
	case v.Epoch != epoch:
		return errEpoch
	}
	return nil
}

// Observe is [HostView.Observe] of what a host is now.
func (o Org) Observe(ctx context.Context, host millrace.HostID, epoch int64, refuses string, observations []millrace.Observation) (Desired, error) {
	v, err := o.viewHost(ctx, host)
	if err == nil {
		err = v.admits(epoch)
	}
	if err != nil {
		return Desired{}, err
	}
	return v.Observe(ctx, refuses, observations)
}

// Observe joins what the host observes into its VMs, notes why it takes no VM ("" when it does), and returns what it should be
// doing. A VM that ended before it ever ran a job is a failed try of its job, and its registration at GitHub, if any, is
// removed. A VM that is being stopped and that the host doesn't report is gone. Most reports say nothing new: those need no
// more than the view, and of the others no VM is locked of which they say nothing new.
func (v HostView) Observe(ctx context.Context, refuses string, observations []millrace.Observation) (desired Desired, err error) {
	reported := make(map[millrace.VMID]*millrace.Observation, len(observations))
	for i := range observations {
		reported[observations[i].VMID] = &observations[i]
	}
	var told []string
	desired = v.desired
	for _, vm := range v.vms {
		switch was := vm; {
		case !v.doubts(was, reported, v.at) && observe(&vm, reported, v.at):
			told = append(told, vm.ID.UUID())
		case !unwantedAtHost(was):
			desired.VMs = append(desired.VMs, was)
		}
	}
	o, host, locked := v.org, v.HostID, HostView{org: v.org}
	if refuses == v.refuses && len(told) == 0 {
		return desired, nil
	}
	err = o.store.tx(ctx, o.store.app, o.id, func(tx *Tx) error {
		if err := locked.admits(v.Epoch); err != nil { // it was admitted before
			return err
		}
		vms, refused := locked.vms, locked.refuses
		b := &tx.last
		var failed failures
		ended := false
		for i := range vms {
			before := vms[i]
			v := &vms[i]
			if locked.doubts(before, reported, tx.now) || !observe(v, reported, tx.now) {
				continue
			}
			tx.queueVM(b, *v)
			if before.Stamps.Online.IsZero() && !v.Stamps.Online.IsZero() {
				o.store.learning.host(o.id, host)
			}
			if v.Stamps == before.Stamps { // a reading of usage: pages show it when they are loaded
				continue
			}
			tx.announceOrg(o.id)
			if v.State != millrace.VMGone {
				continue
			}
			ended = true
			tx.queueEnd(b, before, *v, &failed)
			if v.RunnerRefused() {
				refused := millrace.Condition{Code: millrace.WaitRunnerVersion, Detail: v.Reason}
				if err := tx.openIncident(ctx, o.id, v.InstallationID, 0, "", refused); err != nil {
					return err
				}
			}
		}
		// VMs, then jobs, then hosts: whoever writes several kinds writes them in this order, so that no two deadlock.
		if ended { // which is no news for the host: its list is no new one
			tx.queueFailures(b, o.id, failed)
			tx.announceRoom(o.id)
		}
		if refuses != refused {
			b.Queue(`UPDATE hosts SET refuses = $3 WHERE (org_id, host_id) = ($1, $2)`, o.id, host, refuses)
			tx.announceOrg(o.id)
			tx.announceDemand(o.id)
		}
		desired.VMs = append(desired.VMs, slices.DeleteFunc(vms, unwantedAtHost)...)
		return nil
	}, func(_ *Tx, b *pgx.Batch) {
		locked.queue(b, host, ` AND v.vm_id = ANY($3::text[]::uuid[]) ORDER BY v.vm_id FOR UPDATE`, told)
	})
	return desired, err
}

// unwantedAtHost reports whether v's host should not have it.
func unwantedAtHost(v millrace.VM) bool {
	return v.State == millrace.VMStopping || v.State == millrace.VMGone
}

var errEpoch = millrace.Errorf(millrace.Unauthenticated, "The agent was started again; this process's epoch is over.")

// registersWithin is how long after its order a VM's registration is most likely kept, by a request that its host makes at once:
// that the VM boots is noted with it, see [Org.SaveJIT]. Until then a report that says no more is no news; hosts say again what is.
const registersWithin = 3 * time.Second

// observe joins what a host reports of v, and reports whether it changed. A VM that is being stopped and that isn't reported
// is gone.
func observe(v *millrace.VM, reported map[millrace.VMID]*millrace.Observation, now time.Time) bool {
	switch ob, seen := reported[v.ID]; {
	case seen && v.State == millrace.VMPending && ob.State == millrace.VMBooting && now.Sub(v.Stamps.Placed) < registersWithin:
		return false
	case seen:
		return v.Observe(*ob, now)
	}
	return v.State == millrace.VMStopping && v.To(millrace.VMGone, now) == nil
}

// doubts reports whether the host may be a copy of the machine that has v, and says that v ended.
func (v *HostView) doubts(vm millrace.VM, reported map[millrace.VMID]*millrace.Observation, now time.Time) bool {
	ob, seen := reported[vm.ID]
	return now.Before(v.doubtedUntil) && vm.Stamps.Placed.Before(v.doubtedUntil.Add(-millrace.OfflineAfter)) && (!seen || ob.State == millrace.VMGone)
}

// failures are jobs whose VM came to nothing, and why, and those whose VM ran a job of which we have not heard.
type failures struct{ jobs, reasons, unclear []string }

// unclearFor is how long a job whose VM has run some job is not placed again, unless it becomes known which job that was:
// its own, as often as not, and what says so is lost. Its repository is polled within that time, and what the poll lists as
// queued waits no longer.
const unclearFor = 90 * time.Second

// queueEnd follows up a VM's end, and notes the job of one that came to nothing.
func (tx *Tx) queueEnd(b *pgx.Batch, before, v millrace.VM, failed *failures) {
	if v.RanJob.IsZero() && v.RunnerID != 0 {
		tx.queueTask(b, v.OrgID, millrace.RetireVM{OrgID: v.OrgID, VMID: v.ID})
	}
	switch {
	case !v.RanJob.IsZero():
		return
	case !v.Stamps.Busy.IsZero():
		failed.unclear = append(failed.unclear, v.ForJob.UUID())
		return
	case v.RetireReason != "" || before.State == millrace.VMStopping || v.RunnerRefused():
		return
	}
	failed.jobs, failed.reasons = append(failed.jobs, v.ForJob.UUID()), append(failed.reasons, v.Reason)
}

// queueFailures has jobs whose VM came to nothing get another, after a pause that grows. Whether a job was run all the
// same, by another VM or after a message that is still on its way, is seen from its status. Rows are locked in the order
// of [inLockOrder].
func (tx *Tx) queueFailures(b *pgx.Batch, org millrace.OrgID, failed failures) {
	if len(failed.unclear) > 0 {
		b.Queue(`
			WITH unclear AS (
				SELECT job_id FROM jobs WHERE org_id = $1 AND job_id = ANY($2::text[]::uuid[]) AND status = 'queued' AND retry_at IS NULL
				ORDER BY repository_id, installation_id, github_job_id, run_attempt FOR NO KEY UPDATE
			)
			UPDATE jobs j SET retry_at = $3 FROM unclear u WHERE (j.org_id, j.job_id) = ($1, u.job_id)`,
			org, failed.unclear, tx.now.Add(unclearFor))
	}
	if len(failed.jobs) == 0 {
		return
	}
	b.Queue(`
		WITH failed AS (
			SELECT j.job_id, f.reason
			FROM jobs j JOIN unnest($2::text[]::uuid[], $3::text[]) AS f (job_id, reason) ON f.job_id = j.job_id
			WHERE j.org_id = $1 AND j.status = 'queued'
			ORDER BY j.repository_id, j.installation_id, j.github_job_id, j.run_attempt FOR NO KEY UPDATE OF j
		)
		UPDATE jobs j SET tries = tries + 1, failure = f.reason,
			retry_at = $4::timestamptz + least(interval '5 minutes', interval '5 seconds' * power(2, least(tries, 6)))
		FROM failed f WHERE (j.org_id, j.job_id) = ($1, f.job_id)`,
		org, failed.jobs, failed.reasons, tx.now)
}
