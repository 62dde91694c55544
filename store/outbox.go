package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace/migrations"
)

// TaskSchema is the schema of the task queue's tables.
const TaskSchema = migrations.RiverSchema

// RelayOutbox hands waiting tasks to insert, within the transaction that removes them, and returns how many it handed
// on. Several processes may relay at once.
func (s *Store) RelayOutbox(ctx context.Context, insert func(ctx context.Context, tx pgx.Tx, kind string, args []byte) error) (n int, err error) {
	type task struct {
		kind string
		args []byte
	}
	err = pgx.BeginFunc(ctx, s.system, func(tx pgx.Tx) error { // the task queue wants a transaction of pgx's own
		tasks, err := many(ctx, &Tx{session: tx}, func(row pgx.CollectableRow) (t task, err error) {
			return t, row.Scan(&t.kind, &t.args)
		}, `
			WITH next AS (
				SELECT org_id, outbox_id FROM outbox ORDER BY outbox_id LIMIT 200 FOR UPDATE SKIP LOCKED
			)
			DELETE FROM outbox o USING next n WHERE (o.org_id, o.outbox_id) = (n.org_id, n.outbox_id) RETURNING o.kind, o.args`)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if err := insert(ctx, tx, t.kind, t.args); err != nil {
				return err
			}
		}
		n = len(tasks)
		return nil
	})
	return n, err
}

// KeepPartitions makes the partitions of the coming time and drops those past retention.
func (s *Store) KeepPartitions(ctx context.Context) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `SELECT keep_partitions($1)`, tx.now)
		return err
	})
}
