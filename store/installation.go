package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// UserInstallations are the installations that GitHub showed a user, by their accounts' names, the organisations that want
// their own sign-on first, and when GitHub said so; a zero time is never.
func (s *Store) UserInstallations(ctx context.Context, user millrace.UserID) (list []millrace.UserInstallation, hidden []string, readAt time.Time, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		var read *time.Time
		if err := tx.QueryRow(ctx, `SELECT hidden, read_at FROM users WHERE user_id = $1`, user).Scan(&hidden, &read); err != nil {
			return err
		}
		readAt = val(read)
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (i millrace.UserInstallation, err error) {
			var org *millrace.OrgID
			var slug, name *string
			var role *millrace.Role
			err = row.Scan(&i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &i.Member, &i.Admin, &i.SeenAt, &org, &slug, &name, &role)
			switch {
			case org == nil:
			case role == nil:
				i.LinkedElsewhere = true
			default:
				i.Org = &millrace.Membership{OrgID: *org, Slug: *slug, Name: *name, Role: *role}
			}
			return i, err
		}, `
			SELECT u.installation_id, u.owner_id, u.owner_login, u.owner_type, u.member, u.admin, u.seen_at, o.org_id, o.slug, o.name, m.role
			FROM user_installations u
			LEFT JOIN installations i ON i.installation_id = u.installation_id
			LEFT JOIN orgs o ON o.org_id = i.org_id
			LEFT JOIN memberships m ON (m.org_id, m.user_id) = (i.org_id, u.user_id)
			WHERE u.user_id = $1 AND i.deleted_at IS NULL ORDER BY lower(u.owner_login), u.installation_id`, user)
		return err
	})
	return list, hidden, readAt, err
}

// FoundOrg is an org to make of an installation.
type FoundOrg struct {
	InstallationID int64
	Slug, Name     string
}

// foundedSize is what a label without a size gets in an org that was made so.
var foundedSize = millrace.Size{MilliCPU: 2000, MemoryMB: 4096}

// FoundOrg makes an org of an installation that is no org's. The user becomes its owner; whoever else GitHub showed the
// installation as a member joins. Forbidden: they don't own the account, as far as GitHub said within [millrace.ProofLength].
// Conflict: the installation is an org's already, or the short name is taken.
func (s *Store) FoundOrg(ctx context.Context, by millrace.Actor, user millrace.UserID, n FoundOrg) (org millrace.Org, err error) {
	if err := millrace.CheckSlug(n.Slug); err != nil {
		return org, err
	}
	if err := millrace.CheckName(n.Name); err != nil {
		return org, err
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		i, err := tx.proven(ctx, user, n.InstallationID)
		if err != nil {
			return err
		}
		plan, _ := millrace.PlanNamed(millrace.PlanTrial)
		org, err = one(ctx, tx, scanOrg, `
			INSERT INTO orgs (slug, name, plan, concurrency, default_cpu, default_memory, actuated_labels, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, false, $7) RETURNING `+orgColumns,
			n.Slug, n.Name, plan.Name, plan.Concurrency, foundedSize.MilliCPU, foundedSize.MemoryMB, tx.now)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO memberships (org_id, user_id, role, created_at, from_github, chosen) VALUES ($1, $2, 'owner', $3, true, true)`, org.ID, user, tx.now)
		if err != nil {
			return err
		}
		if err := tx.audit(ctx, org.ID, by, "org.created", org.Slug, millrace.Change{Field: "name", After: org.Name}); err != nil {
			return err
		}
		return tx.link(ctx, by, org.ID, i)
	})
	return org, err
}

// LinkInstallation makes an installation the org's, too. It takes a proof on both sides: the right in the org, and that
// the user owns the account at GitHub. Errors: those of [Store.FoundOrg].
func (o Org) LinkInstallation(ctx context.Context, by millrace.Caller, installation int64) error {
	if err := by.Require(millrace.OrgWrite); err != nil {
		return err
	}
	// What GitHub said of people is no org's, so that this is the system role's; the org is the caller's own.
	return o.store.systemTx(ctx, func(tx *Tx) error {
		i, err := tx.proven(ctx, by.UserID, installation)
		if err != nil {
			return err
		}
		return tx.link(ctx, by.Actor, o.id, i)
	})
}

// proven is an installation that a user may link, because they own its account.
func (tx *Tx) proven(ctx context.Context, user millrace.UserID, installation int64) (i millrace.Installation, err error) {
	var linked bool
	err = tx.QueryRow(ctx, `
		SELECT u.installation_id, u.owner_id, u.owner_login, u.owner_type,
			EXISTS (SELECT FROM installations i WHERE i.installation_id = u.installation_id OR i.owner_id = u.owner_id AND i.deleted_at IS NULL)
		FROM user_installations u
		WHERE u.user_id = $1 AND u.installation_id = $2 AND u.admin AND u.seen_at > $3`,
		user, installation, tx.now.Add(-millrace.ProofLength)).Scan(&i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &linked)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return i, millrace.Errorf(millrace.Forbidden, "GitHub did not say within the last %d minutes that you own this account. Have it asked again.", millrace.ProofLength/time.Minute)
	case err == nil && linked:
		return i, errLinked
	}
	return i, err
}

var errLinked = millrace.Errorf(millrace.Conflict, "This installation belongs to an org already.")

// link makes an installation the org's, and members of those who belong to it.
func (tx *Tx) link(ctx context.Context, by millrace.Actor, org millrace.OrgID, i millrace.Installation) error {
	if err := tx.saveInstallation(ctx, org, i); err != nil {
		return err
	}
	err := tx.audit(ctx, org, by, "installation.linked", strconv.FormatInt(i.ID, 10), millrace.Change{Field: "owner", After: i.OwnerLogin})
	if err != nil {
		return err
	}
	users, err := many(ctx, tx, pgx.RowTo[millrace.UserID], `SELECT user_id FROM user_installations WHERE installation_id = $1 ORDER BY user_id`, i.ID)
	if err != nil {
		return err
	}
	tx.announceOrg(org)
	return tx.followGitHub(ctx, users)
}

// membersEvery is how often it is read who belongs to an organisation: whoever left must be gone within five minutes.
const membersEvery = 3 * time.Minute

// MembersDue are the installations whose members are to be read, and notes that they are read now: organisations that one
// belongs to who could use the dashboard or the API at this moment.
func (s *Store) MembersDue(ctx context.Context) (list []millrace.Installation, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (i millrace.Installation, err error) {
			err = row.Scan(&i.OrgID, &i.ID, &i.OwnerLogin)
			return i, err
		}, `
			WITH due AS (
				UPDATE installations i SET members_at = $1
				WHERE i.deleted_at IS NULL AND i.suspended_at IS NULL AND i.owner_type = 'Organization' AND (i.members_at IS NULL OR i.members_at <= $2)
					AND EXISTS (
						SELECT FROM user_installations p WHERE p.installation_id = i.installation_id AND (
							EXISTS (SELECT FROM sessions s WHERE s.user_id = p.user_id AND s.expires_at > $1 AND s.last_used_at > $3)
							OR EXISTS (SELECT FROM api_tokens t WHERE (t.org_id, t.user_id) = (i.org_id, p.user_id) AND t.revoked_at IS NULL AND t.expires_at > $1)))
				RETURNING i.org_id, i.installation_id, i.owner_login
			)
			SELECT * FROM due ORDER BY 1, 2`, tx.now, tx.now.Add(-membersEvery), tx.now.Add(-millrace.SessionIdle))
		return err
	})
	return list, err
}

// SaveMembers keeps who belongs to an organisation, of those whom GitHub showed the installation when they signed in: whoever
// is not among members has left. It makes nobody a member who has not signed in: an organisation that wants its own sign-on
// first stays hidden until then.
func (s *Store) SaveMembers(ctx context.Context, installation int64, members []millrace.GitHubMember) error {
	ids, admin := make([]int64, len(members)), make([]bool, len(members))
	for i, m := range members {
		ids[i], admin[i] = m.GitHubID, m.Admin
	}
	return s.systemTx(ctx, func(tx *Tx) error {
		changed, err := many(ctx, tx, pgx.RowTo[millrace.UserID], `
			WITH said AS (
				SELECT p.user_id, m.github_id IS NOT NULL AS member, coalesce(m.admin, false) AS admin
				FROM user_installations p JOIN users u ON u.user_id = p.user_id
				LEFT JOIN unnest($2::bigint[], $3::boolean[]) AS m (github_id, admin) ON m.github_id = u.github_id
				WHERE p.installation_id = $1
			)
			UPDATE user_installations p SET member = s.member, admin = s.admin FROM said s
			WHERE p.installation_id = $1 AND p.user_id = s.user_id AND (p.member, p.admin) IS DISTINCT FROM (s.member, s.admin)
			RETURNING p.user_id`, installation, ids, admin)
		if err != nil || len(changed) == 0 {
			return err
		}
		return tx.followGitHub(ctx, changed)
	})
}

// intakeHint makes what an event says of an installation due to be read at GitHub: who belongs to it, or which repositories it
// has. Other events ask for nothing.
func (s *Store) intakeHint(ctx context.Context, hint *millrace.InstallationEvent) (result IntakeResult, err error) {
	column := map[millrace.InstallationChange]string{millrace.InstallationPeople: "members_at", millrace.InstallationRepositories: "listed_at"}[hint.Changed]
	if column == "" {
		return IntakeIgnored, nil
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		result = IntakeStored
		var org millrace.OrgID
		err := tx.QueryRow(ctx, `UPDATE installations SET `+column+` = NULL WHERE installation_id = $1 RETURNING org_id`, hint.InstallationID).Scan(&org)
		if errors.Is(err, pgx.ErrNoRows) {
			result = IntakeUnknownInstallation
			return nil
		}
		if err != nil || hint.Changed != millrace.InstallationPeople {
			return err
		}
		var b pgx.Batch
		tx.queueTask(&b, org, millrace.ReadMembers{})
		return tx.SendBatch(ctx, &b).Close()
	})
	return result, err
}

// SuggestSlug is a short name for an org of an account, one that is free.
func (s *Store) SuggestSlug(ctx context.Context, login string) (slug string, err error) {
	base := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(login)), "-")
	if base == "" {
		base = "org"
	}
	base = strings.TrimRight(base[:min(len(base), 36)], "-")
	err = s.lookupTx(ctx, func(tx *Tx) error {
		for n := 1; n < 100; n++ {
			if slug = base; n > 1 {
				slug = fmt.Sprintf("%s-%d", base, n)
			}
			var org *millrace.OrgID
			if err := tx.QueryRow(ctx, `SELECT org_of_slug($1)`, slug).Scan(&org); err != nil || org == nil {
				return err
			}
		}
		return nil
	})
	return slug, err
}

// Installations are those of the org, by their accounts' names.
func (o Org) Installations(ctx context.Context) (list []millrace.Installation, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (i millrace.Installation, err error) {
			var suspended *time.Time
			err = row.Scan(&i.OrgID, &i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &suspended)
			i.SuspendedAt = val(suspended)
			return i, err
		}, `
			SELECT org_id, installation_id, owner_id, owner_login, owner_type, suspended_at FROM installations
			WHERE org_id = $1 AND deleted_at IS NULL ORDER BY lower(owner_login), installation_id`, o.id)
		return err
	})
	return list, err
}
