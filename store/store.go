// Package store holds every SQL statement. A method is one use case in one transaction; helpers take the transaction.
//
// Two roles log in, each with its own pool. The app role serves pages and the API: [Store.Org] is the only way to a
// tenant's rows, and row-level security refuses every other's. The system role serves intake, placement and the workers,
// which cross tenants. Announcements (LISTEN/NOTIFY) make things fast; polling makes them right.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/memblob" // mem:// URLs, for tests

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/migrations"
)

// Config is what a store needs. Its zero values but the URLs are useful.
type Config struct {
	AppURL    string           // Postgres as millrace_app
	SystemURL string           // Postgres as millrace_system
	BlobURL   string           // where consoles go; "" keeps them in memory
	Prefixes  []string         // label prefixes that are ours; none: "millrace"
	Now       func() time.Time // nil: the database's clock, read once per transaction
	IDs       *millrace.Source // nil: random
	Log       *slog.Logger     // nil: none

	// For a simulator, which is one thread. Committed is called after each commit, in the caller's goroutine, with what is
	// announced; nothing is announced through the database then, and nothing is done in the background. One connection of
	// each role is all it needs.
	Committed func(topics []string)
}

// Store is the database and the blobs beside it.
type Store struct {
	Bus *Bus // announcements

	app, system *pgxpool.Pool
	blobs       *blob.Bucket
	blobDir     string // where these are files; "" elsewhere
	prefixes    []string
	now         func() time.Time
	ids         *millrace.Source
	log         *slog.Logger
	committed   func(topics []string)
	intake      chan intakeRequest
	heard       heard
	learning    learning
	consoles    consoles
	hostOrgs    sync.Map  // of hosts' IDs: their orgs
	passes      sync.Pool // of *millrace.Pass
	fleets      sync.Map  // of org IDs: *fleet
	stop        context.CancelFunc
	stopped     chan struct{}
}

// Open connects both pools and begins to listen. The pools are small on purpose: Postgres does more with few connections.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.IDs == nil {
		cfg.IDs = new(millrace.Source)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.BlobURL == "" {
		cfg.BlobURL = "mem://"
	}
	if len(cfg.Prefixes) == 0 {
		cfg.Prefixes = []string{"millrace"}
	}
	conns := int32(16)
	if cfg.Committed != nil {
		conns = 1
	}
	app, err := connect(ctx, cfg.AppURL, conns, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to Postgres as the app role: %w", err)
	}
	// Its statements are the same few, on rows that keys name: planned anew each time, as Postgres likes to where there are
	// partitions or arrays, they would take up to half of their time for that. A plan that was made while a table was small stays
	// while it grows, so that none may read all of it. What has no other way costs so much, by the planner's figures, that it would
	// be compiled first each time. Rows are read one by one as an index has them: that marks there which are dead, and a bitmap doesn't.
	system, err := connect(ctx, cfg.SystemURL, conns, map[string]string{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"})
	if err != nil {
		app.Close()
		return nil, fmt.Errorf("connecting to Postgres as the system role: %w", err)
	}
	blobs, blobDir, err := openBlobs(ctx, cfg.BlobURL)
	if err != nil {
		app.Close()
		system.Close()
		return nil, fmt.Errorf("opening the blob store: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{
		Bus: newBus(), app: app, system: system, blobs: blobs, blobDir: blobDir, prefixes: cfg.Prefixes, now: cfg.Now, ids: cfg.IDs, log: cfg.Log,
		committed: cfg.Committed, intake: make(chan intakeRequest), stop: stop, stopped: make(chan struct{}),
		passes: sync.Pool{New: func() any { return new(millrace.Pass) }},
	}
	s.heard.since = s.clock()
	if s.committed != nil {
		close(s.stopped)
		return s, nil
	}
	listening := make(chan struct{})
	go func() {
		defer close(s.stopped)
		var wg sync.WaitGroup
		wg.Go(func() { s.commitIntake(running) })
		wg.Go(func() { s.Bus.tell(running, system, s.log) })
		s.Bus.listen(running, system, s.log, listening)
		wg.Wait()
	}()
	select {
	case <-listening:
	case <-ctx.Done():
		s.Close()
		return nil, ctx.Err()
	}
	return s, nil
}

// Away reports whether an error says that Postgres can't be reached or won't talk now, as while it is restarted: it may be
// back soon. What a person must correct (a password, a database's name) is another matter.
func Away(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return strings.HasPrefix(refused.Code, "57P0") || strings.HasPrefix(refused.Code, "08") || refused.Code == tooManyConnections
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connecting) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// ErrAway is what people and programs are told then: the use case's error wraps it, and what happened.
var ErrAway = millrace.Errorf(millrace.Unavailable, "The database can't be reached just now. Try again in a moment.")

// retryAway is how long to wait before Postgres is tried again.
const retryAway = 200 * time.Millisecond

// Await does what needs Postgres, again and again while that is away. When ctx ends first, its error comes with the last.
func Await(ctx context.Context, log *slog.Logger, do func() error) error {
	for {
		err := do()
		if !Away(err) {
			return err
		}
		log.Warn("Postgres is away; trying again", "error", err)
		select {
		case <-time.After(retryAway):
		case <-ctx.Done():
			return fmt.Errorf("%w while Postgres is away: %w", ctx.Err(), err)
		}
	}
}

// tooManyConnections is Postgres's error code: those of a process that was killed end in their own time.
const tooManyConnections = "53300"

// openBlobs opens a blob store. That of a directory writes its files where they belong, and not in the temporary directory
// first: this may be on another file system, or missing.
func openBlobs(ctx context.Context, address string) (bucket *blob.Bucket, dir string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, "", err
	}
	if u.Scheme == fileblob.Scheme {
		dir = filepath.FromSlash(u.Path)
		q := u.Query()
		q.Set("no_tmp_dir", "true")
		q.Set("create_dir", "true")
		q.Set("metadata", "skip") // of which we keep none: it would be a second file for each
		u.RawQuery = q.Encode()
	}
	bucket, err = blob.OpenBucket(ctx, u.String())
	return bucket, dir, err
}

func connect(ctx context.Context, url string, size int32, settings map[string]string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = size
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.ConnConfig.RuntimeParams["application_name"] = "millrace"
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = "30000"
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = "10000"
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60000"
	maps.Copy(cfg.ConnConfig.RuntimeParams, settings)
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		types := conn.TypeMap()
		types.TryWrapEncodePlanFuncs = append([]pgtype.TryWrapEncodePlanFunc{encodeID}, types.TryWrapEncodePlanFuncs...)
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// encodeID sends IDs as the bytes that they are. By itself pgx asks them for their text, reads that, and encodes what it read.
func encodeID(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
	id, ok := value.(identifier)
	if !ok {
		return nil, nil, false
	}
	return &idPlan{}, id.Bytes(), true
}

// identifier is any kind's [millrace.ID].
type identifier interface{ Bytes() [16]byte }

type idPlan struct{ bytes pgtype.EncodePlan }

func (p *idPlan) SetNext(next pgtype.EncodePlan) { p.bytes = next }

func (p *idPlan) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(identifier).Bytes()
	if id == [16]byte{} {
		return nil, nil // NULL
	}
	return p.bytes.Encode(id, buf)
}

// Close ends the listener and the pools, after the use cases that are under way.
func (s *Store) Close() {
	s.stop()
	<-s.stopped
	s.app.Close()
	s.system.Close()
	s.blobs.Close()
}

// Ready reports an error unless the store can commit and the migrations are applied.
func (s *Store) Ready(ctx context.Context) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		var version int64
		if err := tx.QueryRow(ctx, `SELECT schema_version()`).Scan(&version); err != nil {
			return err
		}
		if latest := migrations.Latest(); version < latest {
			return fmt.Errorf("the schema is at version %d and this program needs %d: run millraced migrate up", version, latest)
		}
		var readOnly bool
		// The transaction's ID makes the commit a real one.
		if err := tx.QueryRow(ctx, `SELECT pg_current_xact_id() IS NULL OR current_setting('transaction_read_only')::boolean`).Scan(&readOnly); err != nil {
			return err
		}
		if readOnly {
			return errors.New("the database is read-only")
		}
		return nil
	})
}

// SystemPool is the system role's pool, for the task queue's client alone.
func (s *Store) SystemPool() *pgxpool.Pool { return s.system }

// Org is one tenant's part of the store: the app role, with the tenant set for each transaction.
type Org struct {
	id    millrace.OrgID
	store *Store
}

// Org is the part of the store that belongs to org.
func (s *Store) Org(org millrace.OrgID) Org { return Org{org, s} }

func (o Org) tx(ctx context.Context, do func(*Tx) error) error {
	return o.store.tx(ctx, o.store.app, o.id, do)
}

// taken maps a constraint to the sentence that a person sees when it is violated.
var taken = map[string]string{
	"orgs_slug_key":                  "This short name is taken.",
	"hosts_name_key":                 "A host with this name already exists.",
	"hosts_sign_key_key":             "A host with this key already exists; every host makes its own keys.",
	"installations_installation_key": "This GitHub account belongs to another org.",
	"installations_owner_key":        "This GitHub account belongs to another org.",
}

// notUTF8 is Postgres's error code (character_not_in_repertoire) for a text that it can't hold.
const notUTF8 = "22021"

// friendly turns what the database refuses, or does not have, into what a person may be told.
func friendly(err error) error {
	var e *millrace.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return millrace.Errorf(millrace.NotFound, "There is no such thing here.")
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		if sentence, ok := taken[pgErr.ConstraintName]; ok {
			return millrace.Errorf(millrace.Conflict, "%s", sentence)
		}
		if pgErr.Code == notUTF8 {
			return millrace.Errorf(millrace.Invalid, "A text holds a NUL or is not UTF-8.")
		}
	}
	if Away(err) {
		return fmt.Errorf("%w %w", ErrAway, err)
	}
	return err
}
