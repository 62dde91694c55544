-- The three roles that log in, made once by a superuser in the database that Millrace lives in. None is a superuser, none
-- bypasses row-level security, and none is a member of another. Passwords and pg_hba.conf are the operator's.
DO $$
DECLARE
	role text;
BEGIN
	FOREACH role IN ARRAY ARRAY['millrace_migrate', 'millrace_app', 'millrace_system'] LOOP
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
			EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT', role);
		END IF;
	END LOOP;
EXCEPTION
	WHEN duplicate_object OR unique_violation THEN NULL; -- another session made them at the same time
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO millrace_migrate;
GRANT USAGE ON SCHEMA public TO millrace_app, millrace_system;
DO $$
BEGIN
	EXECUTE format('GRANT CREATE ON DATABASE %I TO millrace_migrate', current_database());
	EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
