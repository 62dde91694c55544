-- +goose Up

-- What is asked before the tenant is known. Each function runs as the owner, with a fixed search_path, tells as little as
-- will do (mostly: which org), and may be called by the app role alone.

-- +goose StatementBegin
CREATE FUNCTION org_of_slug(slug text) RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT o.org_id FROM public.orgs o WHERE o.slug = org_of_slug.slug $$;

CREATE FUNCTION org_of_api_token(hash bytea) RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT t.org_id FROM public.api_tokens t WHERE t.hash = org_of_api_token.hash $$;

CREATE FUNCTION org_of_enrollment_token(hash bytea) RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT t.org_id FROM public.enrollment_tokens t WHERE t.hash = org_of_enrollment_token.hash $$;

CREATE FUNCTION host_credentials(host_id uuid)
	RETURNS TABLE (org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin
	FROM public.hosts h JOIN public.host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
	WHERE h.host_id = host_credentials.host_id
$$;

-- sign_in turns a one-use link into a session; no row when the link is unknown, used or expired.
CREATE FUNCTION sign_in(link bytea, session bytea, at timestamptz, expires_at timestamptz) RETURNS uuid
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	WITH used AS (
		DELETE FROM public.sign_in_links l WHERE l.hash = link RETURNING l.user_id, l.expires_at
	)
	INSERT INTO public.sessions (hash, user_id, created_at, last_used_at, expires_at)
	SELECT session, u.user_id, at, at, sign_in.expires_at FROM used u WHERE u.expires_at > at
	RETURNING user_id
$$;

-- session_user_at is the user of a session that is neither expired nor idle; it notes the use, at most once a minute.
CREATE FUNCTION session_user_at(session bytea, at timestamptz, idle_since timestamptz)
	RETURNS TABLE (user_id uuid, github_id bigint, login text, name text, created_at timestamptz, expires_at timestamptz)
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	UPDATE public.sessions s SET last_used_at = at
	WHERE s.hash = session AND s.expires_at > at AND s.last_used_at > idle_since AND s.last_used_at < at - interval '1 minute';
	RETURN QUERY
		SELECT u.user_id, u.github_id, u.login, u.name, s.created_at, s.expires_at
		FROM public.sessions s JOIN public.users u ON u.user_id = s.user_id
		WHERE s.hash = session AND s.expires_at > at AND s.last_used_at > idle_since;
END
$$;

CREATE FUNCTION sign_out(session bytea) RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ DELETE FROM public.sessions s WHERE s.hash = session $$;

-- The schema version, for readiness.
CREATE FUNCTION schema_version() RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT max(version_id) FROM public.goose_db_version WHERE is_applied $$;

CREATE FUNCTION memberships_of(user_id uuid) RETURNS TABLE (org_id bigint, slug text, name text, role text)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	SELECT o.org_id, o.slug, o.name, m.role
	FROM public.memberships m JOIN public.orgs o ON o.org_id = m.org_id
	WHERE m.user_id = memberships_of.user_id
	ORDER BY o.slug
$$;

-- +goose StatementEnd
REVOKE ALL ON FUNCTION org_of_slug(text), org_of_api_token(bytea), org_of_enrollment_token(bytea), host_credentials(uuid),
	sign_in(bytea, bytea, timestamptz, timestamptz), session_user_at(bytea, timestamptz, timestamptz), sign_out(bytea),
	memberships_of(uuid), schema_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION org_of_slug(text), org_of_api_token(bytea), org_of_enrollment_token(bytea), host_credentials(uuid),
	sign_in(bytea, bytea, timestamptz, timestamptz), session_user_at(bytea, timestamptz, timestamptz), sign_out(bytea),
	memberships_of(uuid) TO millrace_app;
GRANT EXECUTE ON FUNCTION schema_version() TO millrace_app, millrace_system;

-- +goose Down
DROP FUNCTION org_of_slug(text), org_of_api_token(bytea), org_of_enrollment_token(bytea), host_credentials(uuid),
	sign_in(bytea, bytea, timestamptz, timestamptz), session_user_at(bytea, timestamptz, timestamptz), sign_out(bytea),
	memberships_of(uuid), schema_version();
