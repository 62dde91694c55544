// Package storetest opens stores on a real Postgres for tests: each on a database of its own, a clone of a migrated
// template, with both roles logged in as they are in production.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/store"
)

var (
	server  *pg.Server
	counter atomic.Int64
)

// cluster is a superuser's URL of the Postgres that tests use, with the migrated template in it. TEST_DATABASE_URL names
// one that runs; otherwise one is started for this process.
var cluster = sync.OnceValues(func() (string, error) {
	ctx := context.Background()
	superuser := os.Getenv("TEST_DATABASE_URL")
	if superuser == "" {
		dir, err := os.MkdirTemp("", "mrtest")
		if err != nil {
			return "", err
		}
		// An unusual time zone shows what depends on the server's.
		server, err = pg.Start(ctx, pg.Options{Dir: dir, Settings: map[string]string{"timezone": "Canada/Newfoundland"}})
		if err != nil {
			return "", err
		}
		stop = func() {
			if err := server.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "storetest:", err)
			}
			os.RemoveAll(dir)
		}
		superuser = server.URL("postgres", "postgres")
	}
	conn, err := pgx.Connect(ctx, superuser)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	// Another process may be making the template: one at a time, and it is made anew for each so that it is never stale.
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(7357)`); err != nil {
		return "", err
	}
	if _, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+template()); err != nil {
		return "", err
	}
	if err := migrations.Roles(ctx, superuser, template()); err != nil {
		return "", err
	}
	return superuser, migrations.Up(ctx, as(superuser, "millrace_migrate", template()))
})

var stop = func() {}

func template() string { return fmt.Sprintf("template_%d", os.Getpid()) }

// Main runs a package's tests and then stops the Postgres that they started. Every package that calls [Open] has it as
// its TestMain.
func Main(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// as is the superuser's URL as another role, for another database.
func as(superuser, role, database string) string {
	u, err := url.Parse(superuser)
	if err != nil {
		return superuser
	}
	u.User = url.User(role)
	u.Path = "/" + database
	return u.String()
}

// Database is a database of a test's own.
type Database struct {
	Name      string
	Superuser string // URLs
	App       string
	System    string
	Migrate   string
}

// NewDatabase makes a migrated, empty database. It is dropped when the test ends, and kept when the test failed on a
// server that outlives it.
func NewDatabase(t testing.TB) Database {
	t.Helper()
	superuser, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	db := Database{Name: fmt.Sprintf("test_%d_%d", os.Getpid(), counter.Add(1))}
	exec := func(sql string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, superuser)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	if err := exec(`CREATE DATABASE ` + db.Name + ` TEMPLATE ` + template()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && server == nil {
			t.Logf("kept the database %s", as(superuser, "postgres", db.Name))
			return
		}
		if err := exec(`DROP DATABASE ` + db.Name + ` WITH (FORCE)`); err != nil {
			t.Errorf("dropping the test's database: %v", err)
		}
	})
	db.Superuser = as(superuser, "postgres", db.Name)
	db.App = as(superuser, "millrace_app", db.Name)
	db.System = as(superuser, "millrace_system", db.Name)
	db.Migrate = as(superuser, "millrace_migrate", db.Name)
	return db
}

// Rows are all that is in the database, as text by table: what a request left as it was, it left the same.
func (db Database) Rows(t testing.TB) map[string]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.Superuser)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), `SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, table := range tables {
		var text string
		if err := conn.QueryRow(t.Context(), `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM `+table+` t`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		all[table] = text
	}
	return all
}

// CutOff keeps everyone but superusers away from the database, as if Postgres were away, until the returned function ends that.
func (db Database) CutOff(t testing.TB) (restore func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.Superuser)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	limit := func(connections int) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(`ALTER DATABASE %s CONNECTION LIMIT %d`, db.Name, connections)); err != nil {
			t.Fatal(err)
		}
	}
	limit(0)
	tag, err := conn.Exec(t.Context(), `
		SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename AND NOT r.rolsuper
		WHERE a.datname = current_database()`)
	if err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("%d sessions were cut off, %v", tag.RowsAffected(), err)
	}
	return func() { t.Helper(); limit(-1) }
}

// Open opens a store on a database of the test's own.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return OpenAt(t, NewDatabase(t), nil)
}

// OpenAt opens a store on db; a nil clock is the database's.
func OpenAt(t testing.TB, db Database, now func() time.Time) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{AppURL: db.App, SystemURL: db.System, Now: now, Log: NewLog(t).Logger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	if now != nil { // the template has partitions for the real time
		if err := st.KeepPartitions(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// Log is a log that hears everything and must hear no secret: the test fails when one was logged.
type Log struct {
	mu      sync.Mutex
	text    strings.Builder
	secrets []string
}

// NewLog is an empty log. Secrets of ours are known by their looks; others are given.
func NewLog(t testing.TB, secrets ...string) *Log {
	t.Helper()
	l := &Log{secrets: secrets}
	t.Cleanup(func() {
		for line := range strings.Lines(l.String()) {
			if line != millrace.Redact(line) || slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(line, s) }) {
				t.Errorf("a secret was logged: %s", line)
			}
		}
	})
	return l
}

// Logger writes to the log.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write keeps a line.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is what was logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// System is who acts in tests.
var System = millrace.Actor{Kind: millrace.ActorSystem}

// Tenant is an org with its owner and one installation.
type Tenant struct {
	millrace.Org
	Owner        millrace.User
	Installation millrace.Installation
}

// Caller is the tenant's owner as somebody who asks for something.
func (t Tenant) Caller() millrace.Caller {
	return millrace.Caller{Actor: millrace.Actor{Kind: millrace.ActorUser, ID: t.Owner.ID.String(), Name: t.Owner.Login}, UserID: t.Owner.ID, Role: millrace.RoleOwner}
}

// MustCreateOrg makes an org whose GitHub owner has the same name.
func MustCreateOrg(t testing.TB, st *store.Store, slug string) Tenant {
	t.Helper()
	n := counter.Add(1)
	installation := millrace.Installation{ID: 1000 + n, OwnerID: 2000 + n, OwnerLogin: slug, OwnerType: millrace.Organization}
	org, owner, err := st.CreateOrg(t.Context(), store.NewOrg{
		Slug: slug, Name: slug, Concurrency: 8, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512},
		Owner:         millrace.User{GitHubID: 3000 + n, Login: slug + "-admin", Name: slug},
		Installations: []millrace.Installation{installation},
	})
	if err != nil {
		t.Fatal(err)
	}
	installation.OrgID = org.ID
	return Tenant{org, owner, installation}
}

// MustCreateToken makes an API token of the org's owner, with every scope.
func MustCreateToken(t testing.TB, st *store.Store, tenant Tenant) string {
	t.Helper()
	_, secret, err := st.Org(tenant.ID).CreateAPIToken(t.Context(), tenant.Caller(), millrace.NewAPIToken{Name: "test", Scopes: millrace.Scopes()})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// Facts are those of a host with room for a few small VMs.
func Facts() millrace.HostFacts {
	return millrace.HostFacts{
		Arch: millrace.AMD64, VCPUs: 8, MemoryMB: 16384, DiskMB: 100_000, Offer: millrace.Size{MilliCPU: 8000, MemoryMB: 16384},
		Labels: []string{}, Driver: "fake", Version: "test", Kernel: "6.1", CPUModel: "test", Reboots: true,
	}
}

// MustEnroll enrolls a host with the given keys' bytes (32 each).
func MustEnroll(t testing.TB, st *store.Store, tenant Tenant, name string, signKey, sealKey []byte) millrace.Host {
	t.Helper()
	_, secret, err := st.Org(tenant.ID).CreateEnrollmentToken(t.Context(), System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: secret.Reveal(), Name: name, SignKey: signKey, SealKey: sealKey, Facts: Facts()})
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// Delivery is a verified workflow_job delivery of the tenant's repository "app". Labels are the product's plain one
// unless given.
func Delivery(tenant Tenant, githubID int64, status millrace.JobStatus, change ...func(*millrace.Job)) millrace.Delivery {
	at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	job := millrace.Job{
		InstallationID: tenant.Installation.ID, GitHubID: githubID, RunID: githubID * 10, RunAttempt: 1,
		RepositoryID: 77, Repository: tenant.Slug + "/app", Private: true, Zone: millrace.ZonePrivate, ZoneKnown: true, Workflow: "build", Name: "test",
		Branch: "main", SHA: "0123456789012345678901234567890123456789", ActorID: 5, Actor: "mona", Labels: []string{"millrace"},
		HTMLURL: "https://github.com/x", Status: status, QueuedAt: at,
	}
	switch status {
	case millrace.JobInProgress:
		job.StartedAt = at.Add(10 * time.Second)
	case millrace.JobCompleted:
		job.StartedAt, job.CompletedAt, job.Conclusion = at.Add(10*time.Second), at.Add(70*time.Second), "success"
	case millrace.JobQueued, millrace.JobWaiting:
	}
	for _, c := range change {
		c(&job)
	}
	return millrace.Delivery{
		GUID: fmt.Sprintf("guid-%d-%s", githubID, status), Event: "workflow_job", Action: string(status), InstallationID: tenant.Installation.ID,
		Body: []byte(`{}`), Job: &millrace.JobEvent{Action: string(status), InstallationID: tenant.Installation.ID, OwnerLogin: tenant.Slug, Job: job},
	}
}

// MustIntake stores a delivery.
func MustIntake(t testing.TB, st *store.Store, d millrace.Delivery) {
	t.Helper()
	result, err := st.Intake(t.Context(), d)
	if err != nil || result != store.IntakeStored {
		t.Fatalf("intake: %s, %v", result, err)
	}
}
