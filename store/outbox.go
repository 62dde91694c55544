package store

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/migrations"
)

// TaskSchema is the schema of the task queue's tables.
const TaskSchema = migrations.RiverSchema

// RelayOutbox hands waiting tasks to insert, within the transaction that removes them, and returns how many it handed
// on. Several processes may relay at once.
func (s *Store) RelayOutbox(ctx context.Context, insert func(ctx context.Context, tx pgx.Tx, kind string, args []byte) error) (n int, err error) {
	type waiting struct {
		id   int64
		kind string
		args []byte
	}
	err = pgx.BeginFunc(ctx, s.system, func(tx pgx.Tx) error { // the task queue wants a transaction of pgx's own
		tasks, err := many(ctx, &Tx{session: tx}, func(row pgx.CollectableRow) (t waiting, err error) {
			return t, row.Scan(&t.id, &t.kind, &t.args)
		}, `
			WITH next AS (
				SELECT org_id, outbox_id FROM outbox ORDER BY outbox_id LIMIT 200 FOR UPDATE SKIP LOCKED
			)
			DELETE FROM outbox o USING next n WHERE (o.org_id, o.outbox_id) = (n.org_id, n.outbox_id) RETURNING o.outbox_id, o.kind, o.args`)
		if err != nil {
			return err
		}
		slices.SortFunc(tasks, func(a, b waiting) int { return cmp.Compare(a.id, b.id) }) // RETURNING keeps no order
		for _, t := range tasks {
			if err := insert(ctx, tx, t.kind, t.args); err != nil {
				return err
			}
		}
		n = len(tasks)
		return nil
	})
	if err == nil && s.committed != nil {
		s.committed(nil)
	}
	return n, err
}

// task is background work that a use case may ask for.
type task interface{ Kind() string }

// queueTask asks for a task in the transaction that wants it.
func (tx *Tx) queueTask(b *pgx.Batch, org millrace.OrgID, t task) {
	tx.announceTo(topicTasks)
	b.Queue(`INSERT INTO outbox (org_id, kind, args, at) VALUES ($1, $2, $3, $4)`, org, t.Kind(), t, tx.now)
}

// KeepPartitions makes the partitions of the coming time and drops those past retention.
func (s *Store) KeepPartitions(ctx context.Context) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `SELECT keep_partitions($1)`, tx.now)
		return err
	})
}
