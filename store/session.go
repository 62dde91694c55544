package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

var (
	errLink    = millrace.Errorf(millrace.Unauthenticated, "This sign-in link was used already or has expired. Ask for a new one.")
	errSession = millrace.Errorf(millrace.Unauthenticated, "Please sign in.")
)

// TopicUser is announced when a user's sessions or memberships changed: what shows them something looks whether it may.
func TopicUser(user millrace.UserID) string { return user.String() }

// CreateSignInLink makes the secret of a one-use sign-in link for user.
func (s *Store) CreateSignInLink(ctx context.Context, user millrace.UserID) (millrace.Secret, error) {
	secret, hash := newSecret(millrace.SignInLinkPrefix)
	return secret, s.systemTx(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM sign_in_links WHERE expires_at <= $1`, tx.now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO sign_in_links (hash, user_id, expires_at) VALUES ($1, $2, $3)`,
			hash, user, tx.now.Add(millrace.SignInLinkLength))
		return err
	})
}

// SignIn uses up a sign-in link and returns the secret of a new session. Unauthenticated when the link is unknown, used
// or expired.
func (s *Store) SignIn(ctx context.Context, link string, from millrace.Device) (millrace.Secret, error) {
	linkHash, ok := millrace.HashSecret(millrace.SignInLinkPrefix, link)
	if !ok {
		return "", errLink
	}
	secret, hash := newSecret(millrace.SessionPrefix)
	return secret, s.lookupTx(ctx, func(tx *Tx) error {
		var user *string
		if err := tx.QueryRow(ctx, `SELECT sign_in($1, $2, $3, $4, $5, $6, $7)::text`, linkHash, hash, millrace.NewSessionID(tx.ids, tx.now),
			from.Address, bounded(from.UserAgent), tx.now, tx.now.Add(millrace.SessionLength)).Scan(&user); err != nil {
			return err
		}
		if user == nil {
			return errLink
		}
		return nil
	})
}

// SessionUser is the session with this secret; its device and last use are not read. Unauthenticated when it is unknown,
// expired or idle for too long.
func (s *Store) SessionUser(ctx context.Context, secret string) (session millrace.Session, err error) {
	hash, ok := millrace.HashSecret(millrace.SessionPrefix, secret)
	if !ok {
		return session, errSession
	}
	err = s.lookupTx(ctx, func(tx *Tx) error {
		session, err = one(ctx, tx, func(row pgx.CollectableRow) (s millrace.Session, err error) {
			var confirmed *time.Time
			err = row.Scan(&s.ID, &s.User.ID, &s.User.GitHubID, &s.User.Login, &s.User.Name, &s.CreatedAt, &s.ExpiresAt, &confirmed, &s.Renew)
			s.ConfirmedAt = val(confirmed)
			return s, err
		}, `SELECT session_id, user_id, github_id, login, name, created_at, expires_at, confirmed_at, renew FROM session_at($1, $2, $3, $4)`,
			hash, tx.now, tx.now.Add(-millrace.SessionIdle), tx.now.Add(-millrace.SessionGrace))
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errSession
	}
	return session, err
}

// RenewSession replaces the secret of a session that says Renew. It is "" when another request just did.
func (s *Store) RenewSession(ctx context.Context, secret string) (fresh millrace.Secret, err error) {
	hash, ok := millrace.HashSecret(millrace.SessionPrefix, secret)
	if !ok {
		return "", errSession
	}
	fresh, freshHash := newSecret(millrace.SessionPrefix)
	err = s.lookupTx(ctx, func(tx *Tx) error {
		var renewed bool
		if err := tx.QueryRow(ctx, `SELECT renew_session($1, $2, $3)`, hash, freshHash, tx.now).Scan(&renewed); err != nil {
			return err
		}
		if !renewed {
			fresh = ""
		}
		return nil
	})
	return fresh, err
}

// ConfirmSession notes that the user of a session confirmed just now that it is them.
func (s *Store) ConfirmSession(ctx context.Context, id millrace.SessionID) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE sessions SET confirmed_at = $2 WHERE session_id = $1`, id, tx.now)
		return err
	})
}

// SignOut ends a session; an unknown one is no error.
func (s *Store) SignOut(ctx context.Context, secret string) error {
	hash, ok := millrace.HashSecret(millrace.SessionPrefix, secret)
	if !ok {
		return nil
	}
	return s.lookupTx(ctx, func(tx *Tx) error {
		var user *millrace.UserID
		if err := tx.QueryRow(ctx, `SELECT sign_out($1)`, hash).Scan(&user); err != nil || user == nil {
			return err
		}
		tx.announceTo(TopicUser(*user))
		return nil
	})
}

// Sessions lists a user's sessions that live, the last used first.
func (s *Store) Sessions(ctx context.Context, user millrace.UserID) (list []millrace.Session, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (s millrace.Session, err error) {
			err = row.Scan(&s.ID, &s.Device.Address, &s.Device.UserAgent, &s.CreatedAt, &s.LastUsedAt, &s.ExpiresAt)
			return s, err
		}, `
			SELECT session_id, address, user_agent, created_at, last_used_at, expires_at FROM sessions
			WHERE user_id = $1 AND expires_at > $2 AND last_used_at > $3 ORDER BY last_used_at DESC, session_id`,
			user, tx.now, tx.now.Add(-millrace.SessionIdle))
		return err
	})
	return list, err
}

// EndSession ends one of a user's sessions. NotFound: they have no such session.
func (s *Store) EndSession(ctx context.Context, user millrace.UserID, id millrace.SessionID) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM sessions WHERE user_id = $1 AND session_id = $2`, user, id)
		if err == nil && tag.RowsAffected() == 0 {
			return pgx.ErrNoRows
		}
		tx.announceTo(TopicUser(user))
		return err
	})
}

// EndSessions ends all of a user's sessions.
func (s *Store) EndSessions(ctx context.Context, user millrace.UserID) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		tx.announceTo(TopicUser(user))
		_, err := tx.Exec(ctx, `DELETE FROM sessions WHERE user_id = $1`, user)
		return err
	})
}

// insertSession makes a session of user and returns its secret.
func (tx *Tx) insertSession(ctx context.Context, user millrace.UserID, from millrace.Device) (millrace.Secret, error) {
	secret, hash := newSecret(millrace.SessionPrefix)
	_, err := tx.Exec(ctx, `
		INSERT INTO sessions (hash, user_id, session_id, address, user_agent, created_at, last_used_at, expires_at, renew)
		VALUES ($1, $2, $3, $4, $5, $6, $6, $7, false)`,
		hash, user, millrace.NewSessionID(tx.ids, tx.now), from.Address, bounded(from.UserAgent), tx.now, tx.now.Add(millrace.SessionLength))
	return secret, err
}

// newSecret makes a secret and the hash that is stored of it.
func newSecret(prefix string) (millrace.Secret, []byte) {
	secret := millrace.NewSecret(prefix, nil)
	hash, _ := millrace.HashSecret(prefix, secret.Reveal())
	return secret, hash
}
