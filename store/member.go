package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// Members lists the org's members by login.
func (o Org) Members(ctx context.Context) (list []millrace.Member, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = tx.members(ctx)
		return err
	})
	return list, err
}

func (tx *Tx) members(ctx context.Context) ([]millrace.Member, error) {
	return many(ctx, tx, func(row pgx.CollectableRow) (m millrace.Member, err error) {
		var seen *time.Time
		err = row.Scan(&m.ID, &m.GitHubID, &m.Login, &m.Name, &m.Role, &m.Chosen, &m.GitHubRole, &m.JoinedAt, &seen)
		m.SeenAt = val(seen)
		return m, err
	}, `SELECT user_id, github_id, login, name, role, chosen, github_role, joined_at, seen_at FROM org_members()`)
}

// SetRole gives a member a role, or with "" the one that GitHub's answers make them, which follows GitHub from then on.
// Forbidden: the caller may not. NotFound: they are no member. Conflict: they are the last owner, or GitHub says nothing
// of them.
func (o Org) SetRole(ctx context.Context, by millrace.Caller, user millrace.UserID, role millrace.Role) (member millrace.Member, err error) {
	if role != "" && !slices.Contains(millrace.Roles, role) {
		return member, millrace.Errorf(millrace.Unprocessable, "%q is no role.", role)
	}
	err = o.tx(ctx, func(tx *Tx) error {
		// Whoever changes a role waits for whoever else does: each sees how many owners there are.
		if _, err := tx.Exec(ctx, `SELECT FROM memberships WHERE org_id = $1 ORDER BY user_id FOR NO KEY UPDATE`, o.id); err != nil {
			return err
		}
		members, err := tx.members(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(members, func(m millrace.Member) bool { return m.ID == user })
		if i < 0 {
			return pgx.ErrNoRows
		}
		member = members[i]
		before, chosen := member.Role, role != ""
		if !chosen {
			if role = member.GitHubRole; role == "" {
				return millrace.Errorf(millrace.Conflict, "GitHub says nothing of %s here: there is no role to follow.", member.Login)
			}
		}
		if err := by.MayGive(before, role); err != nil {
			return err
		}
		owners := 0
		for _, m := range members {
			if m.Role == millrace.RoleOwner {
				owners++
			}
		}
		if before == millrace.RoleOwner && role != before && owners == 1 {
			return millrace.Errorf(millrace.Conflict, "%s is the last owner. Make somebody else an owner first.", member.Login)
		}
		if before == role && member.Chosen == chosen {
			return nil
		}
		member.Role, member.Chosen = role, chosen
		if _, err := tx.Exec(ctx, `UPDATE memberships SET role = $3, chosen = $4 WHERE org_id = $1 AND user_id = $2`, o.id, user, role, chosen); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT renew_sessions($1)`, user); err != nil {
			return err
		}
		tx.announceTo(TopicUser(user))
		tx.announceOrg(o.id)
		return tx.audit(ctx, o.id, by.Actor, "member.role_changed", user.String(),
			millrace.Change{Field: "role", Before: string(before), After: string(role)},
			millrace.Change{Field: "follows_github", After: yesNo(!chosen)})
	})
	return member, err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
