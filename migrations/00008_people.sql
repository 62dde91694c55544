-- +goose Up

-- Sessions are listed by an ID that is no secret, with where they are used from. Whoever was signed in signs in again.
DELETE FROM sessions;
ALTER TABLE sessions
	ADD COLUMN session_id   uuid NOT NULL,
	ADD COLUMN address      text NOT NULL,
	ADD COLUMN user_agent   text NOT NULL,
	ADD COLUMN confirmed_at timestamptz,    -- when the user last confirmed that it is them
	ADD COLUMN renew        boolean NOT NULL, -- its secret must be replaced
	ADD COLUMN former       bytea,          -- the hash that was replaced, which works for a little longer
	ADD COLUMN renewed_at   timestamptz,
	ADD CONSTRAINT sessions_id_key UNIQUE (session_id),
	ADD CONSTRAINT sessions_former_key UNIQUE (former);
GRANT SELECT, UPDATE, DELETE ON sessions TO millrace_system;

DROP FUNCTION sign_in(bytea, bytea, timestamptz, timestamptz);
DROP FUNCTION session_user_at(bytea, timestamptz, timestamptz);
DROP FUNCTION sign_out(bytea);

-- +goose StatementBegin
-- sign_in turns a one-use link into a session; no row when the link is unknown, used or expired.
CREATE FUNCTION sign_in(link bytea, session bytea, session_id uuid, address text, user_agent text, at timestamptz, expires_at timestamptz) RETURNS uuid
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	WITH used AS (
		DELETE FROM public.sign_in_links l WHERE l.hash = link RETURNING l.user_id, l.expires_at
	)
	INSERT INTO public.sessions (hash, user_id, session_id, address, user_agent, created_at, last_used_at, expires_at, renew)
	SELECT session, u.user_id, sign_in.session_id, sign_in.address, sign_in.user_agent, at, at, sign_in.expires_at, false
	FROM used u WHERE u.expires_at > at
	RETURNING user_id
$$;

-- session_at is a session that is neither expired nor idle, and its user; it notes the use, at most once a minute.
CREATE FUNCTION session_at(session bytea, at timestamptz, idle_since timestamptz, renewed_since timestamptz)
	RETURNS TABLE (session_id uuid, user_id uuid, github_id bigint, login text, name text, created_at timestamptz, expires_at timestamptz, confirmed_at timestamptz, renew boolean)
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	UPDATE public.sessions s SET last_used_at = at
	WHERE s.hash = session AND s.expires_at > at AND s.last_used_at > idle_since AND s.last_used_at < at - interval '1 minute';
	RETURN QUERY
		SELECT s.session_id, u.user_id, u.github_id, u.login, u.name, s.created_at, s.expires_at, s.confirmed_at, s.renew AND s.hash = session
		FROM public.sessions s JOIN public.users u ON u.user_id = s.user_id
		WHERE (s.hash = session OR s.former = session AND s.renewed_at > renewed_since) AND s.expires_at > at AND s.last_used_at > idle_since;
END
$$;

-- renew_session replaces the secret of a session that is to be renewed, once.
CREATE FUNCTION renew_session(session bytea, fresh bytea, at timestamptz) RETURNS boolean
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	WITH renewed AS (
		UPDATE public.sessions s SET hash = fresh, former = s.hash, renewed_at = at, renew = false
		WHERE s.hash = session AND s.renew RETURNING 1
	)
	SELECT EXISTS (SELECT FROM renewed)
$$;

CREATE FUNCTION sign_out(session bytea) RETURNS uuid
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ DELETE FROM public.sessions s WHERE s.hash = session OR s.former = session RETURNING s.user_id $$;
-- +goose StatementEnd

-- What GitHub said of a person's installations when they last signed in, kept up by sweeps. It says who belongs to which
-- org, and who may link an installation that is no org's yet. People belong to no org: the app role has functions only.
CREATE TABLE user_installations (
	user_id         uuid NOT NULL,
	installation_id bigint NOT NULL, -- GitHub's
	owner_id        bigint NOT NULL,
	owner_login     text NOT NULL,
	owner_type      text NOT NULL,
	member          boolean NOT NULL,
	admin           boolean NOT NULL,
	seen_at         timestamptz NOT NULL,
	CONSTRAINT user_installations_pkey PRIMARY KEY (user_id, installation_id),
	CONSTRAINT user_installations_user_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX user_installations_installation_idx ON user_installations (installation_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON user_installations TO millrace_system;

ALTER TABLE users
	ADD COLUMN hidden text[] NOT NULL DEFAULT '{}', -- organisations that want their own sign-on first, as GitHub last said
	ADD COLUMN read_at timestamptz;                 -- when GitHub last said all of it

-- A role that somebody here gave stays, whatever GitHub says.
ALTER TABLE memberships ADD COLUMN chosen boolean NOT NULL DEFAULT false;
UPDATE memberships SET chosen = NOT from_github;
GRANT UPDATE (role, chosen) ON memberships TO millrace_app;

-- The App may be taken from an account and come back with another id: the org is the account's, by its id.
ALTER TABLE installations
	ADD COLUMN deleted_at timestamptz,
	ADD COLUMN members_at timestamptz; -- when GitHub was last asked who belongs to it
CREATE UNIQUE INDEX installations_owner_key ON installations (owner_id) WHERE deleted_at IS NULL;

-- +goose StatementBegin
-- org_members are the members of the transaction's org, with what GitHub's answers make each.
CREATE FUNCTION org_members()
	RETURNS TABLE (user_id uuid, github_id bigint, login text, name text, role text, chosen boolean, github_role text, joined_at timestamptz, seen_at timestamptz)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	SELECT u.user_id, u.github_id, u.login, u.name, m.role, m.chosen,
		(SELECT CASE WHEN bool_or(p.admin) THEN 'admin' WHEN bool_or(p.member) THEN 'member' ELSE '' END
			FROM public.user_installations p JOIN public.installations i ON i.installation_id = p.installation_id
			WHERE i.org_id = m.org_id AND p.user_id = m.user_id),
		m.created_at,
		(SELECT max(s.last_used_at) FROM public.sessions s WHERE s.user_id = m.user_id)
	FROM public.memberships m JOIN public.users u ON u.user_id = m.user_id
	WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint
	ORDER BY lower(u.login), u.user_id
$$;

-- renew_sessions has the secrets of a member's sessions replaced: their role in the transaction's org changed.
CREATE FUNCTION renew_sessions(user_id uuid) RETURNS void
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
	UPDATE public.sessions s SET renew = true
	WHERE s.user_id = renew_sessions.user_id AND EXISTS (
		SELECT FROM public.memberships m
		WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint AND m.user_id = renew_sessions.user_id)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION sign_in(bytea, bytea, uuid, text, text, timestamptz, timestamptz), session_at(bytea, timestamptz, timestamptz, timestamptz),
	renew_session(bytea, bytea, timestamptz), sign_out(bytea), org_members(), renew_sessions(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sign_in(bytea, bytea, uuid, text, text, timestamptz, timestamptz), session_at(bytea, timestamptz, timestamptz, timestamptz),
	renew_session(bytea, bytea, timestamptz), sign_out(bytea), org_members(), renew_sessions(uuid) TO millrace_app;

-- A token is a person's, or the org's own. It has scopes, and one that was made before them has none: it is of no use.
ALTER TABLE api_tokens
	ALTER COLUMN user_id DROP NOT NULL, -- NULL: the org's own
	ADD COLUMN hint         text NOT NULL DEFAULT '', -- how its secret begins
	ADD COLUMN scopes       text[] NOT NULL DEFAULT '{}',
	ADD COLUMN last_used_at timestamptz,
	ADD COLUMN last_address text NOT NULL DEFAULT '',
	ADD COLUMN last_agent   text NOT NULL DEFAULT '';
UPDATE api_tokens SET expires_at = created_at + interval '30 days' WHERE expires_at IS NULL;
ALTER TABLE api_tokens ALTER COLUMN expires_at SET NOT NULL;
CREATE INDEX api_tokens_user_idx ON api_tokens (org_id, user_id);

-- By which request a change was made, by whom in words, and what it changed.
ALTER TABLE audit
	ADD COLUMN actor_name text NOT NULL DEFAULT '',
	ADD COLUMN address    text NOT NULL DEFAULT '',
	ADD COLUMN request_id text NOT NULL DEFAULT '',
	ADD COLUMN changes    jsonb NOT NULL DEFAULT '[]';

-- Its owner hid the checklist of first steps.
ALTER TABLE orgs ADD COLUMN checklist_hidden boolean NOT NULL DEFAULT false;
GRANT UPDATE (name, checklist_hidden) ON orgs TO millrace_app;

-- +goose Down
REVOKE UPDATE (name, checklist_hidden) ON orgs FROM millrace_app;
ALTER TABLE orgs DROP COLUMN checklist_hidden;
ALTER TABLE audit DROP COLUMN actor_name, DROP COLUMN address, DROP COLUMN request_id, DROP COLUMN changes;
DROP INDEX api_tokens_user_idx;
DELETE FROM api_tokens WHERE user_id IS NULL;
ALTER TABLE api_tokens ALTER COLUMN user_id SET NOT NULL, ALTER COLUMN expires_at DROP NOT NULL, DROP COLUMN hint, DROP COLUMN scopes,
	DROP COLUMN last_used_at, DROP COLUMN last_address, DROP COLUMN last_agent;
DROP FUNCTION org_members(), renew_sessions(uuid), sign_in(bytea, bytea, uuid, text, text, timestamptz, timestamptz),
	session_at(bytea, timestamptz, timestamptz, timestamptz), renew_session(bytea, bytea, timestamptz), sign_out(bytea);
DROP INDEX installations_owner_key;
ALTER TABLE installations DROP COLUMN deleted_at, DROP COLUMN members_at;
REVOKE UPDATE (role, chosen) ON memberships FROM millrace_app;
ALTER TABLE memberships DROP COLUMN chosen;
ALTER TABLE users DROP COLUMN hidden, DROP COLUMN read_at;
DROP TABLE user_installations;
DELETE FROM sessions;
REVOKE SELECT, UPDATE, DELETE ON sessions FROM millrace_system;
ALTER TABLE sessions DROP COLUMN session_id, DROP COLUMN address, DROP COLUMN user_agent, DROP COLUMN confirmed_at, DROP COLUMN renew,
	DROP COLUMN former, DROP COLUMN renewed_at;

-- +goose StatementBegin
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
-- +goose StatementEnd
REVOKE ALL ON FUNCTION sign_in(bytea, bytea, timestamptz, timestamptz), session_user_at(bytea, timestamptz, timestamptz), sign_out(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sign_in(bytea, bytea, timestamptz, timestamptz), session_user_at(bytea, timestamptz, timestamptz), sign_out(bytea) TO millrace_app;
