-- +goose Up

-- An org that leaves: from deleted_at on nobody finds it, and a task erases it.
ALTER TABLE orgs
	ADD COLUMN deleted_at timestamptz,
	ADD COLUMN deleted_by text, -- the actor's ID; '' is the system
	ADD CONSTRAINT orgs_deleted_check CHECK ((deleted_at IS NULL) = (deleted_by IS NULL));
GRANT DELETE ON api_tokens, enrollment_tokens TO millrace_system;

-- What stays of an org: that it was, and how much was erased. It names nobody. Its key is not called org_id because these
-- rows belong to no tenant: whoever looks for a tenant's rows in all tables with org_id finds none of an erased one.
CREATE TABLE erased_orgs (
	former_id  bigint NOT NULL,
	slug       text NOT NULL,
	deleted_at timestamptz NOT NULL,
	erased_at  timestamptz, -- NULL while it is being erased
	rows       bigint NOT NULL,
	CONSTRAINT erased_orgs_pkey PRIMARY KEY (former_id)
);
CREATE INDEX erased_orgs_slug_idx ON erased_orgs (slug, erased_at);
GRANT SELECT ON erased_orgs TO millrace_system;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION org_of_slug(slug text) RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT o.org_id FROM public.orgs o WHERE o.slug = org_of_slug.slug AND o.deleted_at IS NULL $$;

-- The slug of an erased org is given to nobody for 30 days: links, workflows and bookmarks still mean the old one.
CREATE FUNCTION keep_slug() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM public.erased_orgs e WHERE e.slug = NEW.slug AND e.erased_at > NEW.created_at - interval '30 days') THEN
		RAISE EXCEPTION 'the slug % was an erased org''s', NEW.slug USING ERRCODE = 'unique_violation', CONSTRAINT = 'orgs_slug_key';
	END IF;
	RETURN NEW;
END
$$;

-- A deleted org gets nothing any more by which it could be found: whoever inserts it gets no row. The lock waits for a
-- deletion that is under way, which in turn waits for those who came first.
CREATE FUNCTION skip_deleted_org() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	PERFORM FROM public.orgs o WHERE o.org_id = NEW.org_id AND o.deleted_at IS NULL FOR KEY SHARE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	RETURN NEW;
END
$$;

-- The names of the tenant's members, for its export: people are in no tenant's table.
CREATE FUNCTION member_names() RETURNS TABLE (user_id uuid, login text, name text)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	SELECT u.user_id, u.login, u.name
	FROM public.memberships m JOIN public.users u ON u.user_id = m.user_id
	WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint
$$;

-- erase_org erases a deleted org, some most rows with each call, and says how many of which table; the call that erases
-- the org's own row, the last one, has proven before it returns that no table with org_id holds a row of it. Tables are
-- found in the catalog, so that none is forgotten, and emptied before those that they refer to, so that no cascade is
-- long. Those that refer to nothing come last, and once more after the org's row: whoever still writes to them writes to
-- one of the others too, and was waited for.
CREATE FUNCTION erase_org(org_id bigint, at timestamptz, most integer) RETURNS TABLE (name text, erased bigint)
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	org    public.orgs;
	owned  regclass[];
	target regclass;
	n      bigint;
	total  bigint := 0;
	over   boolean := false;
BEGIN
	SELECT * INTO org FROM public.orgs o WHERE o.org_id = erase_org.org_id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RETURN; -- it is erased
	END IF;
	IF org.deleted_at IS NULL THEN
		RAISE EXCEPTION 'org % is not deleted', erase_org.org_id USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	WITH RECURSIVE tenants AS (
		SELECT c.oid FROM pg_class c
		WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.oid <> 'public.orgs'::regclass
			AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped)
	), refers AS (
		SELECT f.conrelid AS oid, 1 AS depth FROM pg_constraint f WHERE f.contype = 'f' AND f.confrelid = 'public.orgs'::regclass
		UNION
		SELECT f.conrelid, r.depth + 1 FROM pg_constraint f JOIN refers r ON f.confrelid = r.oid
		WHERE f.contype = 'f' AND f.conrelid <> f.confrelid AND r.depth < 20
	)
	SELECT array_agg(t.oid::regclass ORDER BY coalesce(d.depth, 0) DESC, t.oid::regclass::text) INTO owned
	FROM tenants t LEFT JOIN (SELECT r.oid, max(r.depth) AS depth FROM refers r GROUP BY r.oid) d ON d.oid = t.oid;

	FOREACH target IN ARRAY owned LOOP
		-- A ctid names a row of one partition only; in another it may name another row, of this org or not at all.
		EXECUTE format('DELETE FROM %s WHERE org_id = $1 AND ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE org_id = $1 LIMIT $2))', target)
			USING erase_org.org_id, most - total;
		GET DIAGNOSTICS n = ROW_COUNT;
		IF n > 0 THEN
			total := total + n;
			name := target::text;
			erased := n;
			RETURN NEXT;
		END IF;
		EXIT WHEN total >= most;
	END LOOP;
	IF total < most THEN
		DELETE FROM public.orgs o WHERE o.org_id = erase_org.org_id;
		over := true;
		total := total + 1;
		name := 'orgs';
		erased := 1;
		RETURN NEXT;
		FOREACH target IN ARRAY owned LOOP
			EXECUTE format('DELETE FROM %s WHERE org_id = $1', target) USING erase_org.org_id;
			GET DIAGNOSTICS n = ROW_COUNT;
			total := total + n;
		END LOOP;
		FOREACH target IN ARRAY owned || 'public.orgs'::regclass LOOP
			EXECUTE format('SELECT count(*) FROM %s WHERE org_id = $1', target) INTO n USING erase_org.org_id;
			IF n > 0 THEN
				RAISE EXCEPTION '% rows of org % are left in %', n, erase_org.org_id, target;
			END IF;
		END LOOP;
	END IF;
	INSERT INTO public.erased_orgs AS e (former_id, slug, deleted_at, erased_at, rows)
	VALUES (org.org_id, org.slug, org.deleted_at, CASE WHEN over THEN at END, total)
	ON CONFLICT ON CONSTRAINT erased_orgs_pkey DO UPDATE SET erased_at = excluded.erased_at, rows = e.rows + excluded.rows;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION keep_slug(), skip_deleted_org(), member_names(), erase_org(bigint, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION member_names() TO millrace_app;
GRANT EXECUTE ON FUNCTION erase_org(bigint, timestamptz, integer) TO millrace_system;

CREATE TRIGGER orgs_keep_slug BEFORE INSERT ON orgs FOR EACH ROW EXECUTE FUNCTION keep_slug();
CREATE TRIGGER memberships_skip_deleted_org BEFORE INSERT ON memberships FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
CREATE TRIGGER installations_skip_deleted_org BEFORE INSERT ON installations FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
CREATE TRIGGER api_tokens_skip_deleted_org BEFORE INSERT ON api_tokens FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
CREATE TRIGGER enrollment_tokens_skip_deleted_org BEFORE INSERT ON enrollment_tokens FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();

-- +goose Down
DROP TRIGGER enrollment_tokens_skip_deleted_org ON enrollment_tokens;
DROP TRIGGER api_tokens_skip_deleted_org ON api_tokens;
DROP TRIGGER installations_skip_deleted_org ON installations;
DROP TRIGGER memberships_skip_deleted_org ON memberships;
DROP TRIGGER orgs_keep_slug ON orgs;
DROP FUNCTION erase_org(bigint, timestamptz, integer), member_names(), skip_deleted_org(), keep_slug();
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION org_of_slug(slug text) RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT o.org_id FROM public.orgs o WHERE o.slug = org_of_slug.slug $$;
-- +goose StatementEnd
DROP TABLE erased_orgs;
REVOKE DELETE ON api_tokens, enrollment_tokens FROM millrace_system;
ALTER TABLE orgs DROP CONSTRAINT orgs_deleted_check, DROP COLUMN deleted_at, DROP COLUMN deleted_by;
