package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// A sweep of failed deliveries goes back to where the last one ended, and a little further: clocks differ, and GitHub
// lists a delivery only once its answer came or timed out. What it finds twice it has noted.
const (
	sweepOverlap  = 10 * time.Minute
	sweepFirst    = 3 * 24 * time.Hour // as long as GitHub keeps deliveries, at the least
	sweepForget   = 8 * 24 * time.Hour
	deliveriesRow = "deliveries"
)

// Sweep is a sweep of failed deliveries under way.
type Sweep struct {
	At    time.Time // it began
	Since time.Time // deliveries before were swept
}

// BeginSweep says where a sweep begins.
func (s *Store) BeginSweep(ctx context.Context) (w Sweep, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		w = Sweep{At: tx.now, Since: tx.now.Add(-sweepFirst)}
		var swept time.Time
		err := tx.QueryRow(ctx, `SELECT swept_at FROM sweeps WHERE name = $1`, deliveriesRow).Scan(&swept)
		if millrace.CodeOf(friendly(err)) == millrace.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		w.Since = swept.Add(-sweepOverlap)
		return nil
	})
	return w, err
}

// EndSweep notes that all failed deliveries before upTo are dealt with: the next sweep begins there.
func (s *Store) EndSweep(ctx context.Context, upTo time.Time) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		var b pgx.Batch
		b.Queue(`
			INSERT INTO sweeps (name, swept_at) VALUES ($1, $2)
			ON CONFLICT ON CONSTRAINT sweeps_pkey DO UPDATE SET swept_at = excluded.swept_at`, deliveriesRow, upTo)
		b.Queue(`DELETE FROM redeliveries WHERE asked_at < $1`, tx.now.Add(-sweepForget))
		return tx.SendBatch(ctx, &b).Close()
	})
}

// AppPause is until when GitHub has asked the App, as itself, not to call; zero when it may.
func (s *Store) AppPause(ctx context.Context) (until time.Time, err error) {
	var asked *time.Time
	now, err := s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`SELECT max(not_before) FROM sweeps WHERE name = $1`, deliveriesRow).QueryRow(func(row pgx.Row) error { return row.Scan(&asked) })
	})
	if asked == nil || !asked.After(now) {
		return time.Time{}, err
	}
	return *asked, err
}

// PauseApp keeps every process from calling GitHub as the App itself before a time, over restarts too.
func (s *Store) PauseApp(ctx context.Context, until time.Time) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO sweeps (name, swept_at, not_before) VALUES ($1, $2, $3)
			ON CONFLICT ON CONSTRAINT sweeps_pkey DO UPDATE SET not_before = excluded.not_before`, deliveriesRow, tx.now.Add(-sweepFirst), until)
		return err
	})
}

// Redelivery is what was done about the tries of one delivery.
type Redelivery struct {
	Tries       int // that GitHub was asked for
	First, Last time.Time
	Done        map[int64]bool
}

// Redeliveries says, for each of these GUIDs that GitHub was asked to deliver again, when and for which failed tries.
func (s *Store) Redeliveries(ctx context.Context, guids []string) (known map[string]Redelivery, err error) {
	known = map[string]Redelivery{}
	err = s.systemTx(ctx, func(tx *Tx) error {
		rows, err := tx.Query(ctx, `SELECT guid, delivery_id, asked_at FROM redeliveries WHERE guid = ANY($1) ORDER BY delivery_id`, guids)
		if err != nil {
			return err
		}
		var guid string
		var id int64
		var at time.Time
		_, err = pgx.ForEachRow(rows, []any{&guid, &id, &at}, func() error {
			r := known[guid]
			if r.Done == nil {
				r.Done = map[int64]bool{}
			}
			if r.Tries++; r.First.IsZero() || at.Before(r.First) {
				r.First = at
			}
			r.Done[id] = true
			if at.After(r.Last) {
				r.Last = at
			}
			known[guid] = r
			return nil
		})
		return err
	})
	return known, err
}

// SaveRedelivery notes that GitHub was asked to deliver d again. It is noted after the asking: a repeat is harmless, one
// that is left out is not.
func (s *Store) SaveRedelivery(ctx context.Context, d millrace.DeliveryTry) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO redeliveries (delivery_id, guid, asked_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, d.ID, d.GUID, tx.now)
		return err
	})
}

// RunnersToSweep are where runners of an installation register, with the VMs that may still have one.
type RunnersToSweep struct {
	OrgID  millrace.OrgID
	Target millrace.RunnerTarget
}

// RunnerTargets are all places where runners of ours register: each organisation, and of personal accounts each repository
// that had a job lately.
func (s *Store) RunnerTargets(ctx context.Context) (list []RunnersToSweep, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (t RunnersToSweep, err error) {
			var installation int64
			var owner, repository string
			var kind millrace.OwnerType
			err = row.Scan(&t.OrgID, &installation, &owner, &kind, &repository)
			t.Target = registersAt(installation, owner, kind, repository)
			return t, err
		}, `
			SELECT i.org_id, i.installation_id, i.owner_login, i.owner_type, coalesce(r.full_name, '')
			FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL LEFT JOIN repositories r
				ON i.owner_type = 'User' AND (r.org_id, r.installation_id) = (i.org_id, i.installation_id) AND r.seen_at > $1
			WHERE i.deleted_at IS NULL AND (i.owner_type = 'Organization' OR r.full_name IS NOT NULL)
				AND NOT EXISTS (SELECT FROM incidents c WHERE (c.org_id, c.installation_id) = (i.org_id, i.installation_id) AND c.closed_at IS NULL AND c.code = ANY($2))
			ORDER BY i.org_id, i.installation_id, r.repository_id`, tx.now.Add(-2*24*time.Hour), millrace.StopsCalls)
		return err
	})
	return list, err
}

// orphanAfter is how long a VM must be gone before a registration that is left of it is removed: the task that follows its
// end comes first.
const orphanAfter = time.Minute

// OrphanRunners are those of runners whose VM, by the name that it registers under, is gone or being destroyed. Runners
// that no VM of org ever was are left alone: they are somebody else's.
func (s *Store) OrphanRunners(ctx context.Context, org millrace.OrgID, runners []millrace.Runner) (orphans []millrace.Runner, err error) {
	byName := make(map[string]millrace.Runner, len(runners))
	names := make([]string, 0, len(runners))
	for _, r := range runners {
		byName[r.Name] = r
		names = append(names, r.Name)
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		gone, err := many(ctx, tx, pgx.RowTo[string], `
			SELECT runner_name FROM vms WHERE org_id = $1 AND runner_name = ANY($2) AND state IN ('stopping', 'gone') AND changed_at <= $3 ORDER BY vm_id`,
			org, names, tx.now.Add(-orphanAfter))
		for _, name := range gone {
			orphans = append(orphans, byName[name])
		}
		return err
	})
	return orphans, err
}
