-- +goose Up

-- Row-level security is forced on every table that has org_id, on every partition too, for a partition that is queried
-- directly ignores its parent's policies. The app role sees the org of its transaction (app.org_id); the system role and
-- the owner see every org by an explicit policy. After COMMIT the setting is '' and not NULL, hence nullif.

-- +goose StatementBegin
CREATE FUNCTION protect(target regclass) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, public
AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
	EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
	EXECUTE format($p$CREATE POLICY tenant ON %s TO millrace_app
		USING (org_id = nullif(current_setting('app.org_id', true), '')::bigint)
		WITH CHECK (org_id = nullif(current_setting('app.org_id', true), '')::bigint)$p$, target);
	EXECUTE format('CREATE POLICY system ON %s TO millrace_system USING (true) WITH CHECK (true)', target);
	EXECUTE format('CREATE POLICY owner ON %s TO millrace_migrate USING (true) WITH CHECK (true)', target);
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION protect(regclass) FROM PUBLIC;

CREATE TABLE orgs (
	org_id          bigint GENERATED ALWAYS AS IDENTITY,
	slug            text NOT NULL,
	name            text NOT NULL,
	plan            text NOT NULL,
	concurrency     integer NOT NULL,
	default_cpu     integer NOT NULL, -- thousandths of a vCPU
	default_memory  integer NOT NULL, -- MiB
	actuated_labels boolean NOT NULL,
	created_at      timestamptz NOT NULL,
	CONSTRAINT orgs_pkey PRIMARY KEY (org_id),
	CONSTRAINT orgs_slug_key UNIQUE (slug),
	CONSTRAINT orgs_slug_check CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,37}[a-z0-9])?$'),
	CONSTRAINT orgs_concurrency_check CHECK (concurrency >= 0),
	CONSTRAINT orgs_default_check CHECK (default_cpu > 0 AND default_memory > 0)
);
SELECT protect('orgs');
GRANT SELECT ON orgs TO millrace_app;
GRANT SELECT, INSERT, UPDATE ON orgs TO millrace_system;

-- What one org gets before the others.
CREATE TABLE org_flags (
	org_id     bigint NOT NULL,
	flag       text NOT NULL,
	created_at timestamptz NOT NULL,
	CONSTRAINT org_flags_pkey PRIMARY KEY (org_id, flag),
	CONSTRAINT org_flags_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE
);
SELECT protect('org_flags');
GRANT SELECT ON org_flags TO millrace_app;
GRANT SELECT, INSERT, DELETE ON org_flags TO millrace_system;

-- People belong to no org: the app role reaches them through functions only.
CREATE TABLE users (
	user_id    uuid NOT NULL,
	github_id  bigint NOT NULL,
	login      text NOT NULL, -- display only
	name       text NOT NULL,
	created_at timestamptz NOT NULL,
	CONSTRAINT users_pkey PRIMARY KEY (user_id),
	CONSTRAINT users_github_id_key UNIQUE (github_id)
);
GRANT SELECT, INSERT, UPDATE ON users TO millrace_system;

CREATE TABLE memberships (
	org_id     bigint NOT NULL,
	user_id    uuid NOT NULL,
	role       text NOT NULL,
	created_at timestamptz NOT NULL,
	CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id),
	CONSTRAINT memberships_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE,
	CONSTRAINT memberships_user_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE,
	CONSTRAINT memberships_role_check CHECK (role IN ('owner', 'admin', 'member', 'billing', 'viewer'))
);
CREATE INDEX memberships_user_idx ON memberships (user_id);
SELECT protect('memberships');
GRANT SELECT ON memberships TO millrace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON memberships TO millrace_system;

-- Secrets are stored as SHA-256 and are globally unique lookup keys.
CREATE TABLE sessions (
	hash         bytea NOT NULL,
	user_id      uuid NOT NULL,
	created_at   timestamptz NOT NULL,
	last_used_at timestamptz NOT NULL,
	expires_at   timestamptz NOT NULL,
	CONSTRAINT sessions_pkey PRIMARY KEY (hash),
	CONSTRAINT sessions_user_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX sessions_user_idx ON sessions (user_id);

CREATE TABLE sign_in_links (
	hash       bytea NOT NULL,
	user_id    uuid NOT NULL,
	expires_at timestamptz NOT NULL,
	CONSTRAINT sign_in_links_pkey PRIMARY KEY (hash),
	CONSTRAINT sign_in_links_user_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
);
GRANT SELECT, INSERT, DELETE ON sign_in_links TO millrace_system;

CREATE TABLE installations (
	org_id          bigint NOT NULL,
	installation_id bigint NOT NULL, -- GitHub's
	owner_id        bigint NOT NULL, -- GitHub's id of the account
	owner_login     text NOT NULL,
	owner_type      text NOT NULL,
	suspended_at    timestamptz,
	jit_left        double precision NOT NULL, -- token bucket of JIT configs at jit_at
	jit_at          timestamptz NOT NULL,
	created_at      timestamptz NOT NULL,
	CONSTRAINT installations_pkey PRIMARY KEY (org_id, installation_id),
	CONSTRAINT installations_installation_key UNIQUE (installation_id),
	CONSTRAINT installations_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE,
	CONSTRAINT installations_owner_type_check CHECK (owner_type IN ('Organization', 'User'))
);
SELECT protect('installations');
GRANT SELECT ON installations TO millrace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON installations TO millrace_system;

CREATE TABLE repositories (
	org_id          bigint NOT NULL,
	repository_id   bigint NOT NULL, -- GitHub's
	installation_id bigint NOT NULL,
	full_name       text NOT NULL, -- display only
	private         boolean NOT NULL,
	seen_at         timestamptz NOT NULL,
	CONSTRAINT repositories_pkey PRIMARY KEY (org_id, repository_id),
	CONSTRAINT repositories_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations ON DELETE CASCADE
);
SELECT protect('repositories');
GRANT SELECT ON repositories TO millrace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON repositories TO millrace_system;

CREATE TABLE api_tokens (
	org_id       bigint NOT NULL,
	token_id     uuid NOT NULL,
	user_id      uuid NOT NULL,
	name         text NOT NULL,
	hash         bytea NOT NULL,
	created_at   timestamptz NOT NULL,
	expires_at   timestamptz,
	revoked_at   timestamptz,
	CONSTRAINT api_tokens_pkey PRIMARY KEY (org_id, token_id),
	CONSTRAINT api_tokens_hash_key UNIQUE (hash),
	CONSTRAINT api_tokens_membership_fkey FOREIGN KEY (org_id, user_id) REFERENCES memberships ON DELETE CASCADE
);
SELECT protect('api_tokens');
GRANT SELECT, INSERT, UPDATE ON api_tokens TO millrace_app, millrace_system;

CREATE TABLE enrollment_tokens (
	org_id     bigint NOT NULL,
	token_id   uuid NOT NULL,
	hash       bytea NOT NULL,
	uses_left  integer NOT NULL,
	created_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	revoked_at timestamptz,
	CONSTRAINT enrollment_tokens_pkey PRIMARY KEY (org_id, token_id),
	CONSTRAINT enrollment_tokens_hash_key UNIQUE (hash),
	CONSTRAINT enrollment_tokens_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE,
	CONSTRAINT enrollment_tokens_uses_check CHECK (uses_left >= 0)
);
SELECT protect('enrollment_tokens');
GRANT SELECT, INSERT, UPDATE ON enrollment_tokens TO millrace_app, millrace_system;

-- +goose Down
DROP TABLE enrollment_tokens, api_tokens, repositories, installations, sign_in_links, sessions, memberships, users, org_flags, orgs;
DROP FUNCTION protect(regclass);
