package store

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// SetHostAdmin says what is wanted of a host. NotFound: there is none.
func (o Org) SetHostAdmin(ctx context.Context, by millrace.Caller, id millrace.HostID, admin millrace.HostAdmin) error {
	if admin != millrace.HostEnabled && admin != millrace.HostDraining && admin != millrace.HostDisabled {
		return millrace.Errorf(millrace.Unprocessable, "A host can be enabled, draining or disabled, not %.20q.", string(admin))
	}
	return o.changeHost(ctx, by, id, func(tx *Tx, h millrace.Host) error {
		if h.Admin == admin {
			return nil
		}
		// Who enables it calls a reboot off that waits for its VMs.
		var b pgx.Batch
		b.Queue(`UPDATE hosts SET admin = $3, reboot_epoch = 0 WHERE (org_id, host_id) = ($1, $2)`, o.id, id, admin)
		if h.Reboot {
			tx.queueDesired(&b, o.id, id)
		}
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		tx.announceRules(o.id)
		return tx.audit(ctx, o.id, by.Actor, "host.changed", id.String(), millrace.Change{Field: "name", After: h.Name}, millrace.Change{Field: "admin", Before: string(h.Admin), After: string(admin)})
	})
}

// RestartAgent asks a host's agent to start anew; its VMs run on. NotFound: there is no such host.
func (o Org) RestartAgent(ctx context.Context, by millrace.Caller, id millrace.HostID) error {
	return o.changeHost(ctx, by, id, func(tx *Tx, h millrace.Host) error {
		var b pgx.Batch
		b.Queue(`UPDATE hosts SET restart_epoch = epoch WHERE (org_id, host_id) = ($1, $2)`, o.id, id)
		tx.queueDesired(&b, o.id, id)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		return tx.audit(ctx, o.id, by.Actor, "host.restarted", id.String(), millrace.Change{Field: "name", After: h.Name})
	})
}

// RotateKeys asks a host's agent to make new keys; its VMs run on. NotFound: there is no such host.
func (o Org) RotateKeys(ctx context.Context, by millrace.Caller, id millrace.HostID) error {
	return o.changeHost(ctx, by, id, func(tx *Tx, h millrace.Host) error {
		var b pgx.Batch
		b.Queue(`UPDATE hosts SET rotate_epoch = epoch WHERE (org_id, host_id) = ($1, $2)`, o.id, id)
		tx.queueDesired(&b, o.id, id)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		return tx.audit(ctx, o.id, by.Actor, "host.keys_asked", id.String(), millrace.Change{Field: "name", After: h.Name})
	})
}

// RebootHost drains a host, and has its agent reboot the machine once it has no VM; then it takes jobs again, unless it is
// disabled. NotFound: there is no such host. Conflict: its owner doesn't allow that.
func (o Org) RebootHost(ctx context.Context, by millrace.Caller, id millrace.HostID) error {
	return o.changeHost(ctx, by, id, func(tx *Tx, h millrace.Host) error {
		if !h.Facts.Reboots {
			return millrace.Errorf(millrace.Conflict, "The owner of %s doesn't let it be rebooted from afar: its launcher was started without --allow-reboot.", h.Name)
		}
		var b pgx.Batch
		b.Queue(`UPDATE hosts SET reboot_epoch = epoch, admin = CASE admin WHEN 'disabled' THEN admin ELSE 'draining' END WHERE (org_id, host_id) = ($1, $2)`, o.id, id)
		tx.queueDesired(&b, o.id, id)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		tx.announceRules(o.id)
		return tx.audit(ctx, o.id, by.Actor, "host.rebooted", id.String(), millrace.Change{Field: "name", After: h.Name})
	})
}

// RemoveHost takes a host out of the org: its next request is refused, and its agent ends. One that was removed already is no
// error. Conflict: it has VMs, and force is not set; with it their jobs fail. NotFound: there is no such host.
func (o Org) RemoveHost(ctx context.Context, by millrace.Caller, id millrace.HostID, force bool) error {
	err := o.changeHost(ctx, by, id, func(tx *Tx, h millrace.Host) error {
		n, err := tx.removeHost(ctx, o.id, id, force)
		if err != nil {
			return err
		}
		if n > 0 && !force {
			return millrace.Errorf(millrace.Conflict, "There are VMs on %s: %d. Drain it and wait for their jobs, or remove it by force, which fails them.", h.Name, n)
		}
		return tx.audit(ctx, o.id, by.Actor, "host.removed", id.String(), millrace.Change{Field: "name", Before: h.Name}, millrace.Change{Field: "vms", Before: strconv.Itoa(n)})
	})
	if millrace.CodeOf(err) != millrace.NotFound {
		return err
	}
	var was bool
	if _, again := o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		b.Queue(`SELECT EXISTS (SELECT FROM hosts WHERE (org_id, host_id) = ($1, $2))`, o.id, id).QueryRow(func(row pgx.Row) error { return row.Scan(&was) })
	}); again != nil {
		return again
	}
	if was {
		return nil
	}
	return err
}

// removeHost removes a host and has its VMs unregistered and ended; with VMs and without force it changes nothing. It returns
// how many VMs there were.
func (tx *Tx) removeHost(ctx context.Context, org millrace.OrgID, id millrace.HostID, force bool) (int, error) {
	vms, err := many(ctx, tx, scanVM, `
		SELECT `+vmColumns+` FROM vms v WHERE (v.org_id, v.host_id) = ($1, $2) AND v.gone_at IS NULL ORDER BY v.vm_id FOR UPDATE`, org, id)
	if err != nil || len(vms) > 0 && !force {
		return len(vms), err
	}
	const reason = "Its host was removed."
	var b pgx.Batch
	for _, v := range vms {
		if v.State == millrace.VMStopping {
			continue
		}
		if v.RetireReason == "" {
			v.RetireReason = reason
		}
		if v.RunnerID == 0 { // a registration that is being made right now finds the VM unwanted and is undone
			if err := tx.queueStop(&b, &v); err != nil {
				return 0, err
			}
		} else {
			if err := v.To(millrace.VMLost, tx.now); err != nil && v.State != millrace.VMLost {
				return 0, err
			}
			tx.queueTask(&b, org, millrace.RetireVM{OrgID: org, VMID: v.ID})
		}
		v.Reason = reason
		tx.queueVM(&b, v)
	}
	b.Queue(`UPDATE hosts SET removed_at = $3, admin = 'disabled' WHERE (org_id, host_id) = ($1, $2)`, org, id, tx.now)
	tx.announceTo(TopicHost(id))
	tx.announceRules(org)
	return len(vms), tx.SendBatch(ctx, &b).Close()
}

// changeHost lets change work on a host that is locked against placement. by must have the right to change hosts.
func (o Org) changeHost(ctx context.Context, by millrace.Caller, id millrace.HostID, change func(*Tx, millrace.Host) error) error {
	if err := by.Require(millrace.HostsWrite); err != nil {
		return err
	}
	lock := func(_ *Tx, b *pgx.Batch) { // a pass that is under way launches what it has decided
		b.Queue(`SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, o.id)
	}
	return o.store.tx(ctx, o.store.app, o.id, func(tx *Tx) error {
		h, err := one(ctx, tx, scanHost, `SELECT `+hostColumns+hostFrom+` WHERE (h.org_id, h.host_id) = ($1, $2)`, o.id, id)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNoHost
		}
		if err != nil {
			return err
		}
		tx.announceOrg(o.id)
		return change(tx, h)
	}, lock)
}

// RemoveVanished removes the ephemeral hosts that were silent for [millrace.VanishedAfter], of all orgs, and returns how many.
// After an outage of the service it first waits, as [Store.MarkLost] does.
func (s *Store) RemoveVanished(ctx context.Context) (n int, err error) {
	if !s.hearsAll() {
		return 0, nil
	}
	type vanished struct {
		org  millrace.OrgID
		id   millrace.HostID
		name string
	}
	var list []vanished
	err = s.systemTx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (v vanished, err error) {
			return v, row.Scan(&v.org, &v.id, &v.name)
		}, `SELECT h.org_id, h.host_id, h.name`+hostFrom+` WHERE h.ephemeral AND b.seen_at <= $1 ORDER BY h.org_id, h.host_id LIMIT 100`,
			tx.now.Add(-millrace.VanishedAfter))
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, v := range list {
		lock := func(_ *Tx, b *pgx.Batch) {
			b.Queue(`SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, v.org)
		}
		err := s.tx(ctx, s.system, 0, func(tx *Tx) error {
			var still bool
			err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT`+hostFrom+` WHERE (h.org_id, h.host_id) = ($1, $2) AND b.seen_at <= $3)`,
				v.org, v.id, tx.now.Add(-millrace.VanishedAfter)).Scan(&still)
			if err != nil || !still {
				return err
			}
			vms, err := tx.removeHost(ctx, v.org, v.id, true)
			if err != nil {
				return err
			}
			tx.announceOrg(v.org)
			n++
			return tx.audit(ctx, v.org, millrace.Actor{Kind: millrace.ActorSystem}, "host.removed", v.id.String(), millrace.Change{Field: "name", Before: v.name},
				millrace.Change{Field: "reason", After: "It is ephemeral and was silent for " + millrace.VanishedAfter.String() + "."}, millrace.Change{Field: "vms", Before: strconv.Itoa(vms)})
		}, lock)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
