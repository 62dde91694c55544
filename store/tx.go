package store

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-ci/millrace"
)

// Tx is a transaction and the one time it happens at.
type Tx struct {
	session
	now    time.Time
	ids    *millrace.Source
	org    millrace.OrgID // of the app role's transactions
	topics map[string]bool
	last   pgx.Batch // travels with COMMIT: none of it may announce anything, nor have a say in whether it is committed, but by failing in Postgres
	log    *slog.Logger
}

// session is what a transaction's statements need of a connection.
type session interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// lingers is how long a transaction may go on whose caller has gone.
const lingers = 5 * time.Second

// lingering is a connection for one transaction. A statement that is cut costs its connection, and a new one costs Postgres as
// much as hundreds of statements: agents cut their polls whenever they have news. So what has begun goes on for a while when
// its caller's context ends.
type lingering struct {
	conn *pgxpool.Conn
	ctx  context.Context //nolint:containedctx // it is the transaction's
	stop func()
}

// acquire waits for a connection until ctx ends.
func acquire(ctx context.Context, pool *pgxpool.Pool) (*lingering, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	gone := context.AfterFunc(ctx, func() {
		time.AfterFunc(lingers, func() { cancel(context.Cause(ctx)) })
	})
	return &lingering{conn, work, func() { gone(); cancel(nil) }}, nil
}

func (l *lingering) release() {
	l.stop()
	l.conn.Release()
}

// Exec, Query, QueryRow and SendBatch are the connection's.
func (l *lingering) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return l.conn.Exec(l.ctx, sql, args...)
}

func (l *lingering) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	return l.conn.Query(l.ctx, sql, args...)
}

func (l *lingering) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	return l.conn.QueryRow(l.ctx, sql, args...)
}

func (l *lingering) SendBatch(_ context.Context, b *pgx.Batch) pgx.BatchResults {
	return l.conn.SendBatch(l.ctx, b)
}

// systemTx runs do in a transaction of the system role.
func (s *Store) systemTx(ctx context.Context, do func(*Tx) error) error {
	return s.tx(ctx, s.system, 0, do)
}

// lookupTx runs do in a transaction of the app role without a tenant: it sees what the lookup functions tell.
func (s *Store) lookupTx(ctx context.Context, do func(*Tx) error) error {
	return s.tx(ctx, s.app, 0, do)
}

// roundTrip runs statements in one round trip, and says when that was. Postgres makes what is sent at once one transaction,
// with no BEGIN or COMMIT to run (its manual, "Pipelining", in the chapter on the protocol).
func (s *Store) roundTrip(ctx context.Context, pool *pgxpool.Pool, org millrace.OrgID, queue func(*pgx.Batch)) (time.Time, error) {
	var b pgx.Batch
	tx := &Tx{org: org}
	s.queueSetting(&b, pool, tx)
	queue(&b)
	conn, err := acquire(ctx, pool)
	if err != nil {
		return time.Time{}, friendly(err)
	}
	defer conn.release()
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return time.Time{}, friendly(err)
	}
	if s.now != nil {
		tx.now = s.now()
	}
	if s.committed != nil {
		s.committed(nil)
	}
	return tx.now, nil
}

// tx runs do in a transaction. What opens it, and what comes first, travels with BEGIN; what it announces with COMMIT: most
// use cases take as long as their round trips.
func (s *Store) tx(ctx context.Context, pool *pgxpool.Pool, org millrace.OrgID, do func(*Tx) error, first ...func(*Tx, *pgx.Batch)) error {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return friendly(err)
	}
	defer conn.release() // a connection that is still in a transaction is closed by it
	tx := &Tx{session: conn, org: org, ids: s.ids, topics: map[string]bool{}, log: s.log}
	var opening pgx.Batch
	opening.Queue(`BEGIN`)
	s.queueSetting(&opening, pool, tx)
	for _, queue := range first {
		queue(tx, &opening)
	}
	err = tx.SendBatch(ctx, &opening).Close()
	if s.now != nil {
		tx.now = s.now()
	}
	if err == nil {
		err = do(tx)
	}
	if err == nil {
		err = s.commit(ctx, tx)
	}
	if err != nil {
		_, _ = tx.Exec(ctx, `ROLLBACK`) // else Release sees to it
	}
	return friendly(err)
}

// clock is this process's time; what is decided by the database's is read in a transaction.
func (s *Store) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

// at is the time for a statement that takes its own where this is nil.
func (s *Store) at() any {
	if s.now == nil {
		return nil
	}
	return s.now()
}

// queueSetting reads a transaction's time and sets its tenant. The system role has none.
func (s *Store) queueSetting(b *pgx.Batch, pool *pgxpool.Pool, tx *Tx) {
	switch {
	case pool == s.app:
		b.Queue(`SELECT transaction_timestamp(), set_config('app.org_id', $1, true)`, tenant(tx.org)).QueryRow(func(row pgx.Row) error {
			return row.Scan(&tx.now, nil)
		})
	case s.now == nil:
		b.Queue(`SELECT transaction_timestamp()`).QueryRow(func(row pgx.Row) error { return row.Scan(&tx.now) })
	}
}

// tenant is the setting that row-level security compares with; none is no org's.
func tenant(org millrace.OrgID) string {
	if org == 0 {
		return ""
	}
	return strconv.FormatInt(int64(org), 10)
}

// commit commits and makes the announcements.
func (s *Store) commit(ctx context.Context, tx *Tx) error {
	b := &tx.last
	topics := slices.Sorted(maps.Keys(tx.topics))
	if len(DemandOf(topics)) > 0 {
		b.Queue(`SELECT pg_current_xact_id()::text`).QueryRow(func(row pgx.Row) (err error) {
			var id string
			err = row.Scan(&id)
			topics = append(topics, topicXID+":"+id)
			return err
		})
	}
	b.Queue(`COMMIT`).Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" { // Postgres ends a transaction in which a statement failed with ROLLBACK
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	s.announce(topics)
	return nil
}

// announce announces topics, if any.
func (s *Store) announce(topics []string) {
	switch {
	case s.committed != nil:
		s.committed(topics)
	case len(topics) > 0:
		s.Bus.announce(topics)
	}
}
