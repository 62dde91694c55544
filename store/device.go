package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

var (
	errDeviceCode = millrace.Errorf(millrace.NotFound, "No program waits with this code. It works for ten minutes and once; compare it with what the program shows.")
	errDeviceGone = millrace.Errorf(millrace.Gone, "This sign-in has expired. Begin again.")
)

const deviceColumns = `user_code, client, scopes, address, user_agent, created_at, expires_at`

func scanDevice(row pgx.CollectableRow, more ...any) (d millrace.DeviceAuthorization, err error) {
	return d, row.Scan(append([]any{&d.UserCode, &d.Client, &d.Scopes, &d.Device.Address, &d.Device.UserAgent, &d.CreatedAt, &d.ExpiresAt}, more...)...)
}

// CreateDeviceAuthorization begins the sign-in of a program; the secret is its device code. Unprocessable: a name or a scope
// that can't be. LimitReached: too many wait from its address.
func (s *Store) CreateDeviceAuthorization(ctx context.Context, client string, scopes []millrace.Permission, from millrace.Device) (d millrace.DeviceAuthorization, secret millrace.Secret, err error) {
	if err := millrace.CheckName(client); err != nil {
		return d, "", err
	}
	if err := millrace.CheckScopes(scopes); err != nil {
		return d, "", err
	}
	secret, hash := newSecret(millrace.DeviceCodePrefix)
	err = s.systemTx(ctx, func(tx *Tx) error {
		d = millrace.DeviceAuthorization{
			UserCode: millrace.NewUserCode(nil), Client: client, Scopes: scopes, Device: millrace.Device{Address: from.Address, UserAgent: bounded(from.UserAgent)},
			CreatedAt: tx.now, ExpiresAt: tx.now.Add(millrace.DeviceLength),
		}
		// One that expired is kept for as long again, so that its program is told so.
		if _, err := tx.Exec(ctx, `DELETE FROM device_authorizations WHERE expires_at < $1`, tx.now.Add(-millrace.DeviceLength)); err != nil {
			return err
		}
		var waiting int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM device_authorizations WHERE address = $1 AND expires_at > $2 AND decided_at IS NULL`, from.Address, tx.now).Scan(&waiting); err != nil {
			return err
		}
		if waiting >= millrace.DevicesWaiting {
			return millrace.Errorf(millrace.LimitReached, "%d sign-ins from this address wait already. Finish one, or wait ten minutes.", waiting)
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO device_authorizations (hash, `+deviceColumns+`, polled_at, wait_seconds) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL, $9)`,
			hash, d.UserCode, d.Client, d.Scopes, d.Device.Address, d.Device.UserAgent, d.CreatedAt, d.ExpiresAt, int(millrace.DeviceInterval/time.Second))
		return err
	})
	return d, secret, err
}

// DeviceAuthorization is the sign-in that waits with the code that user typed; from then on nobody else may decide on it.
// NotFound: there is none. LimitReached: user has typed too many that were none.
func (s *Store) DeviceAuthorization(ctx context.Context, user millrace.UserID, userCode string) (d millrace.DeviceAuthorization, err error) {
	code, _ := millrace.ParseUserCode(userCode)
	var refused error // not an error of the transaction: the guess must be kept
	err = s.systemTx(ctx, func(tx *Tx) error {
		subject := "device " + user.String()
		wrong, err := tx.wrong(ctx, subject)
		if err != nil {
			return err
		}
		if wrong > millrace.DeviceGuesses {
			refused = millrace.Errorf(millrace.LimitReached, "You have typed %d codes that were none. Wait ten minutes.", millrace.DeviceGuesses)
			return nil
		}
		found, err := one(ctx, tx, func(row pgx.CollectableRow) (millrace.DeviceAuthorization, error) { return scanDevice(row) }, `
			UPDATE device_authorizations SET user_id = $2
			WHERE user_code = $1 AND expires_at > $3 AND decided_at IS NULL AND coalesce(user_id, $2) = $2 RETURNING `+deviceColumns, code, user, tx.now)
		if errors.Is(err, pgx.ErrNoRows) {
			refused = errDeviceCode
			return nil
		}
		if err != nil {
			return err
		}
		d = found
		return tx.right(ctx, subject)
	})
	if err == nil {
		err = refused
	}
	return d, err
}

// DecideDevice lets the program with this code, which user typed, have a token for one of user's orgs that lives for so many
// days; the zero org refuses it. NotFound: there is no such sign-in of theirs, or it was decided already.
func (s *Store) DecideDevice(ctx context.Context, user millrace.UserID, userCode string, org millrace.OrgID, days int) error {
	if org != 0 && (days < 1 || days > millrace.MaxTokenDays) {
		return millrace.Errorf(millrace.Unprocessable, "A token lives for 1 to %d days, not %d.", millrace.MaxTokenDays, days)
	}
	code, _ := millrace.ParseUserCode(userCode)
	return s.systemTx(ctx, func(tx *Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE device_authorizations SET decided_at = $3, for_org = nullif($4::bigint, 0), days = $5
			WHERE user_code = $1 AND user_id = $2 AND expires_at > $3 AND decided_at IS NULL`, code, user, tx.now, org, days)
		if err == nil && tag.RowsAffected() == 0 {
			return errDeviceCode
		}
		return err
	})
}

// RedeemDevice is the API token that a program with this device code was let have, once, and for which org. It has those of
// the scopes that the person has now. Conflict: nobody has decided yet. LimitReached: it asked too soon, and is to wait for
// longer from now on (RFC 8628 §3.5). Forbidden: it was refused. Gone: the code has expired. Invalid: there is none.
func (s *Store) RedeemDevice(ctx context.Context, deviceCode string, from millrace.Device, requestID string) (token millrace.APIToken, org millrace.Membership, secret millrace.Secret, err error) {
	unknown := millrace.Errorf(millrace.Invalid, "There is no such device code.")
	hash, ok := millrace.HashSecret(millrace.DeviceCodePrefix, deviceCode)
	if !ok {
		return token, org, "", unknown
	}
	var d millrace.DeviceAuthorization
	var user *millrace.UserID
	var login *string
	var id *millrace.OrgID
	var days int
	var refused error // not an error of the transaction: that it asked must be kept
	err = s.systemTx(ctx, func(tx *Tx) error {
		var polled, decided *time.Time
		var wait int
		found, err := one(ctx, tx, func(row pgx.CollectableRow) (millrace.DeviceAuthorization, error) {
			return scanDevice(row, &polled, &wait, &user, &login, &decided, &id, &days)
		}, `
			SELECT `+deviceColumns+`, polled_at, wait_seconds, user_id, (SELECT u.login FROM users u WHERE u.user_id = d.user_id), decided_at, for_org, days
			FROM device_authorizations d WHERE hash = $1 FOR NO KEY UPDATE`, hash)
		if errors.Is(err, pgx.ErrNoRows) {
			refused = unknown
			return nil
		}
		if err != nil {
			return err
		}
		d = found
		switch {
		case !d.ExpiresAt.After(tx.now):
			refused = errDeviceGone
			return nil
		case decided != nil:
			if id == nil {
				refused = millrace.Errorf(millrace.Forbidden, "The sign-in was refused.")
			}
			_, err = tx.Exec(ctx, `DELETE FROM device_authorizations WHERE hash = $1`, hash)
			return err
		case tx.now.Sub(val(polled)) < time.Duration(wait)*time.Second:
			wait += int(millrace.DeviceInterval / time.Second)
			refused = millrace.Errorf(millrace.LimitReached, "Asked too soon. Wait %d seconds from now on.", wait)
		default:
			refused = millrace.Errorf(millrace.Conflict, "Nobody has decided yet.")
		}
		_, err = tx.Exec(ctx, `UPDATE device_authorizations SET polled_at = $2, wait_seconds = $3 WHERE hash = $1`, hash, tx.now, wait)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return token, org, "", err
	}
	orgs, err := s.Memberships(ctx, *user)
	if err != nil {
		return token, org, "", err
	}
	i := slices.IndexFunc(orgs, func(m millrace.Membership) bool { return m.OrgID == *id })
	if i < 0 {
		return token, org, "", millrace.Errorf(millrace.Forbidden, "Who agreed is no member of the org any more.")
	}
	org = orgs[i]
	by := millrace.Caller{
		Actor:  millrace.Actor{Kind: millrace.ActorUser, ID: user.String(), Name: *login, Address: from.Address, RequestID: requestID},
		UserID: *user, Role: org.Role,
	}
	token, secret, err = s.Org(org.OrgID).CreateAPIToken(ctx, by, millrace.NewAPIToken{Name: d.Client, Scopes: by.Allowed(d.Scopes), Days: days})
	token.Login = *login
	return token, org, secret, err
}
