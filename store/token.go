package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

var errToken = millrace.Errorf(millrace.Unauthenticated, "The API token is missing or not valid.")

// CreateAPIToken makes an API token with which a program acts as user, a member of the org. Its secret is shown once.
func (o Org) CreateAPIToken(ctx context.Context, actor millrace.Actor, user millrace.UserID, name string) (millrace.Secret, error) {
	secret, hash := newSecret(millrace.APITokenPrefix)
	return secret, o.tx(ctx, func(tx *Tx) error {
		id := millrace.NewAPITokenID(tx.ids, tx.now)
		_, err := tx.Exec(ctx, `
			INSERT INTO api_tokens (org_id, token_id, user_id, name, hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			o.id, id, user, name, hash, tx.now)
		if err != nil {
			return err
		}
		return tx.audit(ctx, o.id, actor, "api_token.created", id.String())
	})
}

// TokenAuth is the API token with this secret. Unauthenticated when it is malformed, unknown, expired or revoked, or its
// user is a member no more; the same error for each.
func (s *Store) TokenAuth(ctx context.Context, secret string) (token millrace.APIToken, err error) {
	hash, ok := millrace.HashSecret(millrace.APITokenPrefix, secret)
	if !ok {
		return token, errToken
	}
	err = s.lookupTx(ctx, func(tx *Tx) error {
		if _, err := tx.orgOf(ctx, `SELECT org_of_api_token($1)`, hash); err != nil {
			return err
		}
		token, err = one(ctx, tx, func(row pgx.CollectableRow) (t millrace.APIToken, err error) {
			var expires *time.Time
			err = row.Scan(&t.OrgID, &t.ID, &t.UserID, &t.Name, &t.Role, &t.CreatedAt, &expires)
			t.ExpiresAt = val(expires)
			return t, err
		}, `
			SELECT t.org_id, t.token_id, t.user_id, t.name, m.role, t.created_at, t.expires_at
			FROM api_tokens t JOIN memberships m ON (m.org_id, m.user_id) = (t.org_id, t.user_id)
			WHERE t.hash = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)`, hash, tx.now)
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errToken
	}
	return token, err
}

// CreateEnrollmentToken makes a token that turns machines into hosts of the org, uses times, for the given time.
func (o Org) CreateEnrollmentToken(ctx context.Context, actor millrace.Actor, uses int, life time.Duration) (millrace.Secret, error) {
	secret, hash := newSecret(millrace.EnrollmentTokenPrefix)
	return secret, o.tx(ctx, func(tx *Tx) error {
		id := millrace.NewEnrollmentTokenID(tx.ids, tx.now)
		_, err := tx.Exec(ctx, `
			INSERT INTO enrollment_tokens (org_id, token_id, hash, uses_left, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			o.id, id, hash, uses, tx.now, tx.now.Add(life))
		if err != nil {
			return err
		}
		return tx.audit(ctx, o.id, actor, "enrollment_token.created", id.String())
	})
}
