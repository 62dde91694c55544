package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// saveUser inserts or updates a user by GitHub's id and sets u.ID.
func (tx *Tx) saveUser(ctx context.Context, u *millrace.User) error {
	return tx.QueryRow(ctx, `
		INSERT INTO users (user_id, github_id, login, name, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT ON CONSTRAINT users_github_id_key DO UPDATE SET login = excluded.login, name = excluded.name
		RETURNING user_id`, millrace.NewUserID(tx.ids, tx.now), u.GitHubID, u.Login, u.Name, tx.now).Scan(&u.ID)
}

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
func (s *Store) SignIn(ctx context.Context, link string) (millrace.Secret, error) {
	linkHash, ok := millrace.HashSecret(millrace.SignInLinkPrefix, link)
	if !ok {
		return "", errLink
	}
	secret, hash := newSecret(millrace.SessionPrefix)
	return secret, s.lookupTx(ctx, func(tx *Tx) error {
		var user *string
		if err := tx.QueryRow(ctx, `SELECT sign_in($1, $2, $3, $4)::text`, linkHash, hash, tx.now, tx.now.Add(millrace.SessionLength)).Scan(&user); err != nil {
			return err
		}
		if user == nil {
			return errLink
		}
		return nil
	})
}

// SignInPerson signs in whoever GitHub says that this is, and returns the secret of a new session. Who they are is GitHub's
// id: a person who was renamed stays who they are, and whoever takes their old name is somebody else. They become a member
// of each org with an installation that they may see, as admin or member as they are there, and leave those that GitHub no
// longer shows them; a role that somebody here gave them stays.
func (s *Store) SignInPerson(ctx context.Context, p millrace.GitHubPerson) (millrace.Secret, error) {
	secret, hash := newSecret(millrace.SessionPrefix)
	return secret, s.systemTx(ctx, func(tx *Tx) error {
		user := p.User
		if err := tx.saveUser(ctx, &user); err != nil {
			return err
		}
		if err := tx.followGitHub(ctx, user.ID, p.Installations); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO sessions (hash, user_id, created_at, last_used_at, expires_at) VALUES ($1, $2, $3, $3, $4)`,
			hash, user.ID, tx.now, tx.now.Add(millrace.SessionLength))
		return err
	})
}

// followGitHub brings a user's memberships to what GitHub says.
func (tx *Tx) followGitHub(ctx context.Context, user millrace.UserID, installations []millrace.PersonInstallation) error {
	ids, admin := make([]int64, len(installations)), make([]bool, len(installations))
	for i, at := range installations {
		ids[i], admin[i] = at.ID, at.Admin
	}
	type change struct {
		org    millrace.OrgID
		action string
	}
	changes, err := many(ctx, tx, func(row pgx.CollectableRow) (c change, err error) {
		err = row.Scan(&c.org, &c.action)
		return c, err
	}, `
		WITH seen AS (
			SELECT i.org_id, bool_or(p.admin) AS admin
			FROM unnest($2::bigint[], $3::boolean[]) AS p (installation_id, admin) JOIN installations i ON i.installation_id = p.installation_id
			GROUP BY i.org_id
		), ended AS (
			DELETE FROM memberships m WHERE m.user_id = $1 AND m.from_github AND m.org_id NOT IN (SELECT org_id FROM seen) RETURNING m.org_id
		), kept AS (
			INSERT INTO memberships (org_id, user_id, role, created_at, from_github)
			SELECT org_id, $1, CASE WHEN admin THEN 'admin' ELSE 'member' END, $4, true FROM seen ORDER BY org_id
			ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE SET role = excluded.role
			WHERE memberships.from_github AND memberships.role <> excluded.role
			RETURNING org_id, xmax = 0 AS new -- which only an inserted row has
		)
		SELECT org_id, 'member.left' FROM ended
		UNION ALL SELECT org_id, CASE WHEN new THEN 'member.joined' ELSE 'member.role_changed' END FROM kept
		ORDER BY 1`, user, ids, admin, tx.now)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := tx.audit(ctx, c.org, millrace.Actor{Kind: millrace.ActorSystem}, c.action, user.String()); err != nil {
			return err
		}
	}
	return nil
}

var (
	errLink    = millrace.Errorf(millrace.Unauthenticated, "This sign-in link was used already or has expired. Ask for a new one.")
	errSession = millrace.Errorf(millrace.Unauthenticated, "Please sign in.")
)

// SessionUser is the session with this secret. Unauthenticated when it is unknown, expired or idle for too long.
func (s *Store) SessionUser(ctx context.Context, secret string) (session millrace.Session, err error) {
	hash, ok := millrace.HashSecret(millrace.SessionPrefix, secret)
	if !ok {
		return session, errSession
	}
	err = s.lookupTx(ctx, func(tx *Tx) error {
		session, err = one(ctx, tx, func(row pgx.CollectableRow) (s millrace.Session, err error) {
			err = row.Scan(&s.User.ID, &s.User.GitHubID, &s.User.Login, &s.User.Name, &s.CreatedAt, &s.ExpiresAt)
			return s, err
		}, `SELECT user_id, github_id, login, name, created_at, expires_at FROM session_user_at($1, $2, $3)`,
			hash, tx.now, tx.now.Add(-millrace.SessionIdle))
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errSession
	}
	return session, err
}

// SignOut ends a session; an unknown one is no error.
func (s *Store) SignOut(ctx context.Context, secret string) error {
	hash, ok := millrace.HashSecret(millrace.SessionPrefix, secret)
	if !ok {
		return nil
	}
	return s.lookupTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `SELECT sign_out($1)`, hash)
		return err
	})
}

// Memberships are the orgs that user belongs to, by slug.
func (s *Store) Memberships(ctx context.Context, user millrace.UserID) (list []millrace.Membership, err error) {
	err = s.lookupTx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (m millrace.Membership, err error) {
			err = row.Scan(&m.OrgID, &m.Slug, &m.Name, &m.Role)
			return m, err
		}, `SELECT org_id, slug, name, role FROM memberships_of($1)`, user)
		return err
	})
	return list, err
}

// newSecret makes a secret and the hash that is stored of it.
func newSecret(prefix string) (millrace.Secret, []byte) {
	secret := millrace.NewSecret(prefix, nil)
	hash, _ := millrace.HashSecret(prefix, secret.Reveal())
	return secret, hash
}
