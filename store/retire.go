package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// Retiring is a VM to unregister at GitHub, and where it is registered.
type Retiring struct {
	VM     millrace.VM
	Target millrace.RunnerTarget
}

// Retiring finds a VM that is to be unregistered. NotFound when it is gone without a trace.
func (s *Store) Retiring(ctx context.Context, org millrace.OrgID, vm millrace.VMID) (r Retiring, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		r.VM, err = one(ctx, tx, scanVM, `SELECT `+vmColumns+` FROM vms v WHERE (v.org_id, v.vm_id) = ($1, $2)`, org, vm)
		if err != nil {
			return err
		}
		var owner string
		var kind millrace.OwnerType
		err := tx.QueryRow(ctx, `SELECT owner_login, owner_type FROM installations WHERE (org_id, installation_id) = ($1, $2)`,
			org, r.VM.InstallationID).Scan(&owner, &kind)
		r.Target = registersAt(r.VM.InstallationID, owner, kind, r.VM.Repository)
		return err
	})
	return r, err
}

// Unregistered says that GitHub knows the VM's runner no more: only now may the host destroy it, and only now may its job
// have another. A VM that is gone is left as it is. One whose job has not ended as far as we know is retired no longer, unless its
// org was deleted.
func (s *Store) Unregistered(ctx context.Context, org millrace.OrgID, vm millrace.VMID) error {
	return s.retire(ctx, org, vm, func(tx *Tx, b *pgx.Batch, v *millrace.VM, deleted bool) error {
		if v.State == millrace.VMGone || v.State == millrace.VMStopping {
			return nil
		}
		if !v.RanJob.IsZero() && !deleted {
			var ended bool
			err := tx.QueryRow(ctx, `SELECT status = 'completed' FROM jobs WHERE (org_id, job_id) = ($1, $2)`, org, v.RanJob).Scan(&ended)
			if err != nil {
				return err
			}
			if !ended { // to be retired again, for whatever reason there is then
				v.RetireReason, v.Stamps.Changed = "", tx.now
				return nil
			}
		}
		return tx.queueStop(b, v)
	})
}

// queueStop has its host destroy a VM. The caller saves v.
func (tx *Tx) queueStop(b *pgx.Batch, v *millrace.VM) error {
	if err := v.To(millrace.VMStopping, tx.now); err != nil {
		return err
	}
	v.Reason = v.RetireReason
	tx.queueDesired(b, v.OrgID, v.HostID)
	return nil
}

// KeepBusy says that GitHub refused to remove the VM's runner because it runs a job: the VM is busy, whatever we have
// heard, and is left alone for a while. That of a deleted org is ended with its job.
func (s *Store) KeepBusy(ctx context.Context, org millrace.OrgID, vm millrace.VMID) error {
	return s.retire(ctx, org, vm, func(tx *Tx, b *pgx.Batch, v *millrace.VM, deleted bool) error {
		if deleted {
			if v.State == millrace.VMGone || v.State == millrace.VMStopping {
				return nil
			}
			return tx.queueStop(b, v)
		}
		v.RetireReason, v.Stamps.Changed = "", tx.now
		if v.State == millrace.VMPending || v.State == millrace.VMBooting || v.State == millrace.VMOnline {
			return v.To(millrace.VMBusy, tx.now)
		}
		return nil
	})
}

func (s *Store) retire(ctx context.Context, org millrace.OrgID, vm millrace.VMID, change func(tx *Tx, b *pgx.Batch, v *millrace.VM, deleted bool) error) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		v, err := one(ctx, tx, scanVM, `SELECT `+vmColumns+` FROM vms v WHERE (v.org_id, v.vm_id) = ($1, $2) FOR UPDATE`, org, vm)
		if err != nil {
			return err
		}
		var deleted bool
		if err := tx.QueryRow(ctx, `SELECT deleted_at IS NOT NULL FROM orgs WHERE org_id = $1`, org).Scan(&deleted); err != nil {
			return err
		}
		var b pgx.Batch
		if err := change(tx, &b, &v, deleted); err != nil {
			return err
		}
		tx.queueVM(&b, v)
		tx.announceDemand(org)
		return tx.SendBatch(ctx, &b).Close()
	})
}
