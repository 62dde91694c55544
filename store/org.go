package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const orgColumns = `org_id, slug, name, plan, concurrency, default_cpu, default_memory, actuated_labels, created_at`

func scanOrg(row pgx.CollectableRow) (o millrace.Org, err error) {
	err = row.Scan(&o.ID, &o.Slug, &o.Name, &o.Plan, &o.Concurrency, &o.DefaultSize.MilliCPU, &o.DefaultSize.MemoryMB, &o.ActuatedLabels, &o.CreatedAt)
	return o, err
}

func (tx *Tx) readOrg(ctx context.Context, org millrace.OrgID) (millrace.Org, error) {
	return one(ctx, tx, scanOrg, `SELECT `+orgColumns+` FROM orgs WHERE org_id = $1`, org)
}

// LabelPrefix is what labels for this server begin with; it may understand others, too.
func (s *Store) LabelPrefix() string { return s.prefixes[0] }

// Read is the org itself.
func (o Org) Read(ctx context.Context) (org millrace.Org, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		org, err = tx.readOrg(ctx, o.id)
		return err
	})
	return org, err
}

// OrgBySlug finds an org by its short name.
func (s *Store) OrgBySlug(ctx context.Context, slug string) (org millrace.Org, err error) {
	err = s.lookupTx(ctx, func(tx *Tx) error {
		id, err := tx.orgOf(ctx, `SELECT org_of_slug($1)`, slug)
		if err != nil {
			return err
		}
		org, err = tx.readOrg(ctx, id)
		return err
	})
	return org, err
}

// orgOf asks a lookup function which org a key belongs to, and enters that org. NotFound when it is no org's.
func (tx *Tx) orgOf(ctx context.Context, lookup string, key any) (millrace.OrgID, error) {
	var id *millrace.OrgID
	if err := tx.QueryRow(ctx, lookup, key).Scan(&id); err != nil {
		return 0, err
	}
	if id == nil {
		return 0, pgx.ErrNoRows
	}
	tx.org = *id
	_, err := tx.Exec(ctx, `SELECT set_config('app.org_id', $1, true)`, tenant(*id))
	return *id, err
}

// NewOrg is an org to make.
type NewOrg struct {
	Slug, Name    string
	Concurrency   int // 0: the trial plan's
	DefaultSize   millrace.Size
	Owner         millrace.User
	Installations []millrace.Installation
}

// CreateOrg makes an org with its owner and installations. An org with this slug is kept and brought up to date, so that
// it may be called at every start of a development system. The slug of an org that was deleted is taken until 30 days
// after it was erased.
func (s *Store) CreateOrg(ctx context.Context, n NewOrg) (org millrace.Org, owner millrace.User, err error) {
	if err := millrace.CheckSlug(n.Slug); err != nil {
		return org, owner, err
	}
	owner = n.Owner
	err = s.systemTx(ctx, func(tx *Tx) error {
		org, err = tx.insertOrg(ctx, n, `
			ON CONFLICT ON CONSTRAINT orgs_slug_key DO UPDATE SET name = excluded.name, concurrency = excluded.concurrency
			WHERE orgs.deleted_at IS NULL`)
		if errors.Is(err, pgx.ErrNoRows) { // it is being erased
			return millrace.Errorf(millrace.Conflict, "%s", taken["orgs_slug_key"])
		}
		if err != nil {
			return err
		}
		if err := tx.saveUser(ctx, &owner); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO memberships (org_id, user_id, role, created_at, chosen) VALUES ($1, $2, $3, $4, true)
			ON CONFLICT ON CONSTRAINT memberships_pkey DO NOTHING`, org.ID, owner.ID, millrace.RoleOwner, tx.now)
		if err != nil {
			return err
		}
		for _, i := range n.Installations {
			if err := tx.saveInstallation(ctx, org.ID, i); err != nil {
				return err
			}
		}
		return tx.audit(ctx, org.ID, millrace.Actor{Kind: millrace.ActorSystem}, "org.created", org.Slug, millrace.Change{Field: "name", After: org.Name})
	})
	return org, owner, err
}

// insertOrg makes an org in the trial plan; a slug that is taken is refused unless conflict says what becomes of it.
func (tx *Tx) insertOrg(ctx context.Context, n NewOrg, conflict string) (millrace.Org, error) {
	plan, _ := millrace.PlanNamed(millrace.PlanTrial)
	if n.Concurrency == 0 {
		n.Concurrency = plan.Concurrency
	}
	return one(ctx, tx, scanOrg, `
		INSERT INTO orgs (slug, name, plan, concurrency, default_cpu, default_memory, actuated_labels, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, false, $7)`+conflict+`
		RETURNING `+orgColumns,
		n.Slug, n.Name, plan.Name, n.Concurrency, n.DefaultSize.MilliCPU, n.DefaultSize.MemoryMB, tx.now)
}

// saveInstallation links an installation to org. One that belongs to another org is a Conflict.
func (tx *Tx) saveInstallation(ctx context.Context, org millrace.OrgID, i millrace.Installation) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO installations (org_id, installation_id, owner_id, owner_login, owner_type, jit_left, jit_at, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
		ON CONFLICT ON CONSTRAINT installations_pkey DO UPDATE SET owner_login = excluded.owner_login, suspended_at = NULL`,
		org, i.ID, i.OwnerID, i.OwnerLogin, i.OwnerType, millrace.JITPerMinute, tx.now)
	return err
}

// one collects exactly one row; pgx.ErrNoRows when there is none.
func one[T any](ctx context.Context, tx *Tx, scan pgx.RowToFunc[T], sql string, args ...any) (T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		var zero T
		return zero, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

// many collects all rows; never nil.
func many[T any](ctx context.Context, tx *Tx, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// ptr is nil for the zero time, which is NULL in the database.
func ptr(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// val is the zero time for NULL.
func val(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// FleetCounts are how many jobs, VMs and hosts there are over all orgs, for operators.
type FleetCounts struct {
	Jobs        map[millrace.JobStatus]int // not completed
	VMs         map[millrace.VMState]int   // not gone
	HostsOnline int
}

// FleetCounts counts.
func (s *Store) FleetCounts(ctx context.Context) (c FleetCounts, err error) {
	c.Jobs, c.VMs = map[millrace.JobStatus]int{}, map[millrace.VMState]int{}
	err = s.systemTx(ctx, func(tx *Tx) error {
		rows, err := tx.Query(ctx, `SELECT status::text, count(*) FROM jobs WHERE status <> 'completed' GROUP BY status`)
		if err != nil {
			return err
		}
		var name string
		var n int
		if _, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { c.Jobs[millrace.JobStatus(name)] = n; return nil }); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, `SELECT state, count(*) FROM vms WHERE gone_at IS NULL GROUP BY state`); err != nil {
			return err
		}
		if _, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { c.VMs[millrace.VMState(name)] = n; return nil }); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT count(*) FROM host_beats WHERE seen_at > $1`, tx.now.Add(-millrace.OfflineAfter)).Scan(&c.HostsOnline)
	})
	return c, err
}
