package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// UserInstallations are the installations that GitHub showed somebody, by login; the organisations that hide themselves from
// their token; and when GitHub said all of it. The system role reads it: people are no tenant's.
func (s *Store) UserInstallations(ctx context.Context, user millrace.UserID) (list []millrace.UserInstallation, hidden []string, readAt time.Time, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		var read *time.Time
		if err := tx.QueryRow(ctx, `SELECT hidden, read_at FROM users WHERE user_id = $1`, user).Scan(&hidden, &read); err != nil {
			return err
		}
		readAt = val(read)
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (u millrace.UserInstallation, err error) {
			var m millrace.Membership
			var suspended *time.Time
			var org *millrace.OrgID
			var role *millrace.Role
			err = row.Scan(&u.ID, &u.OwnerID, &u.OwnerLogin, &u.OwnerType, &suspended, &u.Member, &u.Admin, &u.SeenAt, &org, &m.Slug, &m.Name, &role)
			u.SuspendedAt = val(suspended)
			switch {
			case role != nil:
				u.OrgID, m.OrgID, m.Role = *org, *org, *role
				u.Org = &m
			case org != nil:
				u.LinkedElsewhere = true
			}
			return u, err
		}, `
			SELECT p.installation_id, p.owner_id, coalesce(i.owner_login, p.owner_login), p.owner_type,
				CASE WHEN i.installation_id IS NULL THEN p.suspended_at ELSE i.suspended_at END, p.member, p.admin, p.seen_at,
				l.org_id, coalesce(l.slug, ''), coalesce(l.name, ''), m.role
			FROM user_installations p LEFT JOIN installations i ON i.installation_id = p.installation_id
				LEFT JOIN LATERAL (`+accountOrg("p.owner_id")+`) l ON true
				LEFT JOIN memberships m ON (m.org_id, m.user_id) = (l.org_id, p.user_id)
			WHERE p.user_id = $1 AND i.deleted_at IS NULL
			ORDER BY lower(p.owner_login), p.installation_id`, user)
		return err
	})
	return list, hidden, readAt, err
}

// accountOrg selects the org of the GitHub account with this id, and the installation by which it is that org's. An account
// stays its org's when the App is taken from it: whoever installs it again comes back to what they had, and nobody else does.
func accountOrg(ownerID string) string {
	return `
		SELECT o.org_id, o.slug, o.name, o.deleted_at, i.installation_id, i.deleted_at AS gone_at
		FROM installations i JOIN orgs o ON o.org_id = i.org_id
		WHERE i.owner_id = ` + ownerID + ` ORDER BY i.deleted_at DESC NULLS FIRST, i.installation_id DESC LIMIT 1`
}

// FoundOrg is an org to make of an installation.
type FoundOrg struct {
	InstallationID int64
	Slug, Name     string // no name: the account's login
}

// foundedSize is a new org's default size.
var foundedSize = millrace.Size{MilliCPU: 2000, MemoryMB: 4096}

// FoundOrg makes an org of an installation whose admin GitHub says that user is: they own it, and the other members whom
// GitHub has shown the installation join. Forbidden: GitHub shows them no such installation, or says that they are
// no admin of it; [millrace.ErrAskGitHub], a Forbidden too: it said so too long ago. Conflict: the short name is taken, the account is an org's already, or the
// App is suspended there. The tenant does not exist yet, so the system role makes it.
func (s *Store) FoundOrg(ctx context.Context, by millrace.Actor, user millrace.UserID, n FoundOrg) (org millrace.Org, err error) {
	if err := millrace.CheckSlug(n.Slug); err != nil {
		return org, err
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		at, people, err := tx.proven(ctx, user, n.InstallationID)
		if err != nil {
			return err
		}
		if n.Name = strings.TrimSpace(n.Name); n.Name == "" {
			n.Name = at.OwnerLogin
		}
		if err := millrace.CheckName(n.Name); err != nil {
			return err
		}
		var linked bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM installations WHERE owner_id = $1 OR installation_id = $2)`, at.OwnerID, at.ID).Scan(&linked); err != nil {
			return err
		}
		if linked {
			return errLinked
		}
		if org, err = tx.insertOrg(ctx, NewOrg{Slug: n.Slug, Name: n.Name, DefaultSize: foundedSize}, ""); err != nil {
			return err
		}
		if err := tx.link(ctx, by, org.ID, at); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO memberships (org_id, user_id, role, created_at, from_github, chosen) VALUES ($1, $2, $3, $4, true, true)`,
			org.ID, user, millrace.RoleOwner, tx.now); err != nil {
			return err
		}
		if err := tx.audit(ctx, org.ID, by, "org.created", org.Slug, millrace.Change{Field: "name", After: org.Name}); err != nil {
			return err
		}
		tx.announceTo(TopicUser(user))
		return tx.followGitHub(ctx, people)
	})
	return org, err
}

var errLinked = millrace.Errorf(millrace.Conflict, "%s", taken["installations_installation_key"])

var errNotShown = millrace.Errorf(millrace.Forbidden, "GitHub shows you no such installation.")

// proven is the installation that user is proven to be the admin of, and all users whom GitHub has shown it; they are locked,
// so that nothing that GitHub says of them comes between.
func (tx *Tx) proven(ctx context.Context, user millrace.UserID, installation int64) (at millrace.Installation, people []millrace.UserID, err error) {
	if people, err = tx.lockPeople(ctx, installation, user); err != nil {
		return at, nil, err
	}
	var seen, suspended *time.Time
	var admin *bool
	err = tx.QueryRow(ctx, `
		SELECT coalesce(p.installation_id, 0), coalesce(p.owner_id, 0), coalesce(p.owner_login, ''), coalesce(p.owner_type, ''),
			p.suspended_at, p.member AND p.admin, coalesce(p.seen_at, u.read_at)
		FROM users u LEFT JOIN user_installations p ON p.user_id = u.user_id AND p.installation_id = $2
		WHERE u.user_id = $1`, user, installation).Scan(&at.ID, &at.OwnerID, &at.OwnerLogin, &at.OwnerType, &suspended, &admin, &seen)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return at, nil, errNotShown
	case err != nil:
		return at, nil, err
	case tx.now.Sub(val(seen)) >= millrace.ProofLength:
		return at, nil, millrace.ErrAskGitHub
	case admin == nil:
		return at, nil, errNotShown
	case !*admin:
		return at, nil, millrace.Errorf(millrace.Forbidden, "Only an owner of %s at GitHub may link it.", at.OwnerLogin)
	case suspended != nil:
		return at, nil, millrace.Errorf(millrace.Conflict, "The GitHub App is suspended at %s. Unsuspend it there first.", at.OwnerLogin)
	}
	return at, people, nil
}

// lockPeople are the users whom GitHub has shown an installation, and those given, locked: what GitHub says of each is taken
// in one after the other. Whoever locks people does so before anything else.
func (tx *Tx) lockPeople(ctx context.Context, installation int64, and ...millrace.UserID) ([]millrace.UserID, error) {
	return many(ctx, tx, pgx.RowTo[millrace.UserID], `
		SELECT user_id FROM users
		WHERE user_id = ANY($2::text[]::uuid[]) OR user_id IN (
			SELECT user_id FROM user_installations
			WHERE installation_id = $1 OR owner_id = (SELECT owner_id FROM installations WHERE installation_id = $1))
		ORDER BY user_id FOR NO KEY UPDATE`, installation, uuids(and))
}

// lockPeopleOf is lockPeople by the account's id.
func (tx *Tx) lockPeopleOf(ctx context.Context, owner int64) ([]millrace.UserID, error) {
	return many(ctx, tx, pgx.RowTo[millrace.UserID], `
		SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM user_installations WHERE owner_id = $1) ORDER BY user_id FOR NO KEY UPDATE`, owner)
}

// link makes an installation the org's, and has its state read. It is free, or the database refuses.
func (tx *Tx) link(ctx context.Context, by millrace.Actor, org millrace.OrgID, at millrace.Installation) error {
	if err := tx.saveInstallation(ctx, org, at); err != nil {
		return err
	}
	var b pgx.Batch
	tx.queueTask(&b, org, millrace.ReadInstallation{InstallationID: at.ID})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	tx.announceOrg(org)
	return tx.audit(ctx, org, by, "installation.linked", strconv.FormatInt(at.ID, 10), millrace.Change{Field: "owner", After: at.OwnerLogin})
}

// LinkInstallation links a further installation to the org. It takes proof on both sides: the caller may change the org's
// settings, and is the installation's admin at GitHub, with the errors of [Store.FoundOrg]. One that is linked here already
// stays so. People and other tenants' installations are looked at, so the system role does it.
func (o Org) LinkInstallation(ctx context.Context, by millrace.Caller, installation int64) error {
	if err := by.Require(millrace.OrgWrite); err != nil {
		return err
	}
	if by.UserID == (millrace.UserID{}) {
		return millrace.Errorf(millrace.Forbidden, "It takes a person whom GitHub knows: the org's own tokens are nobody there.")
	}
	return o.store.systemTx(ctx, func(tx *Tx) error {
		at, people, err := tx.proven(ctx, by.UserID, installation)
		if err != nil {
			return err
		}
		// What was another installation's may come along. After the people, as [Store.SaveInstallation] does.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, o.id); err != nil {
			return err
		}
		var alive bool
		if err := tx.QueryRow(ctx, `SELECT deleted_at IS NULL FROM orgs WHERE org_id = $1`, o.id).Scan(&alive); err != nil {
			return err
		}
		if !alive {
			return errNoOrg
		}
		var org millrace.OrgID
		var former int64
		err = tx.QueryRow(ctx, `SELECT org_id, installation_id FROM (`+accountOrg("$1")+`) l`, at.OwnerID).Scan(&org, &former)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			err = tx.link(ctx, by.Actor, o.id, at)
		case err != nil:
		case org != o.id:
			return errLinked
		case former != installation:
			err = tx.replaceInstallation(ctx, by.Actor, o.id, former, at)
		default:
			var b pgx.Batch
			tx.queueTask(&b, o.id, millrace.ReadInstallation{InstallationID: installation})
			err = tx.SendBatch(ctx, &b).Close()
		}
		if err != nil {
			return err
		}
		return tx.followGitHub(ctx, people)
	})
}

// Installations are the org's installations that are there, by login.
func (o Org) Installations(ctx context.Context) ([]millrace.Installation, error) {
	all, err := o.LinkedInstallations(ctx)
	list := make([]millrace.Installation, 0, len(all))
	for _, i := range all {
		if i.DeletedAt.IsZero() {
			list = append(list, i.Installation)
		}
	}
	return list, err
}

// LinkedInstallations are the org's installations with what its settings show, those that GitHub has no more last, by login.
func (o Org) LinkedInstallations(ctx context.Context) (list []millrace.LinkedInstallation, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (i millrace.LinkedInstallation, err error) {
			var suspended, deleted, heard, read, listed, members, reset *time.Time
			err = row.Scan(&i.OrgID, &i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &suspended, &i.LinkedAt, &deleted, &heard, &read, &listed, &members,
				&i.Quota.Limit, &i.Quota.Remaining, &reset)
			i.SuspendedAt, i.DeletedAt, i.HeardAt, i.ReadAt, i.ListedAt, i.MembersAt = val(suspended), val(deleted), val(heard), val(read), val(listed), val(members)
			i.Quota.Reset = val(reset)
			return i, err
		}, `
			SELECT org_id, installation_id, owner_id, owner_login, owner_type, suspended_at, created_at, deleted_at, heard_at, read_at, listed_at,
				members_at, quota_limit, quota_left, quota_reset
			FROM installations WHERE org_id = $1 ORDER BY deleted_at DESC NULLS FIRST, lower(owner_login), installation_id`, o.id)
		return err
	})
	return list, err
}

// Rename gives the org another name. Its short name stays: links and tokens mean it.
func (o Org) Rename(ctx context.Context, by millrace.Caller, name string) error {
	if err := by.Require(millrace.OrgWrite); err != nil {
		return err
	}
	name = strings.TrimSpace(name)
	if err := millrace.CheckName(name); err != nil {
		return err
	}
	return o.tx(ctx, func(tx *Tx) error {
		var slug, before string
		if err := tx.QueryRow(ctx, `SELECT slug, name FROM orgs WHERE org_id = $1 FOR NO KEY UPDATE`, o.id).Scan(&slug, &before); err != nil || before == name {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE orgs SET name = $2 WHERE org_id = $1`, o.id, name); err != nil {
			return err
		}
		tx.announceOrg(o.id)
		return tx.audit(ctx, o.id, by.Actor, "org.renamed", slug, millrace.Change{Field: "name", Before: before, After: name})
	})
}

// HideChecklist puts the checklist of first steps away for everybody in the org, or brings it back.
func (o Org) HideChecklist(ctx context.Context, by millrace.Caller, hidden bool) error {
	if err := by.Require(millrace.OrgWrite); err != nil {
		return err
	}
	return o.tx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE orgs SET checklist_hidden = $2 WHERE org_id = $1`, o.id, hidden)
		return err
	})
}

// SuggestSlug is a short name for the org of a GitHub account that is free now: its login, with a number when that is taken.
// It is a suggestion: whoever comes first gets it.
func (s *Store) SuggestSlug(ctx context.Context, login string) (slug string, err error) {
	base := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsDigit(r) || unicode.IsLower(r)) {
			return r
		}
		return '-'
	}, strings.ToLower(login))
	base = strings.Trim(base[:min(len(base), 35)], "-") // there is room for a number
	if base == "" {
		base = "org"
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		used, err := many(ctx, tx, pgx.RowTo[string], `
			SELECT slug FROM orgs WHERE starts_with(slug, $1)
			UNION
			SELECT slug FROM erased_orgs WHERE starts_with(slug, $1) AND erased_at > $2::timestamptz - interval '30 days'`, base, tx.now)
		if err != nil {
			return err
		}
		known := map[string]bool{}
		for _, slug := range used {
			known[slug] = true
		}
		slug = base
		for n := 2; known[slug]; n++ {
			slug = fmt.Sprintf("%s-%d", base, n)
		}
		return nil
	})
	return slug, err
}
