package store

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-ci/millrace"
)

// ErrHostRemoved is what a host that was removed is answered.
var ErrHostRemoved = millrace.Errorf(millrace.HostRemoved, "This host was removed from its org. Enroll the machine anew to use it again.")

// HostCredentials are what a host's request is checked against.
type HostCredentials struct {
	OrgID    millrace.OrgID
	HostID   millrace.HostID
	SignKey  []byte
	SealKey  []byte
	Epoch    int64
	Sequence int64 // the highest that was stored of this epoch
	Removed  bool
}

// HostCredentials finds a host by its ID alone. NotFound when there is none.
func (s *Store) HostCredentials(ctx context.Context, id millrace.HostID) (c HostCredentials, err error) {
	org, err := s.orgOfHost(ctx, id)
	if err != nil {
		return c, err
	}
	_, err = s.roundTrip(ctx, s.app, org, func(b *pgx.Batch) { c.queueCredentials(b, org, id) })
	return c, err
}

func (c *HostCredentials) queueCredentials(b *pgx.Batch, org millrace.OrgID, id millrace.HostID) {
	b.Queue(`SELECT `+credentialColumns+credentialsFrom, org, id).QueryRow(func(row pgx.Row) error { return row.Scan(c.targets()...) })
}

const (
	credentialColumns = `h.org_id, h.host_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.removed_at IS NOT NULL`
	credentialsFrom   = ` FROM hosts h JOIN host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id) WHERE (h.org_id, h.host_id) = ($1, $2)`
)

func (c *HostCredentials) targets() []any {
	return []any{&c.OrgID, &c.HostID, &c.SignKey, &c.SealKey, &c.Epoch, &c.Sequence, &c.Removed}
}

// orgOfHost finds a host's org, which never changes: it is looked up across tenants once.
func (s *Store) orgOfHost(ctx context.Context, id millrace.HostID) (org millrace.OrgID, err error) {
	if known, ok := s.hostOrgs.Load(id); ok {
		return known.(millrace.OrgID), nil
	}
	_, err = s.roundTrip(ctx, s.app, 0, func(b *pgx.Batch) {
		b.Queue(`SELECT org_id FROM host_credentials($1)`, id).QueryRow(func(row pgx.Row) error { return row.Scan(&org) })
	})
	if err == nil {
		s.hostOrgs.Store(id, org)
	}
	return org, err
}

// UseFirst uses the sequence number of a request in epoch 0 up, in all servers and for good: such numbers grow. Unauthenticated: it
// was used, or a higher one.
func (o Org) UseFirst(ctx context.Context, id millrace.HostID, sequence int64) error {
	fresh := false
	_, err := o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		b.Queue(`UPDATE hosts SET first_sequence = $3 WHERE (org_id, host_id) = ($1, $2) AND first_sequence < $3`, o.id, id, sequence).Exec(func(tag pgconn.CommandTag) error {
			fresh = tag.RowsAffected() > 0
			return nil
		})
	})
	if err == nil && !fresh {
		return ErrReplayed
	}
	return err
}

// ErrReplayed is what a request is answered that was made before.
var ErrReplayed = millrace.Errorf(millrace.Unauthenticated, "The request was sent before: its sequence number is used up.")

// SetHostKeys replaces a host's keys by those that it made: from then on the former ones are worth nothing. Once more the same
// changes nothing. Conflict: another host has such a key, the present one is no longer what signed this, or it is a second machine
// with the host's key that says so, see [Org.Cloned]. Forbidden: nobody asked for new ones. from says where the request came from.
func (o Org) SetHostKeys(ctx context.Context, from millrace.Actor, c HostCredentials, bootID string, sign, seal []byte) error {
	id := c.HostID
	return o.tx(ctx, func(tx *Tx) error {
		var name, cloned string
		var was, sealed []byte
		var d Desired
		err := tx.QueryRow(ctx, `SELECT h.name, h.cloned_boot, h.sign_key, h.seal_key, `+desiredColumns+` FROM hosts h WHERE (h.org_id, h.host_id) = ($1, $2) AND h.removed_at IS NULL FOR NO KEY UPDATE`, o.id, id).
			Scan(append([]any{&name, &cloned, &was, &sealed}, d.targets()...)...)
		switch {
		case err != nil:
			return err
		case cloned != "" && cloned == bootID:
			return errCloned
		case bytes.Equal(was, sign) && bytes.Equal(sealed, seal):
			return nil
		case !d.KeysDue(tx.now):
			return millrace.Errorf(millrace.Forbidden, "Nobody asked this host for new keys.")
		case !bytes.Equal(was, c.SignKey):
			return millrace.Errorf(millrace.Conflict, "The host has other keys meanwhile.")
		}
		if _, err := tx.Exec(ctx, `UPDATE hosts SET sign_key = $3, seal_key = $4, keys_at = $5, rotate_epoch = 0 WHERE (org_id, host_id) = ($1, $2)`, o.id, id, sign, seal, tx.now); err != nil {
			return err
		}
		tx.announceOrg(o.id)
		from.Kind, from.ID, from.Name = millrace.ActorHost, id.String(), name
		return tx.audit(ctx, o.id, from, "host.keys_rotated", id.String(), millrace.Change{Field: "name", After: name})
	})
}

var errCloned = millrace.Errorf(millrace.Conflict, "Another machine has this host's key and was there first: the disk was copied after enrollment. Remove identity.json and the VMs from the copy's directory and enroll it anew.")

// stale is how long a request of an ended agent may still be under way.
const stale = 5 * time.Second

// Cloned is told of a request of an earlier epoch than the host's present one, rightly signed. An agent that started anew says
// nothing in its old epoch; one that does runs beside the new one, and on another machine when their boots differ: somebody copied
// the disk. The one that came second is refused from then on, and both must start anew.
func (o Org) Cloned(ctx context.Context, id millrace.HostID, epoch int64) error {
	return o.tx(ctx, func(tx *Tx) error {
		var name string
		err := tx.QueryRow(ctx, `
			UPDATE hosts SET cloned_boot = boot_id, boot_id = former_boot, former_boot = '', cloned_at = $4, doubted_until = NULL, epoch = epoch + 1
			WHERE (org_id, host_id) = ($1, $2) AND epoch = $3 + 1 AND former_boot <> '' AND boot_id <> '' AND former_boot <> boot_id AND started_at <= $5
			RETURNING name`, o.id, id, epoch, tx.now, tx.now.Add(-stale)).Scan(&name)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.cloned(ctx, o.id, id, name)
	})
}

// cloned tells that a second machine was found to have a host's key.
func (tx *Tx) cloned(ctx context.Context, org millrace.OrgID, id millrace.HostID, name string) error {
	tx.announceOrg(org)
	return tx.audit(ctx, org, millrace.Actor{Kind: millrace.ActorSystem}, "host.cloned", id.String(), millrace.Change{Field: "name", After: name})
}
