package store

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

var errEnrollment = millrace.Errorf(millrace.Unauthenticated, "The enrollment token is missing or unknown. Make a new one on the hosts page.")

// Enrollment is a machine that would be a host.
type Enrollment struct {
	Secret           string // the enrollment token
	Name             string
	SignKey, SealKey []byte
	Facts            millrace.HostFacts
}

// EnrollHost turns an enrollment token into a host of the token's org. The secret tells which org: the lookup runs before
// the tenant is known, everything after it inside the tenant. A machine that asks again with the same key, for the answer
// got lost, is the host that it is. Invalid: the token is mistyped. Unauthenticated: there is none, or it has expired or was
// revoked. Conflict: it is used up, or the name or key is another host's. Forbidden: it may not be used from there, or not for these labels. LimitReached: too
// many unknown ones came from its address.
func (s *Store) EnrollHost(ctx context.Context, from millrace.Actor, e Enrollment) (host millrace.Host, slug string, err error) {
	hash, ok := millrace.HashSecret(millrace.EnrollmentTokenPrefix, e.Secret)
	if !ok && strings.HasPrefix(e.Secret, millrace.EnrollmentTokenPrefix) {
		return host, "", millrace.Errorf(millrace.Invalid, "The enrollment token is mistyped or cut off: its check digits don't fit.")
	}
	if !ok {
		return host, "", errEnrollment
	}
	subject := "enroll " + from.Address
	err = s.systemTx(ctx, func(tx *Tx) error {
		n, err := tx.guesses(ctx, subject)
		if err == nil && n >= millrace.EnrollmentGuesses {
			return millrace.Errorf(millrace.LimitReached, "Too many unknown enrollment tokens came from this address. Wait ten minutes.")
		}
		return err
	})
	if err != nil {
		return host, "", err
	}
	unknown := false
	var refused error // not an error of the transaction: the attempt is noted
	err = s.lookupTx(ctx, func(tx *Tx) error {
		org, err := tx.orgOf(ctx, `SELECT org_of_enrollment_token($1)`, hash)
		if errors.Is(err, pgx.ErrNoRows) {
			unknown = true
			return errEnrollment
		}
		if err != nil {
			return err
		}
		from.Kind, from.Name = millrace.ActorHost, e.Name
		if err := tx.QueryRow(ctx, `SELECT slug FROM orgs WHERE org_id = $1`, org).Scan(&slug); err != nil {
			return err
		}
		token, err := one(ctx, tx, endedEnrollmentToken, `SELECT `+enrollmentColumns+`, revoked_at FROM enrollment_tokens WHERE hash = $1 FOR UPDATE`, hash)
		if err != nil {
			return err
		}
		host, err = one(ctx, tx, scanHost, `SELECT `+hostColumns+hostFrom+` WHERE (h.org_id, h.sign_key, h.token_id) = ($1, $2, $3)`, org, e.SignKey, token.ID)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err // nil: it is the host that it is
		}
		if refused = usable(token, from.Address, e.Facts.Labels, tx.now); refused != nil {
			tx.announceOrg(org) // the token's own, and nobody's for a token that isn't known
			return tx.audit(ctx, org, from, "enrollment_token.refused", token.ID.String(), millrace.Change{Field: "reason", After: millrace.MessageOf(refused)})
		}
		labels := e.Facts.Labels
		if token.Labels != nil {
			labels = token.Labels
		}
		id, f := millrace.NewHostID(tx.ids, tx.now), e.Facts
		var b pgx.Batch
		b.Queue(`UPDATE enrollment_tokens SET uses_left = uses_left - 1 WHERE (org_id, token_id) = ($1, $2)`, org, token.ID)
		b.Queue(`
			INSERT INTO hosts (org_id, host_id, name, arch, vcpus, memory_mb, disk_mb, offer_cpu, offer_memory, labels, driver, version,
				kernel, cpu_model, boot_ms, admin, sign_key, seal_key, epoch, desired_version, created_at, token_id, fixed_labels, ephemeral, emulates, findings, network, max_vms, reboots)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 1, 1, $19, $20, $21, $22, $23, $24, $25, $26, $27)`,
			org, id, e.Name, f.Arch, f.VCPUs, f.MemoryMB, f.DiskMB, f.Offer.MilliCPU, f.Offer.MemoryMB, notNil(labels),
			f.Driver, f.Version, f.Kernel, f.CPUModel, f.BootMS, millrace.HostEnabled, e.SignKey, e.SealKey, tx.now, token.ID, token.Labels, token.Ephemeral, notNil(f.Emulates), notNil(f.Findings),
			cmp.Or(f.Network, millrace.NetworkUnknown), f.MaxVMs, f.Reboots)
		b.Queue(`INSERT INTO host_beats (org_id, host_id, seen_at, epoch, sequence) VALUES ($1, $2, $3, 1, 0)`, org, id, tx.now)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		from.ID = id.String()
		if err := tx.audit(ctx, org, from, "host.enrolled", id.String(), millrace.Change{Field: "name", After: e.Name}, millrace.Change{Field: "token", After: token.ID.String()}); err != nil {
			return err
		}
		if host, err = one(ctx, tx, scanHost, `SELECT `+hostColumns+hostFrom+` WHERE (h.org_id, h.host_id) = ($1, $2)`, org, id); err != nil {
			return err
		}
		tx.announceDemand(org)
		tx.announceOrg(org)
		return nil
	})
	if unknown {
		return host, "", errors.Join(errEnrollment, s.systemTx(ctx, func(tx *Tx) error {
			_, err := tx.wrong(ctx, subject)
			return err
		}))
	}
	if err == nil {
		err = refused
	}
	return host, slug, err
}

// usable says why a token can't enroll a host that asks from an address for labels.
func usable(t millrace.EnrollmentToken, address string, labels []string, now time.Time) error {
	const anew = "Make a new one on the hosts page."
	at, err := netip.ParseAddr(address)
	switch {
	case !t.RevokedAt.IsZero():
		return millrace.Errorf(millrace.Unauthenticated, "The enrollment token was revoked. %s", anew)
	case !t.ExpiresAt.After(now):
		return millrace.Errorf(millrace.TokenExpired, "The enrollment token expired at %s. %s", t.ExpiresAt.UTC().Format(time.RFC3339), anew)
	case t.UsesLeft <= 0:
		return millrace.Errorf(millrace.Conflict, "The enrollment token is used up by another machine. %s", anew)
	case t.CIDR.IsValid() && (err != nil || !t.CIDR.Contains(at.Unmap().WithZone(""))):
		return millrace.Errorf(millrace.Forbidden, "The enrollment token can't be used from %s, but from %s alone.", address, t.CIDR)
	}
	for _, l := range labels {
		if t.Labels != nil && !slices.ContainsFunc(t.Labels, func(has string) bool { return strings.EqualFold(has, l) }) {
			return millrace.Errorf(millrace.Forbidden, "The enrollment token gives its hosts the labels %s, and not %s.", strings.Join(t.Labels, ", "), l)
		}
	}
	return nil
}

// RevokeLeaked ends an enrollment token that was where others can read it, such as in an address.
func (s *Store) RevokeLeaked(ctx context.Context, from millrace.Actor, secret string) error {
	hash, ok := millrace.HashSecret(millrace.EnrollmentTokenPrefix, secret)
	if !ok {
		return nil
	}
	err := s.lookupTx(ctx, func(tx *Tx) error {
		org, err := tx.orgOf(ctx, `SELECT org_of_enrollment_token($1)`, hash)
		if err != nil {
			return err
		}
		var id millrace.EnrollmentTokenID
		err = tx.QueryRow(ctx, `UPDATE enrollment_tokens SET revoked_at = $2 WHERE hash = $1 AND revoked_at IS NULL RETURNING token_id`, hash, tx.now).Scan(&id)
		if err != nil {
			return err
		}
		from.Kind = millrace.ActorSystem
		tx.announceOrg(org)
		return tx.audit(ctx, org, from, "enrollment_token.revoked", id.String(), millrace.Change{Field: "reason", After: "It was sent in an address."})
	})
	if millrace.CodeOf(err) == millrace.NotFound { // unknown, or it ended already
		return nil
	}
	return err
}
