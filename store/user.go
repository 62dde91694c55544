package store

import (
	"context"
	"strings"

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

// SignInPerson signs in whoever GitHub says that this is, and returns the secret of a new session. Who they are is GitHub's
// id: a person who was renamed stays who they are, and whoever takes their old name is somebody else. They become a member
// of each org that they belong to at GitHub, as admin or member as they are there, and leave those that GitHub no longer
// shows them; a role that somebody here gave them stays.
func (s *Store) SignInPerson(ctx context.Context, p millrace.GitHubPerson, from millrace.Device) (secret millrace.Secret, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		user := p.User
		if err := tx.saveUser(ctx, &user); err != nil {
			return err
		}
		if err := tx.savePerson(ctx, user.ID, p); err != nil {
			return err
		}
		if err := tx.followGitHub(ctx, []millrace.UserID{user.ID}); err != nil {
			return err
		}
		secret, err = tx.insertSession(ctx, user.ID, from)
		return err
	})
	return secret, err
}

// savePerson keeps what GitHub said of a person. What it said of an installation that was deleted is kept as it was: nobody
// can say anything of that one now.
func (tx *Tx) savePerson(ctx context.Context, user millrace.UserID, p millrace.GitHubPerson) error {
	var b pgx.Batch
	b.Queue(`
		DELETE FROM user_installations u WHERE u.user_id = $1
			AND NOT EXISTS (SELECT FROM installations i WHERE i.installation_id = u.installation_id AND i.deleted_at IS NOT NULL)`, user)
	for _, at := range p.Installations {
		b.Queue(`
			INSERT INTO user_installations (user_id, installation_id, owner_id, owner_login, owner_type, member, admin, seen_at, suspended_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT ON CONSTRAINT user_installations_pkey DO UPDATE SET
				owner_login = excluded.owner_login, member = excluded.member, admin = excluded.admin, seen_at = excluded.seen_at,
				suspended_at = excluded.suspended_at`,
			user, at.ID, at.OwnerID, at.OwnerLogin, at.OwnerType, at.Member, at.Admin, tx.now, ptr(at.SuspendedAt))
	}
	hidden := p.Hidden
	if hidden == nil {
		hidden = []string{}
	}
	b.Queue(`UPDATE users SET hidden = $2, read_at = $3 WHERE user_id = $1`, user, hidden, tx.now)
	// An account that is an org's has the App anew, and nobody has told yet: what is true of it is read.
	tx.announceTo(topicTasks)
	b.Queue(`
		INSERT INTO outbox (org_id, kind, args, at)
		SELECT l.org_id, $2, jsonb_build_object('installation_id', p.installation_id), $3
		FROM user_installations p, LATERAL (`+accountOrg("p.owner_id")+`) l
		WHERE p.user_id = $1 AND l.deleted_at IS NULL AND p.seen_at = $3 AND NOT EXISTS (SELECT FROM installations i WHERE i.installation_id = p.installation_id AND i.deleted_at IS NULL)
		ORDER BY p.installation_id`, user, millrace.ReadInstallation{}.Kind(), tx.now)
	return tx.SendBatch(ctx, &b).Close()
}

// followGitHub brings users' memberships to what GitHub says. An org without an owner gets one: whoever owns its account at
// GitHub, so that nobody is locked out when the last one leaves. An org whose App is installed nowhere keeps its owners.
func (tx *Tx) followGitHub(ctx context.Context, users []millrace.UserID) error {
	type change struct {
		org    millrace.OrgID
		user   millrace.UserID
		action string
		role   millrace.Change
	}
	changes, err := many(ctx, tx, func(row pgx.CollectableRow) (c change, err error) {
		c.role.Field = "role"
		err = row.Scan(&c.org, &c.user, &c.action, &c.role.Before, &c.role.After)
		return c, err
	}, `
		WITH shown AS (
			SELECT p.user_id, i.org_id, bool_or(p.admin) AS admin
			FROM user_installations p JOIN installations i ON i.installation_id = p.installation_id
			WHERE p.user_id = ANY($1) AND p.member AND i.deleted_at IS NULL
			GROUP BY p.user_id, i.org_id
		), before AS (
			SELECT org_id, user_id, role FROM memberships WHERE user_id = ANY($1)
		), leaving AS (
			SELECT m.org_id, m.user_id FROM memberships m
			WHERE m.user_id = ANY($1) AND m.from_github AND NOT EXISTS (SELECT FROM shown s WHERE (s.org_id, s.user_id) = (m.org_id, m.user_id))
				AND NOT (m.role = 'owner' AND NOT EXISTS (SELECT FROM installations i WHERE i.org_id = m.org_id AND i.deleted_at IS NULL))
		), seen AS (
			SELECT *, admin AND row_number() OVER (PARTITION BY org_id ORDER BY admin DESC, user_id) = 1 AND NOT EXISTS (
				SELECT FROM memberships m WHERE m.org_id = shown.org_id AND m.role = 'owner'
					AND NOT EXISTS (SELECT FROM leaving l WHERE (l.org_id, l.user_id) = (m.org_id, m.user_id))) AS heir
			FROM shown
		), ended AS (
			DELETE FROM memberships m USING leaving l WHERE (m.org_id, m.user_id) = (l.org_id, l.user_id)
			RETURNING m.org_id, m.user_id, m.role
		), kept AS (
			INSERT INTO memberships (org_id, user_id, role, created_at, from_github, chosen)
			SELECT org_id, user_id, CASE WHEN heir THEN 'owner' WHEN admin THEN 'admin' ELSE 'member' END, $2, true, heir
			FROM seen ORDER BY org_id, user_id
			ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE SET role = excluded.role, chosen = excluded.chosen
			WHERE (NOT memberships.chosen OR excluded.chosen) AND memberships.role <> excluded.role
			RETURNING org_id, user_id, role
		)
		SELECT org_id, user_id, 'member.left', role, '' FROM ended
		UNION ALL
		SELECT k.org_id, k.user_id, CASE WHEN b.role IS NULL THEN 'member.joined' ELSE 'member.role_changed' END, coalesce(b.role, ''), k.role
		FROM kept k LEFT JOIN before b USING (org_id, user_id)
		ORDER BY 1, 2`, uuids(users), tx.now)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := tx.audit(ctx, c.org, millrace.Actor{Kind: millrace.ActorSystem}, c.action, c.user.String(), c.role); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE sessions SET renew = true WHERE user_id = $1`, c.user); err != nil {
			return err
		}
		tx.announceTo(TopicUser(c.user))
	}
	return nil
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

// uuids are IDs as Postgres takes a list of them.
func uuids[K millrace.Kind](ids []millrace.ID[K]) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.UUID()
	}
	return list
}

// bounded is a user agent as it is kept: printable, and not longer than it needs to be.
func bounded(userAgent string) string {
	s := strings.ToValidUTF8(userAgent, "")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > millrace.MaxUserAgent {
		s = strings.ToValidUTF8(s[:millrace.MaxUserAgent], "")
	}
	return s
}
