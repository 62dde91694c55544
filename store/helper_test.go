package store_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// clock is a store's time. It stands still until a test moves it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

// newClock starts at the present, for which the template has partitions.
func newClock() *clock { return &clock{at: time.Now().UTC().Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// connect is a session of a test's own, as whoever url names.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// newProductionLikeDatabase is a database whose own grants are those of production too: a clone doesn't take its template's.
func newProductionLikeDatabase(t testing.TB) storetest.Database {
	t.Helper()
	db := storetest.NewDatabase(t)
	if err := migrations.Roles(t.Context(), db.Superuser, db.Name); err != nil {
		t.Fatal(err)
	}
	return db
}

// scalar is the one value that a query gives.
func scalar[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return v
}

// hold locks the rows that a query locks until the transaction ends that it returns.
func (w *world) hold(sql string, args ...any) pgx.Tx {
	w.t.Helper()
	tx, err := connect(w.t, w.db.Superuser).Begin(w.t.Context())
	if err == nil {
		_, err = tx.Exec(w.t.Context(), sql, args...)
	}
	w.must(err)
	return tx
}

// waiting returns once so many sessions of the database wait for locks.
func (w *world) waiting(sessions int) {
	w.t.Helper()
	const waiting = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	for began := time.Now(); scalar[int](w.t, w.root, waiting) != sessions; {
		if time.Since(began) > 10*time.Second {
			w.t.Fatalf("%d sessions don't wait", sessions)
		}
	}
}

// column is the one column that a query gives.
func column[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return list
}

// world is a tenant with a host on a database of its own, at a time of its own.
type world struct {
	*clock
	storetest.Tenant
	t    *testing.T
	db   storetest.Database
	st   *store.Store
	org  store.Org
	host millrace.Host
	root *pgx.Conn // a superuser's: sees every row
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{clock: newClock(), t: t, db: storetest.NewDatabase(t)}
	w.st = storetest.OpenAt(t, w.db, w.now)
	w.Tenant = storetest.MustCreateOrg(t, w.st, "calm")
	w.org = w.st.Org(w.ID)
	w.host = storetest.MustEnroll(t, w.st, w.Tenant, "rack-1", key(1), key(2))
	w.root = connect(t, w.db.Superuser)
	return w
}

// queue makes GitHub's job with this id queued.
func (w *world) queue(githubID int64) millrace.JobID {
	w.t.Helper()
	storetest.MustIntake(w.t, w.st, storetest.Delivery(w.Tenant, githubID, millrace.JobQueued))
	return w.jobID(githubID)
}

func (w *world) jobID(githubID int64) (id millrace.JobID) {
	w.t.Helper()
	if err := id.Scan(scalar[string](w.t, w.root, `SELECT job_id::text FROM jobs WHERE github_job_id = $1`, githubID)); err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) job(id millrace.JobID) store.JobRow {
	w.t.Helper()
	row, err := w.org.Job(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

func (w *world) vm(id millrace.VMID) millrace.VM {
	w.t.Helper()
	row, err := w.org.VM(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return row.VM
}

// pass runs a placement pass and returns what it saw.
func (w *world) pass(decide func(millrace.Pass) millrace.Decision) (seen millrace.Pass) {
	w.t.Helper()
	_, err := w.st.Place(w.t.Context(), w.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
		seen = p
		seen.Jobs, seen.VMs, seen.Hosts = slices.Clone(p.Jobs), slices.Clone(p.VMs), slices.Clone(p.Hosts) // the rest isn't used again
		return decide(p)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return seen
}

func nothing(millrace.Pass) millrace.Decision { return millrace.Decision{} }

// place launches a VM for a job on the host.
func (w *world) place(job millrace.JobID) millrace.VMID {
	w.t.Helper()
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Place: []millrace.Placement{{JobID: job, HostID: w.host.ID, Arch: millrace.AMD64}}}
	})
	v := w.job(job).VM
	if v == nil {
		w.t.Fatalf("job %s has no VM", job)
	}
	return v.ID
}

// register gives a VM its runner.
func (w *world) register(vm millrace.VMID, runner int64) {
	w.t.Helper()
	if err := w.org.SaveJIT(w.t.Context(), store.JITGrant{VM: millrace.VM{ID: vm, Epoch: 1}}, runner, []byte("sealed")); err != nil {
		w.t.Fatal(err)
	}
}

// observe reports VMs of the host, all in one message.
func (w *world) observe(state millrace.VMState, vms ...millrace.VMID) {
	w.t.Helper()
	list := make([]millrace.Observation, len(vms))
	for i, vm := range vms {
		list[i] = millrace.Observation{VMID: vm, Epoch: 1, State: state, Reason: "as observed"}
	}
	if _, err := w.org.Observe(w.t.Context(), w.host.ID, w.host.Epoch, "", list); err != nil {
		w.t.Fatal(err)
	}
}

// tasks are the kinds of what waits in the outbox, in order.
func (w *world) tasks() []string {
	w.t.Helper()
	return column[string](w.t, w.root, `SELECT kind FROM outbox ORDER BY outbox_id`)
}

// closed reports whether ch is closed; it waits for as long as the test may run.
func closed(t testing.TB, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s was not announced", what)
	}
}

// code fails the test unless err has this code.
func code(t testing.TB, err error, want millrace.Code) {
	t.Helper()
	if got := millrace.CodeOf(err); got != want {
		t.Errorf("error %v is %q, want %q", err, got, want)
	}
}
