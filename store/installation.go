package store

import (
	"context"
	"errors"
	"fmt"
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
	err := tx.audit(ctx, org, by, "installation.linked", fmt.Sprint(i.ID), millrace.Change{Field: "owner", After: i.OwnerLogin})
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
