package store

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-ci/millrace"
)

// JITGrant is the leave to register a VM's runner, and all that is needed for it.
type JITGrant struct {
	VM     millrace.VM
	At     time.Time // when it was asked for, which an agent does as soon as the VM boots
	Target millrace.RunnerTarget
	Sealed []byte // not nil: it was registered already; this is the sealed configuration
}

var errUnwanted = millrace.Errorf(millrace.Gone, "This VM is not wanted any more.")

// JITView is a host that asks for a VM's registration.
type JITView struct {
	HostCredentials
	grant JITGrant
	found bool // the VM is the host's
	owner string
	kind  millrace.OwnerType
}

// ViewJIT finds a host by its ID alone, and what there is to say of a VM's registration. NotFound when there is no such host.
func (s *Store) ViewJIT(ctx context.Context, host millrace.HostID, vm millrace.VMID) (JITView, error) {
	org, err := s.orgOfHost(ctx, host)
	if err != nil {
		return JITView{}, err
	}
	return s.Org(org).viewJIT(ctx, host, vm)
}

func (o Org) viewJIT(ctx context.Context, host millrace.HostID, vm millrace.VMID) (v JITView, err error) {
	v.grant.At, err = o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		v.queueCredentials(b, o.id, host)
		b.Queue(`
			SELECT `+vmColumns+`, v.jit_sealed, i.owner_login, i.owner_type
			FROM vms v JOIN installations i ON (i.org_id, i.installation_id) = (v.org_id, v.installation_id)
			WHERE (v.org_id, v.vm_id, v.host_id) = ($1, $2, $3)`, o.id, vm, host).Query(func(rows pgx.Rows) error {
			if v.found = rows.Next(); !v.found {
				return nil
			}
			return rows.Scan(append(vmTargets(&v.grant.VM), &v.grant.Sealed, &v.owner, (*string)(&v.kind))...)
		})
	})
	return v, err
}

// Begin grants the registration of a VM that is wanted and not yet online. NotFound when the VM is not the host's, Gone when it isn't
// wanted any more, Conflict when it has its registration and the sealed copy was deleted because the runner came online.
func (v JITView) Begin(epoch int64) (JITGrant, error) {
	g := v.grant
	if !v.found {
		return g, errNoVM
	}
	if err := wanted(g.VM, epoch); err != nil {
		return g, err
	}
	if g.Sealed == nil && g.VM.RunnerID != 0 {
		return g, millrace.Errorf(millrace.Conflict, "The VM's runner was online already.")
	}
	g.Target = registersAt(g.VM.InstallationID, v.owner, v.kind, g.VM.Repository)
	return g, nil
}

// BeginJIT is [JITView.Begin] of what there is to say now.
func (o Org) BeginJIT(ctx context.Context, host millrace.HostID, vm millrace.VMID, epoch int64) (JITGrant, error) {
	v, err := o.viewJIT(ctx, host, vm)
	if err != nil {
		return v.grant, err
	}
	return v.Begin(epoch)
}

// wanted is an error unless the VM may still be registered.
func wanted(v millrace.VM, epoch int64) error {
	switch {
	case v.Epoch != epoch, v.RetireReason != "":
		return errUnwanted
	case v.State == millrace.VMPending, v.State == millrace.VMBooting, v.State == millrace.VMLost:
		return nil
	case v.State == millrace.VMOnline, v.State == millrace.VMBusy:
		return millrace.Errorf(millrace.Conflict, "The VM's runner was online already.")
	default:
		return errUnwanted
	}
}

// registersAt is where runners for a repository register: at the organisation, or at the repository of a personal
// account, which has no organisation.
func registersAt(installation int64, owner string, kind millrace.OwnerType, repository string) millrace.RunnerTarget {
	t := millrace.RunnerTarget{InstallationID: installation, Owner: owner}
	if kind != millrace.Organization {
		t.Owner, t.Repository, _ = strings.Cut(repository, "/")
	}
	return t
}

// SaveJIT keeps the registration that was granted: GitHub's runner id, and the configuration sealed to the host until the runner
// is online. It notes that the VM boots, since it was asked for, unless a report was first. Gone when the VM became unwanted
// meanwhile, or got another registration than the one that the caller removed for this, which is g.VM.RunnerID: the caller must
// remove this one, too.
func (o Org) SaveJIT(ctx context.Context, g JITGrant, runnerID int64, sealed []byte) error {
	saved := false
	_, err := o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		b.Queue(`
			UPDATE vms SET runner_id = $4, jit_sealed = $5, changed_at = coalesce($6, transaction_timestamp()),
				state = CASE state WHEN 'pending' THEN 'booting' ELSE state END, booting_at = coalesce(booting_at, greatest($7, placed_at))
			WHERE (org_id, vm_id, epoch) = ($1, $2, $3) AND runner_id IN (0, $8) AND retire_reason = '' AND state IN ('pending', 'booting', 'lost') -- wanted`,
			o.id, g.VM.ID, g.VM.Epoch, runnerID, sealed, o.store.at(), g.At, g.VM.RunnerID).Exec(func(tag pgconn.CommandTag) error {
			saved = tag.RowsAffected() > 0
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case saved:
		o.store.announce([]string{TopicOrg(o.id)})
		return nil
	}
	row, err := o.VM(ctx, g.VM.ID)
	if err != nil {
		return err
	}
	return cmp.Or(wanted(row.VM, g.VM.Epoch), error(errUnwanted))
}
