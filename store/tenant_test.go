package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// insufficientPrivilege is what Postgres answers to a row that a policy refuses, and to a right that a role lacks.
const insufficientPrivilege = "42501"

// foreignKeyViolation is what it answers to a key that names no row.
const foreignKeyViolation = "23503"

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// two is a database with two tenants that have a row in every table the app role may read.
func two(t *testing.T) (w *world, other storetest.Tenant) {
	t.Helper()
	w = newWorld(t)
	other = storetest.MustCreateOrg(t, w.st, "rival")
	for _, tenant := range []storetest.Tenant{w.Tenant, other} {
		storetest.MustCreateToken(t, w.st, tenant)
		storetest.MustIntake(t, w.st, storetest.Delivery(tenant, 1, millrace.JobCompleted, func(j *millrace.Job) { j.CompletedAt = w.now() }))
	}
	return w, other
}

// readable are the tables and partitions with org_id that the app role has been granted SELECT on.
const readable = `
	SELECT c.oid::regclass::text FROM pg_class c
	WHERE c.relkind IN ('r', 'p') AND has_table_privilege('millrace_app', c.oid, 'SELECT')
		AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'org_id')`

func TestAppRoleWithoutATenantSeesNothing(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	tables := column[string](t, w.root, readable)
	if len(tables) < 10 {
		t.Fatalf("the app role may read only %v", tables)
	}
	app := connect(t, w.db.App)
	for _, table := range tables {
		if n := scalar[int](t, app, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("without a tenant, %d rows of %s are seen", n, table)
		}
	}
	if _, err := app.Exec(t.Context(), `UPDATE jobs SET failure = 'seen'`); err != nil {
		t.Error(err)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs WHERE failure <> ''`); n != 0 {
		t.Errorf("without a tenant, %d jobs were changed", n)
	}
	written := column[string](t, w.root, `
		SELECT c.oid::regclass::text FROM pg_class c
		WHERE c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id')
			AND has_any_column_privilege('millrace_app', c.oid, 'INSERT') AND has_any_column_privilege('millrace_app', c.oid, 'SELECT')`)
	if len(written) < 4 {
		t.Fatalf("the app role may add to %v alone", written)
	}
	for _, table := range written {
		columns := scalar[string](t, w.root, `
			SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
			WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND has_column_privilege('millrace_app', attrelid, attnum, 'INSERT')`, table)
		row := scalar[string](t, w.root, `SELECT t::text FROM `+table+` t WHERE org_id = $1 LIMIT 1`, a.ID)
		_, err := app.Exec(t.Context(), `INSERT INTO `+table+` (`+columns+`) SELECT `+columns+` FROM (SELECT ($1::text::`+table+`).*) r`, row)
		if sqlState(err) != insufficientPrivilege {
			t.Errorf("without a tenant, a row is added to %s: %v, want SQLSTATE %s", table, err, insufficientPrivilege)
		}
	}
}

// No row hangs on another tenant's: the keys that would name it begin with the org.
func TestForeignKeysStayWithinATenant(t *testing.T) {
	t.Parallel()
	w, a, b := leavers(t)
	keys := 0
	for _, key := range column[string](t, w.root, `
		SELECT conrelid::regclass::text || ' ' || conname || ' ' || (SELECT attname FROM pg_attribute WHERE (attrelid, attnum) = (k.conrelid, k.conkey[2]))
			|| ' ' || k.confrelid::regclass::text || ' ' || (SELECT attname FROM pg_attribute WHERE (attrelid, attnum) = (k.confrelid, k.confkey[2]))
		FROM pg_constraint k WHERE k.contype = 'f' AND cardinality(k.conkey) > 1 AND k.conparentid = 0 ORDER BY 1`) {
		keys++
		part := strings.Fields(key)
		table, name, column, of, foreign := part[0], part[1], part[2], part[3], part[4]
		err := pgx.BeginFunc(t.Context(), w.root, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `
				UPDATE `+table+` t SET `+column+` = (SELECT f.`+foreign+` FROM `+of+` f WHERE f.org_id = $2 LIMIT 1) WHERE t.org_id = $1 AND t.`+column+` IS NOT NULL`, a.ID, b.ID)
			if err == nil {
				_, err = tx.Exec(t.Context(), `SET CONSTRAINTS ALL IMMEDIATE`)
			}
			if err == nil {
				err = errors.New("it was done")
			}
			return err
		})
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != foreignKeyViolation {
			t.Errorf("%s of %s, with another tenant's %s: %v", name, table, of, err)
		}
	}
	if keys < 8 {
		t.Errorf("only %d keys were tried", keys)
	}
}

func TestAppRoleSeesItsTenantAlone(t *testing.T) {
	t.Parallel()
	w, other := two(t)
	app := connect(t, w.db.App)
	seen := 0
	err := pgx.BeginFunc(t.Context(), app, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `SELECT set_config('app.org_id', $1::bigint::text, true)`, w.ID); err != nil {
			return err
		}
		for _, table := range column[string](t, w.root, readable) {
			if n := scalar[int](t, app, `SELECT count(*) FROM `+table+` WHERE org_id <> $1`, w.ID); n != 0 {
				t.Errorf("%d rows of %s are another tenant's", n, table)
			}
			if scalar[bool](t, app, `SELECT EXISTS (SELECT FROM `+table+`)`) {
				seen++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 9 {
		t.Errorf("own rows were seen in %d tables only: the test proves little", seen)
	}
	if left := scalar[*string](t, app, `SELECT nullif(current_setting('app.org_id', true), '')`); left != nil {
		t.Errorf("after the commit the tenant is still %s", *left)
	}
	if n := scalar[int](t, app, `SELECT count(*) FROM jobs`); n != 0 {
		t.Errorf("after the commit %d jobs are seen", n)
	}

	for name, sql := range map[string]string{
		"insert of a foreign row":             `INSERT INTO audit (org_id, at, audit_id, actor_kind, actor_id, action, subject) VALUES ($1, now(), gen_random_uuid(), 'system', '', 'x', '')`,
		"insert of a foreign partition's row": `INSERT INTO audit_` + w.now().Format("200601") + ` (org_id, at, audit_id, actor_kind, actor_id, action, subject) VALUES ($1, now(), gen_random_uuid(), 'system', '', 'x', '')`,
		"insert of a foreign task":            `INSERT INTO outbox (org_id, kind, args, at) VALUES ($1, 'vm.retire', '{}', now())`,
		"gift of a host":                      `UPDATE hosts SET org_id = $1`,
		"change of audit":                     `UPDATE audit SET action = 'x' WHERE org_id = $1`,
		"removal of audit":                    `DELETE FROM audit WHERE org_id = $1`,
		"change of a fact":                    `UPDATE job_facts SET run_ms = 0 WHERE org_id = $1`,
		"change of the plan":                  `UPDATE orgs SET concurrency = 1000 WHERE org_id = $1`,
		"reading deliveries":                  `SELECT FROM deliveries WHERE org_id = $1`,
		"reading tasks":                       `SELECT FROM outbox WHERE org_id = $1`,
		"reading sessions":                    `SELECT FROM sessions WHERE $1::bigint > 0`,
		"making partitions":                   `SELECT keep_partitions(now()) WHERE $1::bigint > 0`,
		"reading the task queue":              `SELECT FROM river.river_job WHERE $1::bigint > 0`,
	} {
		err := pgx.BeginFunc(t.Context(), app, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `SELECT set_config('app.org_id', $1::bigint::text, true)`, w.ID); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), sql, other.ID)
			return err
		})
		if sqlState(err) != insufficientPrivilege {
			t.Errorf("%s: %v, want SQLSTATE %s", name, err, insufficientPrivilege)
		}
	}
}

// Whoever holds another tenant's ID finds what one who made it up finds.
func TestForeignRowsAreNotFound(t *testing.T) {
	t.Parallel()
	w, other := two(t)
	job := w.queue(7)
	vm := w.place(job)
	org, ctx := w.st.Org(other.ID), t.Context()
	same := func(what string, foreign, missing error) {
		t.Helper()
		code(t, foreign, millrace.NotFound)
		if foreign == nil || missing == nil || foreign.Error() != missing.Error() {
			t.Errorf("%s: another's is %q, none is %q", what, foreign, missing)
		}
	}
	var ids millrace.Source
	_, foreign := org.Job(ctx, job)
	_, missing := org.Job(ctx, millrace.NewJobID(&ids, w.now()))
	same("job", foreign, missing)
	_, foreign = org.VM(ctx, vm)
	_, missing = org.VM(ctx, millrace.NewVMID(&ids, w.now()))
	same("vm", foreign, missing)
	_, foreign = org.Host(ctx, w.host.ID)
	_, missing = org.Host(ctx, millrace.NewHostID(&ids, w.now()))
	same("host", foreign, missing)
	_, foreign = org.AnyHost(ctx, w.host.ID)
	_, missing = org.AnyHost(ctx, millrace.NewHostID(&ids, w.now()))
	same("host, be it removed", foreign, missing)
	_, foreign = org.BeginJIT(ctx, w.host.ID, vm, 1)
	_, missing = org.BeginJIT(ctx, w.host.ID, millrace.NewVMID(&ids, w.now()), 1)
	same("jit", foreign, missing)
	same("saved jit", org.SaveJIT(ctx, store.JITGrant{VM: millrace.VM{ID: vm, Epoch: 1}}, 5, nil), org.SaveJIT(ctx, store.JITGrant{VM: millrace.VM{ID: millrace.NewVMID(&ids, w.now()), Epoch: 1}}, 5, nil))
	same("console", org.AppendConsole(ctx, w.host.ID, vm, 0, []byte("x")), org.AppendConsole(ctx, w.host.ID, millrace.NewVMID(&ids, w.now()), 0, []byte("x")))
	same("samples", org.AppendSamples(ctx, w.host.ID, vm, 1, millrace.Series{{UptimeMS: 1}}), org.AppendSamples(ctx, w.host.ID, millrace.NewVMID(&ids, w.now()), 1, millrace.Series{{UptimeMS: 1}}))
	if s, err := org.Samples(ctx, vm); err != nil || len(s) != 0 {
		t.Errorf("samples of another's VM: %v, %v", s, err)
	}
	_, err := org.Observe(ctx, w.host.ID, w.host.Epoch, "", nil)
	code(t, err, millrace.NotFound)
	if _, err := org.Desired(ctx, w.host.ID); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("desired: %v", err)
	}
	for _, f := range []store.VMFilter{{Host: w.host.ID}, {Job: job}} {
		page, err := org.VMs(ctx, f)
		if err != nil || len(page.VMs) != 0 {
			t.Errorf("VMs of another's host or job: %+v, %v", page, err)
		}
	}
	if w.vm(vm).RunnerID != 0 {
		t.Error("another tenant registered the VM")
	}
	usage, err := org.Usage(ctx, millrace.ByRepository, w.now().Add(-time.Hour), w.now().Add(time.Hour))
	if err != nil || len(usage) != 1 || usage[0].Key != "rival/app" || usage[0].Jobs != 1 {
		t.Errorf("usage of one's own job: %+v, %v", usage, err)
	}
}
