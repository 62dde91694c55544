package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// queueSettings has an org's placement settings read into s.
func queueSettings(b *pgx.Batch, org millrace.OrgID, s *millrace.PlacementSettings) {
	b.Queue(`SELECT strategy FROM orgs WHERE org_id = $1 AND deleted_at IS NULL`, org).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&s.Strategy}, func() error { return nil }) // it may have been deleted
		return err
	})
	b.Queue(`
		SELECT repository_id, full_name, priority, vm_limit FROM repositories
		WHERE org_id = $1 AND (priority <> 0 OR vm_limit <> 0) ORDER BY repository_id`, org).Query(func(rows pgx.Rows) (err error) {
		s.Shares, err = pgx.CollectRows(rows, scanShare)
		return err
	})
	b.Queue(`SELECT `+zoneColumns+` FROM zone_rules WHERE org_id = $1 ORDER BY zone`, org).Query(func(rows pgx.Rows) (err error) {
		s.Zones, err = pgx.CollectRows(rows, scanZone)
		return err
	})
}

func scanShare(row pgx.CollectableRow) (s millrace.Share, err error) {
	return s, row.Scan(&s.RepositoryID, &s.Repository, &s.Priority, &s.Limit)
}

const zoneColumns = `zone, allowed, host_labels, egress, max_cpu, max_memory`

func scanZone(row pgx.CollectableRow) (r millrace.ZoneRule, err error) {
	return r, row.Scan(&r.Zone, &r.Allowed, &r.HostLabels, &r.Egress, &r.MaxSize.MilliCPU, &r.MaxSize.MemoryMB)
}

// PlacementSettings are what the org's owners and admins decided of placement.
func (o Org) PlacementSettings(ctx context.Context) (s millrace.PlacementSettings, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		s, err = tx.placementSettings(ctx, o.id)
		return err
	})
	return s, err
}

func (tx *Tx) placementSettings(ctx context.Context, org millrace.OrgID) (s millrace.PlacementSettings, err error) {
	var b pgx.Batch
	queueSettings(&b, org, &s)
	return s, tx.SendBatch(ctx, &b).Close()
}

// ChangePlacement changes how the org's jobs are placed, and has those that wait looked at by what holds now. A repository
// that is not the org's is NotFound, what no setting can be Unprocessable; then nothing is changed.
func (o Org) ChangePlacement(ctx context.Context, by millrace.Caller, change millrace.PlacementChange) (s millrace.PlacementSettings, err error) {
	if err := by.Require(millrace.OrgWrite); err != nil {
		return s, err
	}
	err = o.tx(ctx, func(tx *Tx) error {
		var slug string
		if err := tx.QueryRow(ctx, `SELECT slug FROM orgs WHERE org_id = $1 FOR NO KEY UPDATE`, o.id).Scan(&slug); err != nil {
			return err
		}
		before, err := tx.placementSettings(ctx, o.id)
		if err != nil {
			return err
		}
		changes, err := tx.changePlacement(ctx, o.id, before, change)
		if err != nil {
			return err
		}
		if s, err = tx.placementSettings(ctx, o.id); err != nil || len(changes) == 0 {
			return err
		}
		tx.announceRules(o.id)
		return tx.audit(ctx, o.id, by.Actor, "placement.changed", slug, changes...)
	})
	return s, err
}

// changePlacement writes what differs from before, and returns it.
func (tx *Tx) changePlacement(ctx context.Context, org millrace.OrgID, before millrace.PlacementSettings, change millrace.PlacementChange) (changes []millrace.Change, err error) {
	note := func(field, was, is string) {
		if was != is {
			changes = append(changes, millrace.Change{Field: field, Before: was, After: is})
		}
	}
	if to := change.Strategy; to != nil && *to != before.Strategy {
		if err := to.Check(); err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `UPDATE orgs SET strategy = $2 WHERE org_id = $1`, org, *to); err != nil {
			return nil, err
		}
		note("strategy", string(before.Strategy), string(*to))
	}
	if err := tx.lockShares(ctx, org, change.Shares); err != nil {
		return nil, err
	}
	for _, c := range change.Shares {
		was, err := one(ctx, tx, scanShare, `
			SELECT repository_id, full_name, priority, vm_limit FROM repositories
			WHERE org_id = $1 AND (repository_id = $2 OR $2 = 0 AND lower(full_name) = lower($3) AND unlisted_at IS NULL)
			ORDER BY seen_at DESC, repository_id LIMIT 1`, org, c.RepositoryID, c.Repository)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, millrace.Errorf(millrace.NotFound, "The org has no such repository.")
		}
		if err != nil {
			return nil, err
		}
		to, err := c.Apply(was)
		if err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE repositories SET priority = $3, vm_limit = $4 WHERE (org_id, repository_id) = ($1, $2)`, org, to.RepositoryID, to.Priority, to.Limit); err != nil {
			return nil, err
		}
		note(was.Repository+" priority", strconv.Itoa(was.Priority), strconv.Itoa(to.Priority))
		note(was.Repository+" limit", limit(was.Limit), limit(to.Limit))
	}
	for _, c := range change.Zones {
		was := before.Zone(c.Zone)
		to, err := c.Apply(was)
		if err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO zone_rules (org_id, `+zoneColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT ON CONSTRAINT zone_rules_pkey DO UPDATE SET
				allowed = excluded.allowed, host_labels = excluded.host_labels, egress = excluded.egress, max_cpu = excluded.max_cpu, max_memory = excluded.max_memory`,
			org, to.Zone, to.Allowed, to.HostLabels, to.Egress, to.MaxSize.MilliCPU, to.MaxSize.MemoryMB); err != nil {
			return nil, err
		}
		jobs := to.Zone.Jobs()
		note(jobs, onOff(was.Allowed), onOff(to.Allowed))
		note("host labels of "+jobs, strings.Join(was.HostLabels, ", "), strings.Join(to.HostLabels, ", "))
		note("egress of "+jobs, string(was.Egress), string(to.Egress))
		note("largest vCPU of "+jobs, most(was.MaxSize.MilliCPU), most(to.MaxSize.MilliCPU))
		note("largest memory of "+jobs, limit(was.MaxSize.MemoryMB), limit(to.MaxSize.MemoryMB))
	}
	return changes, nil
}

// lockShares locks repositories in the order in which intake does, whatever the request's is.
func (tx *Tx) lockShares(ctx context.Context, org millrace.OrgID, shares []millrace.ShareChange) error {
	ids, names := make([]int64, len(shares)), make([]string, len(shares))
	for i, c := range shares {
		ids[i], names[i] = c.RepositoryID, c.Repository
	}
	_, err := tx.Exec(ctx, `
		SELECT FROM repositories
		WHERE org_id = $1 AND (repository_id = ANY($2) OR lower(full_name) IN (SELECT lower(name) FROM unnest($3::text[]) AS t (name)) AND unlisted_at IS NULL)
		ORDER BY repository_id FOR NO KEY UPDATE`, org, ids, names)
	return err
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// limit is n in words, 0 being no limit.
func limit(n int) string {
	if n == 0 {
		return "no limit"
	}
	return strconv.Itoa(n)
}

// most is thousandths in words, 0 being no limit.
func most(milli int) string {
	if milli == 0 {
		return limit(0)
	}
	return fmt.Sprint(float64(milli) / 1000)
}

// mostNames bounds the repositories that a form proposes.
const mostNames = 500

// RepositoryNames are the names of the repositories that the org's installations see, at most 500, in order of the alphabet.
func (o Org) RepositoryNames(ctx context.Context) (names []string, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		names, err = many(ctx, tx, pgx.RowTo[string], `
			SELECT full_name FROM repositories WHERE org_id = $1 AND unlisted_at IS NULL ORDER BY lower(full_name), repository_id LIMIT $2`, o.id, mostNames)
		return err
	})
	return names, err
}
