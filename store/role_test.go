package store_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-ci/millrace/store/storetest"
)

// The roles that the store logs in as can't get round row-level security: they own nothing, bypass nothing, are members of
// nothing and can't become anyone else.
func TestRolesAreHarmless(t *testing.T) {
	t.Parallel()
	st := storetest.OpenAt(t, newProductionLikeDatabase(t), nil)
	for name, pool := range map[string]*pgxpool.Pool{"millrace_app": st.AppPool(), "millrace_system": st.SystemPool()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var user, session string
			var super, bypass, create, database, replicate bool
			var owned, member int
			err := pool.QueryRow(t.Context(), `
				SELECT current_user, session_user, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
					(SELECT count(*) FROM pg_class WHERE relowner = r.oid) + (SELECT count(*) FROM pg_proc WHERE proowner = r.oid)
						+ (SELECT count(*) FROM pg_namespace WHERE nspowner = r.oid) + (SELECT count(*) FROM pg_type WHERE typowner = r.oid),
					(SELECT count(*) FROM pg_auth_members WHERE member = r.oid)
				FROM pg_roles r WHERE rolname = current_user`).
				Scan(&user, &session, &super, &bypass, &create, &database, &replicate, &owned, &member)
			if err != nil {
				t.Fatal(err)
			}
			if user != name || session != name {
				t.Errorf("logged in as %s, acting as %s", session, user)
			}
			if super || bypass || create || database || replicate || owned != 0 || member != 0 {
				t.Errorf("superuser %t, bypasses RLS %t, makes roles %t, databases %t, replicates %t, owns %d, is member of %d", super, bypass, create, database, replicate, owned, member)
			}
			for _, forbidden := range []string{
				`SET ROLE millrace_migrate`, `SET SESSION AUTHORIZATION postgres`, `CREATE TABLE x ()`, `CREATE TEMPORARY TABLE x ()`, `CREATE SCHEMA x`,
				`ALTER TABLE jobs DISABLE ROW LEVEL SECURITY`, `DROP TABLE audit`, `TRUNCATE jobs`, `UPDATE audit SET action = ''`, `DELETE FROM audit`,
				`SELECT protect('jobs')`,
			} {
				if _, err := pool.Exec(t.Context(), forbidden); err == nil {
					t.Errorf("may %s", forbidden)
				}
			}
			var rights int
			err = pool.QueryRow(t.Context(), `
				SELECT count(*) FROM pg_class c
				WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND has_table_privilege(c.oid, 'TRUNCATE, TRIGGER, REFERENCES')`).Scan(&rights)
			if err != nil || rights != 0 {
				t.Errorf("may truncate, hang triggers on or refer to %d tables, %v", rights, err)
			}
		})
	}
}

// The app role has no way to the task queue, to people or to sessions but the functions made for it.
func TestAppRoleReachesNoSharedTable(t *testing.T) {
	t.Parallel()
	conn := connect(t, storetest.NewDatabase(t).App)
	for _, table := range column[string](t, conn, `
		SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
			AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'org_id')
			AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, SELECT, UPDATE') ELSE has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE') END
			AND has_schema_privilege(n.oid, 'USAGE')`) {
		t.Errorf("the app role reaches %s, which belongs to no tenant", table)
	}
	if scalar[bool](t, conn, `SELECT has_schema_privilege('river', 'USAGE')`) {
		t.Error("the app role reaches the task queue's schema")
	}
}

// Functions that run as the owner have a fixed search_path and are not for everyone; views look with their reader's eyes.
func TestFunctionsAndViews(t *testing.T) {
	t.Parallel()
	conn := connect(t, storetest.NewDatabase(t).Superuser)
	for _, name := range column[string](t, conn, `
		SELECT p.proname FROM pg_proc p
		WHERE p.pronamespace = 'public'::regnamespace AND (
			has_function_privilege('public', p.oid, 'EXECUTE')
			OR p.prosecdef AND NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s = 'search_path=pg_catalog, public, pg_temp'))`) {
		t.Errorf("function %s is for everyone, or runs as its owner without a fixed search_path", name)
	}
	app := column[string](t, conn, `
		SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND has_function_privilege('millrace_app', p.oid, 'EXECUTE')
			AND has_function_privilege('millrace_system', p.oid, 'EXECUTE')`)
	if len(app) != 1 || app[0] != "schema_version" {
		t.Errorf("both roles may call %v", app)
	}
	for _, name := range column[string](t, conn, `
		SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
			AND (c.relkind = 'm' OR c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false))`) {
		t.Errorf("view %s shows its owner's rows: make it WITH (security_invoker = true)", name)
	}
}
