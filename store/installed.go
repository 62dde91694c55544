package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// What GitHub says of installations is kept as of when it was asked. Answers come in any order and twice: an older one than
// what is known changes nothing.

// KnownInstallation is an installation as it is known; its OrgID is 0 when it is no org's. at is the time to keep an answer
// of GitHub's as of, who is asked after this.
func (s *Store) KnownInstallation(ctx context.Context, id int64) (i millrace.LinkedInstallation, at time.Time, err error) {
	at, err = s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			SELECT i.org_id, i.installation_id, i.owner_id, i.owner_login, i.owner_type, i.suspended_at, i.deleted_at, i.read_at, i.members_at
			FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL WHERE i.installation_id = $1`, id).
			Query(func(rows pgx.Rows) error {
				list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i millrace.LinkedInstallation, err error) {
					var suspended, deleted, read, members *time.Time
					err = row.Scan(&i.OrgID, &i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &suspended, &deleted, &read, &members)
					i.SuspendedAt, i.DeletedAt, i.ReadAt, i.MembersAt = val(suspended), val(deleted), val(read), val(members)
					return i, err
				})
				if len(list) > 0 {
					i = list[0]
				}
				return err
			})
	})
	return i, at, err
}

// InstallationsToRead are those of GitHub's list that are not as we know them, and those that we know and the list lacks, in
// order of their ids: each is to be read, for a list may be an old one. An account's that is no org's is nobody's concern.
func (s *Store) InstallationsToRead(ctx context.Context, list []millrace.Installation) (ids []int64, err error) {
	told := make([]int64, len(list))
	owners := make([]int64, len(list))
	logins := make([]string, len(list))
	suspended := make([]bool, len(list))
	for n, i := range list {
		told[n], owners[n], logins[n], suspended[n] = i.ID, i.OwnerID, i.OwnerLogin, !i.SuspendedAt.IsZero()
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		ids, err = many(ctx, tx, pgx.RowTo[int64], `
			WITH told AS (
				SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::boolean[]) AS t (installation_id, owner_id, login, suspended)
			), known AS (
				SELECT i.* FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL
			)
			SELECT t.installation_id FROM told t LEFT JOIN known k ON k.installation_id = t.installation_id
			WHERE CASE WHEN k.installation_id IS NULL THEN EXISTS (SELECT FROM known o WHERE o.owner_id = t.owner_id)
				ELSE (k.owner_login, k.suspended_at IS NOT NULL, k.deleted_at IS NOT NULL) IS DISTINCT FROM (t.login, t.suspended, false) END
			UNION
			SELECT k.installation_id FROM known k WHERE k.deleted_at IS NULL AND NOT k.installation_id = ANY($1)
			ORDER BY 1`, told, owners, logins, suspended)
		return err
	})
	return ids, err
}

// SaveInstallation keeps what GitHub says of an installation that is there, as of at. One that nobody here knows becomes the
// org's of its account, by that one's id, in the place of the account's installation before; when the account is no org's, it
// is nobody's.
func (s *Store) SaveInstallation(ctx context.Context, read millrace.Installation, at time.Time) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		// The account's people, whichever of its installations they were shown.
		people, err := tx.lockPeopleOf(ctx, read.OwnerID)
		if err != nil {
			return err
		}
		var org millrace.OrgID
		var former int64
		var erasing bool
		err = tx.QueryRow(ctx, `SELECT org_id, installation_id, deleted_at IS NOT NULL FROM (`+accountOrg("$1")+`) l`, read.OwnerID).Scan(&org, &former, &erasing)
		if errors.Is(err, pgx.ErrNoRows) || erasing {
			return nil
		}
		if err != nil {
			return err
		}
		system := millrace.Actor{Kind: millrace.ActorSystem}
		if former != read.ID {
			// What is known of the latter may be newer than this answer.
			var stale bool
			err := tx.QueryRow(ctx, `
				SELECT EXISTS (SELECT FROM installations WHERE installation_id = $1 AND read_at > $3)
					OR EXISTS (SELECT FROM installations WHERE installation_id = $2 AND deleted_at IS NULL AND read_at > $3)`, read.ID, former, at).Scan(&stale)
			if err != nil || stale {
				return err
			}
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, org); err != nil {
				return err
			}
			if err := tx.replaceInstallation(ctx, system, org, former, read); err != nil {
				return err
			}
		}
		changed, err := tx.saveState(ctx, system, org, read, at)
		if err != nil || !changed && former == read.ID {
			return err
		}
		return tx.followGitHub(ctx, people)
	})
}

// saveState keeps an installation's state as of at, and reports whether it was another before.
func (tx *Tx) saveState(ctx context.Context, by millrace.Actor, org millrace.OrgID, read millrace.Installation, at time.Time) (changed bool, err error) {
	var login string
	var suspended, deleted *time.Time
	err = tx.QueryRow(ctx, `
		WITH before AS (
			SELECT org_id, installation_id, owner_login, suspended_at, deleted_at FROM installations
			WHERE (org_id, installation_id) = ($1, $2) AND (read_at IS NULL OR read_at <= $7) FOR NO KEY UPDATE
		)
		UPDATE installations i SET owner_login = $3, owner_type = $4, suspended_at = $5, deleted_at = NULL, read_at = $7,
			-- Its repositories are called otherwise now, or were not to be had.
			listed_at = CASE WHEN b.owner_login <> $3 OR b.deleted_at IS NOT NULL OR b.suspended_at IS NOT NULL THEN NULL ELSE i.listed_at END
		FROM before b WHERE (i.org_id, i.installation_id) = (b.org_id, b.installation_id) AND i.owner_id = $6
		RETURNING b.owner_login, b.suspended_at, b.deleted_at`,
		org, read.ID, read.OwnerLogin, read.OwnerType, ptr(read.SuspendedAt), read.OwnerID, at).Scan(&login, &suspended, &deleted)
	if errors.Is(err, pgx.ErrNoRows) { // more is known
		return false, nil
	}
	if err != nil {
		return false, err
	}
	audit := func(action string, changes ...millrace.Change) {
		if err == nil {
			changed, err = true, tx.audit(ctx, org, by, action, strconv.FormatInt(read.ID, 10), changes...)
		}
	}
	if deleted != nil {
		audit("installation.restored")
	}
	if login != read.OwnerLogin {
		audit("installation.renamed", millrace.Change{Field: "owner", Before: login, After: read.OwnerLogin})
		if err == nil {
			_, err = tx.Exec(ctx, `UPDATE user_installations SET owner_login = $2 WHERE installation_id = $1`, read.ID, read.OwnerLogin)
		}
	}
	switch is := !read.SuspendedAt.IsZero(); {
	case is && suspended == nil:
		audit("installation.suspended")
	case !is && suspended != nil:
		audit("installation.unsuspended")
	}
	if err != nil {
		return changed, err
	}
	if changed {
		tx.announceOrg(org)
	}
	if !read.SuspendedAt.IsZero() {
		return changed, tx.openIncident(ctx, org, read.ID, 0, "", millrace.Condition{Code: millrace.WaitSuspended, Detail: "GitHub says that the App is suspended."})
	}
	return changed, tx.closeIncidents(ctx, read.ID, 0, millrace.WaitSuspended)
}

// InstallationGone notes that GitHub has no such installation, as of at: what it had stays its org's, and whoever belongs
// to the org because of it leaves.
func (s *Store) InstallationGone(ctx context.Context, id int64, at time.Time) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		people, err := tx.lockPeople(ctx, id)
		if err != nil {
			return err
		}
		var org millrace.OrgID
		var login string
		err = tx.QueryRow(ctx, `
			UPDATE installations i SET deleted_at = $2, read_at = $2 FROM orgs o
			WHERE i.installation_id = $1 AND i.deleted_at IS NULL AND (i.read_at IS NULL OR i.read_at <= $2) AND o.org_id = i.org_id AND o.deleted_at IS NULL
			RETURNING i.org_id, i.owner_login`, id, at).Scan(&org, &login)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := tx.openIncident(ctx, org, id, 0, "", millrace.Condition{Code: millrace.WaitSuspended, Detail: "GitHub says that the App was uninstalled."}); err != nil {
			return err
		}
		err = tx.audit(ctx, org, millrace.Actor{Kind: millrace.ActorSystem}, "installation.deleted", strconv.FormatInt(id, 10), millrace.Change{Field: "owner", Before: login})
		if err != nil {
			return err
		}
		tx.announceOrg(org)
		return tx.followGitHub(ctx, people)
	})
}

// replaceInstallation puts an account's installation in the place of the one before, in the same org: an account has the App
// once, so that one is gone. Its repositories, its jobs and VMs that are open, and what GitHub said of its people come along:
// the runners are registered at the account, whichever installation asked for them. The caller has locked the people and the
// org's placement. Rows are locked in the order in which everybody does: VMs, repositories, jobs, installations.
func (tx *Tx) replaceInstallation(ctx context.Context, by millrace.Actor, org millrace.OrgID, former int64, now millrace.Installation) error {
	const of = `(org_id, installation_id) = ($1, $2)`
	var b pgx.Batch
	b.Queue(`SELECT FROM vms WHERE `+of+` AND gone_at IS NULL ORDER BY vm_id FOR UPDATE`, org, former)
	b.Queue(`SELECT FROM repositories WHERE `+of+` ORDER BY repository_id FOR UPDATE`, org, former)
	b.Queue(`SELECT FROM jobs WHERE `+of+` AND status <> 'completed' ORDER BY repository_id, github_job_id, run_attempt FOR NO KEY UPDATE`, org, former)
	// Deleted until the one before is: an account has at most one.
	b.Queue(`
		INSERT INTO installations (org_id, installation_id, owner_id, owner_login, owner_type, jit_left, jit_at, created_at, deleted_at)
		SELECT org_id, $3, owner_id, $4, $5, jit_left, jit_at, $6, $6 FROM installations WHERE `+of+`
		ON CONFLICT ON CONSTRAINT installations_pkey DO NOTHING`, org, former, now.ID, now.OwnerLogin, now.OwnerType, tx.now)
	b.Queue(`UPDATE repositories SET installation_id = $3, polled_at = NULL WHERE `+of, org, former, now.ID) // the jobs follow
	b.Queue(`UPDATE vms SET installation_id = $3 WHERE `+of+` AND gone_at IS NULL`, org, former, now.ID)
	// What was said before somebody's last sign-in is not said any more.
	b.Queue(`
		UPDATE user_installations p SET installation_id = $2, owner_login = $3 FROM users u
		WHERE p.installation_id = $1 AND u.user_id = p.user_id AND p.seen_at >= u.read_at
			AND NOT EXISTS (SELECT FROM user_installations n WHERE (n.user_id, n.installation_id) = (p.user_id, $2))`, former, now.ID, now.OwnerLogin)
	b.Queue(`DELETE FROM user_installations WHERE installation_id = $1`, former)
	b.Queue(`UPDATE installations SET deleted_at = coalesce(deleted_at, $3) WHERE `+of, org, former, tx.now)
	b.Queue(`UPDATE installations SET deleted_at = NULL, listed_at = NULL, suspended_at = NULL WHERE `+of, org, now.ID)
	b.Queue(`UPDATE incidents SET closed_at = $3 WHERE `+of+` AND closed_at IS NULL`, org, former, tx.now)
	tx.queueTask(&b, org, millrace.ReadInstallation{InstallationID: now.ID})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	tx.announceRules(org)
	return tx.audit(ctx, org, by, "installation.reinstalled", strconv.FormatInt(now.ID, 10),
		millrace.Change{Field: "installation", Before: strconv.FormatInt(former, 10), After: strconv.FormatInt(now.ID, 10)})
}

// MembersToRead are the organisations' installations that somebody is using the service through, with a session or a token.
func (s *Store) MembersToRead(ctx context.Context) (ids []int64, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		ids, err = many(ctx, tx, pgx.RowTo[int64], `
			SELECT i.installation_id FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL
			WHERE i.owner_type = 'Organization' AND i.deleted_at IS NULL AND i.suspended_at IS NULL
				AND EXISTS (SELECT FROM user_installations p WHERE p.installation_id = i.installation_id AND (
					EXISTS (SELECT FROM sessions s WHERE s.user_id = p.user_id AND s.expires_at > $1 AND s.last_used_at > $2)
					OR EXISTS (SELECT FROM api_tokens t WHERE (t.org_id, t.user_id) = (i.org_id, p.user_id) AND t.revoked_at IS NULL AND t.expires_at > $1)))
				AND NOT EXISTS (SELECT FROM incidents c WHERE (c.org_id, c.installation_id) = (i.org_id, i.installation_id) AND c.closed_at IS NULL AND c.code = ANY($3))
			ORDER BY i.members_at NULLS FIRST, i.installation_id`, tx.now, tx.now.Add(-millrace.SessionIdle), millrace.StopsCalls)
		return err
	})
	return ids, err
}

// IsShown reports whether GitHub has shown an installation to the person with this id.
func (s *Store) IsShown(ctx context.Context, installation, person int64) (shown bool, err error) {
	_, err = s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			SELECT EXISTS (SELECT FROM user_installations p JOIN users u ON u.user_id = p.user_id WHERE p.installation_id = $1 AND u.github_id = $2)`,
			installation, person).QueryRow(func(row pgx.Row) error { return row.Scan(&shown) })
	})
	return shown, err
}

// SaveMembers keeps who is in the organisation of an installation, as of at: of those whom GitHub has shown it. Nobody is
// added, though they are a member: an organisation that hides itself from somebody's token stays hidden until it shows
// itself at their sign-in. Outside collaborators, who are in no such list, stay what they are.
func (s *Store) SaveMembers(ctx context.Context, installation int64, list []millrace.GitHubMember, at time.Time) error {
	ids, admins := make([]int64, len(list)), make([]bool, len(list))
	for i, m := range list {
		ids[i], admins[i] = m.GitHubID, m.Admin
	}
	return s.systemTx(ctx, func(tx *Tx) error {
		people, err := tx.lockPeople(ctx, installation)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE installations SET members_at = $2 WHERE installation_id = $1 AND deleted_at IS NULL AND (members_at IS NULL OR members_at <= $2)`, installation, at)
		if err != nil || tag.RowsAffected() == 0 { // a later answer is kept, or there is nobody to be in it
			return err
		}
		var b pgx.Batch
		b.Queue(`
			UPDATE user_installations p SET member = true, admin = m.admin
			FROM unnest($2::bigint[], $3::boolean[]) AS m (github_id, admin) JOIN users u ON u.github_id = m.github_id
			WHERE p.installation_id = $1 AND p.user_id = u.user_id AND p.seen_at <= $4 AND (NOT p.member OR p.admin <> m.admin)`, installation, ids, admins, at)
		b.Queue(`
			DELETE FROM user_installations p USING users u
			WHERE p.installation_id = $1 AND u.user_id = p.user_id AND p.member AND p.seen_at <= $3 AND NOT u.github_id = ANY($2)`, installation, ids, at)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		return tx.followGitHub(ctx, people)
	})
}
