-- The schema as the migrations make it, but for partitions. Written by: go test ./store -run TestSchema -update

CREATE TYPE job_status AS ENUM ('waiting', 'queued', 'in_progress', 'completed');

CREATE TABLE api_tokens (
	org_id bigint NOT NULL,
	token_id uuid NOT NULL,
	user_id uuid,
	name text NOT NULL,
	hash bytea NOT NULL,
	created_at timestamp with time zone NOT NULL,
	expires_at timestamp with time zone NOT NULL,
	revoked_at timestamp with time zone,
	hint text NOT NULL DEFAULT ''::text,
	scopes text[] NOT NULL DEFAULT '{}'::text[],
	last_used_at timestamp with time zone,
	last_address text NOT NULL DEFAULT ''::text,
	last_agent text NOT NULL DEFAULT ''::text,
	CONSTRAINT api_tokens_hash_key UNIQUE (hash),
	CONSTRAINT api_tokens_pkey PRIMARY KEY (org_id, token_id),
	CONSTRAINT api_tokens_membership_fkey FOREIGN KEY (org_id, user_id) REFERENCES memberships(org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX api_tokens_user_idx ON api_tokens USING btree (org_id, user_id);
CREATE TRIGGER api_tokens_skip_deleted_org BEFORE INSERT ON api_tokens FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
ALTER TABLE api_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON api_tokens TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON api_tokens TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON api_tokens TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON api_tokens TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON api_tokens TO millrace_system;

CREATE TABLE audit (
	org_id bigint NOT NULL,
	at timestamp with time zone NOT NULL,
	audit_id uuid NOT NULL,
	actor_kind text NOT NULL,
	actor_id text NOT NULL,
	action text NOT NULL,
	subject text NOT NULL,
	actor_name text NOT NULL DEFAULT ''::text,
	address text NOT NULL DEFAULT ''::text,
	request_id text NOT NULL DEFAULT ''::text,
	changes jsonb NOT NULL DEFAULT '[]'::jsonb,
	CONSTRAINT audit_pkey PRIMARY KEY (org_id, at, audit_id),
	CONSTRAINT audit_actor_check CHECK ((actor_kind = ANY (ARRAY['user'::text, 'token'::text, 'host'::text, 'system'::text])))
) PARTITION BY RANGE (at);
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON audit TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON audit TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON audit TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT ON audit TO millrace_app;
GRANT INSERT, SELECT ON audit TO millrace_system;

CREATE TABLE deliveries (
	org_id bigint NOT NULL,
	received_at timestamp with time zone NOT NULL,
	guid text NOT NULL,
	event text NOT NULL,
	action text NOT NULL,
	installation_id bigint NOT NULL,
	body bytea NOT NULL
) PARTITION BY RANGE (received_at);
CREATE INDEX deliveries_guid_idx ON ONLY deliveries USING btree (org_id, guid);
ALTER TABLE deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON deliveries TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON deliveries TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON deliveries TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT ON deliveries TO millrace_system;

CREATE TABLE device_authorizations (
	hash bytea NOT NULL,
	user_code text NOT NULL,
	client text NOT NULL,
	scopes text[] NOT NULL,
	address text NOT NULL,
	user_agent text NOT NULL,
	created_at timestamp with time zone NOT NULL,
	expires_at timestamp with time zone NOT NULL,
	polled_at timestamp with time zone,
	wait_seconds integer NOT NULL,
	user_id uuid,
	decided_at timestamp with time zone,
	for_org bigint,
	days integer NOT NULL DEFAULT 0,
	CONSTRAINT device_authorizations_code_key UNIQUE (user_code),
	CONSTRAINT device_authorizations_pkey PRIMARY KEY (hash),
	CONSTRAINT device_authorizations_user_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE
);
CREATE INDEX device_authorizations_address_idx ON device_authorizations USING btree (address);
GRANT DELETE, INSERT, SELECT, UPDATE ON device_authorizations TO millrace_system;

CREATE TABLE enrollment_tokens (
	org_id bigint NOT NULL,
	token_id uuid NOT NULL,
	hash bytea NOT NULL,
	uses_left integer NOT NULL,
	created_at timestamp with time zone NOT NULL,
	expires_at timestamp with time zone NOT NULL,
	revoked_at timestamp with time zone,
	labels text[],
	cidr cidr,
	ephemeral boolean NOT NULL DEFAULT false,
	CONSTRAINT enrollment_tokens_hash_key UNIQUE (hash),
	CONSTRAINT enrollment_tokens_pkey PRIMARY KEY (org_id, token_id),
	CONSTRAINT enrollment_tokens_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE,
	CONSTRAINT enrollment_tokens_uses_check CHECK ((uses_left >= 0))
);
CREATE TRIGGER enrollment_tokens_skip_deleted_org BEFORE INSERT ON enrollment_tokens FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
ALTER TABLE enrollment_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE enrollment_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON enrollment_tokens TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON enrollment_tokens TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON enrollment_tokens TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON enrollment_tokens TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON enrollment_tokens TO millrace_system;

CREATE TABLE erased_orgs (
	former_id bigint NOT NULL,
	slug text NOT NULL,
	deleted_at timestamp with time zone NOT NULL,
	erased_at timestamp with time zone,
	rows bigint NOT NULL,
	CONSTRAINT erased_orgs_pkey PRIMARY KEY (former_id)
);
CREATE INDEX erased_orgs_slug_idx ON erased_orgs USING btree (slug, erased_at);
GRANT SELECT ON erased_orgs TO millrace_system;

CREATE TABLE guesses (
	subject text NOT NULL,
	since timestamp with time zone NOT NULL,
	wrong integer NOT NULL,
	CONSTRAINT guesses_pkey PRIMARY KEY (subject)
);
GRANT DELETE, INSERT, SELECT, UPDATE ON guesses TO millrace_system;

CREATE TABLE host_beats (
	org_id bigint NOT NULL,
	host_id uuid NOT NULL,
	seen_at timestamp with time zone NOT NULL,
	epoch bigint NOT NULL,
	sequence bigint NOT NULL,
	CONSTRAINT host_beats_pkey PRIMARY KEY (org_id, host_id),
	CONSTRAINT host_beats_host_fkey FOREIGN KEY (org_id, host_id) REFERENCES hosts(org_id, host_id) ON DELETE CASCADE
);
ALTER TABLE host_beats ENABLE ROW LEVEL SECURITY;
ALTER TABLE host_beats FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON host_beats TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON host_beats TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON host_beats TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON host_beats TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON host_beats TO millrace_system;

CREATE TABLE hosts (
	org_id bigint NOT NULL,
	host_id uuid NOT NULL,
	name text NOT NULL,
	arch text NOT NULL,
	vcpus integer NOT NULL,
	memory_mb integer NOT NULL,
	disk_mb integer NOT NULL,
	offer_cpu integer NOT NULL,
	offer_memory integer NOT NULL,
	labels text[] NOT NULL,
	driver text NOT NULL,
	version text NOT NULL,
	kernel text NOT NULL,
	cpu_model text NOT NULL,
	admin text NOT NULL,
	sign_key bytea NOT NULL,
	seal_key bytea NOT NULL,
	epoch bigint NOT NULL,
	desired_version bigint NOT NULL,
	created_at timestamp with time zone NOT NULL,
	boot_n integer NOT NULL DEFAULT 0,
	boot_p50 bigint NOT NULL DEFAULT 0,
	boot_p90 bigint NOT NULL DEFAULT 0,
	token_id uuid,
	fixed_labels text[],
	ephemeral boolean NOT NULL DEFAULT false,
	removed_at timestamp with time zone,
	restart_epoch bigint NOT NULL DEFAULT 0,
	reboot_epoch bigint NOT NULL DEFAULT 0,
	boot_ms integer NOT NULL DEFAULT 0,
	started_at timestamp with time zone,
	boot_id text NOT NULL DEFAULT ''::text,
	former_boot text NOT NULL DEFAULT ''::text,
	cloned_boot text NOT NULL DEFAULT ''::text,
	cloned_at timestamp with time zone,
	refuses text NOT NULL DEFAULT ''::text,
	emulates text[] NOT NULL DEFAULT '{}'::text[],
	findings jsonb NOT NULL DEFAULT '[]'::jsonb,
	rotate_epoch bigint NOT NULL DEFAULT 0,
	keys_at timestamp with time zone,
	network text NOT NULL DEFAULT 'unknown'::text,
	max_vms integer NOT NULL DEFAULT 0,
	changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	first_sequence bigint NOT NULL DEFAULT 0,
	doubted_until timestamp with time zone,
	reboots boolean NOT NULL DEFAULT false,
	CONSTRAINT hosts_host_id_key UNIQUE (host_id),
	CONSTRAINT hosts_sign_key_key UNIQUE (sign_key),
	CONSTRAINT hosts_pkey PRIMARY KEY (org_id, host_id),
	CONSTRAINT hosts_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE,
	CONSTRAINT hosts_admin_check CHECK ((admin = ANY (ARRAY['enabled'::text, 'draining'::text, 'disabled'::text]))),
	CONSTRAINT hosts_arch_check CHECK ((arch = ANY (ARRAY['amd64'::text, 'arm64'::text]))),
	CONSTRAINT hosts_facts_check CHECK (((vcpus > 0) AND (memory_mb > 0) AND (disk_mb >= 0) AND (offer_cpu >= 0) AND (offer_memory >= 0))),
	CONSTRAINT hosts_findings_check CHECK (((jsonb_typeof(findings) = 'array'::text) AND (octet_length((findings)::text) < 1048576))),
	CONSTRAINT hosts_keys_check CHECK (((length(sign_key) = 32) AND (length(seal_key) = 32))),
	CONSTRAINT hosts_max_vms_check CHECK ((max_vms >= 0)),
	CONSTRAINT hosts_network_check CHECK ((network = ANY (ARRAY['tap'::text, 'user'::text, 'unknown'::text])))
);
CREATE INDEX hosts_changed_idx ON hosts USING btree (org_id, changed_xid);
CREATE INDEX hosts_ephemeral_idx ON hosts USING btree (org_id, host_id) WHERE (ephemeral AND (removed_at IS NULL));
CREATE UNIQUE INDEX hosts_name_key ON hosts USING btree (org_id, name) WHERE (removed_at IS NULL);
CREATE TRIGGER hosts_note_change BEFORE UPDATE OF name, arch, emulates, offer_cpu, offer_memory, max_vms, labels, network, admin, refuses, removed_at, boot_n, boot_p50, boot_p90 ON hosts FOR EACH ROW EXECUTE FUNCTION note_change();
ALTER TABLE hosts ENABLE ROW LEVEL SECURITY;
ALTER TABLE hosts FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON hosts TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON hosts TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON hosts TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON hosts TO millrace_app;
GRANT SELECT, UPDATE ON hosts TO millrace_system;

CREATE TABLE incidents (
	org_id bigint NOT NULL,
	incident_id uuid NOT NULL,
	code text NOT NULL,
	installation_id bigint NOT NULL,
	repository_id bigint NOT NULL,
	repository text NOT NULL,
	detail text NOT NULL,
	opened_at timestamp with time zone NOT NULL,
	seen_at timestamp with time zone NOT NULL,
	probe_at timestamp with time zone NOT NULL,
	closed_at timestamp with time zone,
	CONSTRAINT incidents_pkey PRIMARY KEY (org_id, incident_id),
	CONSTRAINT incidents_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations(org_id, installation_id) ON DELETE CASCADE
);
CREATE INDEX incidents_list_idx ON incidents USING btree (org_id, opened_at DESC, incident_id DESC);
CREATE UNIQUE INDEX incidents_open_key ON incidents USING btree (org_id, installation_id, repository_id, code) WHERE (closed_at IS NULL);
ALTER TABLE incidents ENABLE ROW LEVEL SECURITY;
ALTER TABLE incidents FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON incidents TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON incidents TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON incidents TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON incidents TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON incidents TO millrace_system;

CREATE TABLE installations (
	org_id bigint NOT NULL,
	installation_id bigint NOT NULL,
	owner_id bigint NOT NULL,
	owner_login text NOT NULL,
	owner_type text NOT NULL,
	suspended_at timestamp with time zone,
	jit_left double precision NOT NULL,
	jit_at timestamp with time zone NOT NULL,
	created_at timestamp with time zone NOT NULL,
	heard_at timestamp with time zone,
	missed_at timestamp with time zone,
	listed_at timestamp with time zone,
	quota_limit integer NOT NULL DEFAULT 0,
	quota_left integer NOT NULL DEFAULT 0,
	quota_reset timestamp with time zone,
	deleted_at timestamp with time zone,
	members_at timestamp with time zone,
	read_at timestamp with time zone,
	CONSTRAINT installations_installation_key UNIQUE (installation_id),
	CONSTRAINT installations_pkey PRIMARY KEY (org_id, installation_id),
	CONSTRAINT installations_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE,
	CONSTRAINT installations_owner_type_check CHECK ((owner_type = ANY (ARRAY['Organization'::text, 'User'::text])))
);
CREATE UNIQUE INDEX installations_owner_key ON installations USING btree (owner_id) WHERE (deleted_at IS NULL);
CREATE TRIGGER installations_skip_deleted_org BEFORE INSERT ON installations FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
ALTER TABLE installations ENABLE ROW LEVEL SECURITY;
ALTER TABLE installations FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON installations TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON installations TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON installations TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON installations TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON installations TO millrace_system;

CREATE TABLE job_durations (
	org_id bigint NOT NULL,
	repository_id bigint NOT NULL,
	workflow text NOT NULL,
	name text NOT NULL,
	n integer NOT NULL,
	p50 bigint NOT NULL,
	p90 bigint NOT NULL,
	CONSTRAINT job_durations_pkey PRIMARY KEY (org_id, repository_id, workflow, name),
	CONSTRAINT job_durations_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE
);
ALTER TABLE job_durations ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_durations FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON job_durations TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON job_durations TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON job_durations TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON job_durations TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON job_durations TO millrace_system;

CREATE TABLE job_facts (
	org_id bigint NOT NULL,
	completed_at timestamp with time zone NOT NULL,
	job_id uuid NOT NULL,
	repository_id bigint NOT NULL,
	repository text NOT NULL,
	workflow text NOT NULL,
	name text NOT NULL,
	actor_id bigint NOT NULL,
	actor text NOT NULL,
	conclusion text NOT NULL,
	arch text NOT NULL,
	cpu integer NOT NULL,
	memory integer NOT NULL,
	host_id uuid,
	vm_id uuid,
	wait_ms bigint NOT NULL,
	run_ms bigint NOT NULL,
	started boolean NOT NULL,
	CONSTRAINT job_facts_pkey PRIMARY KEY (org_id, completed_at, job_id)
) PARTITION BY RANGE (completed_at);
CREATE INDEX job_facts_name_idx ON ONLY job_facts USING btree (org_id, repository_id, name, completed_at DESC);
ALTER TABLE job_facts ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_facts FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON job_facts TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON job_facts TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON job_facts TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON job_facts TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON job_facts TO millrace_system;

CREATE TABLE jobs (
	org_id bigint NOT NULL,
	job_id uuid NOT NULL,
	installation_id bigint NOT NULL,
	github_job_id bigint NOT NULL,
	run_id bigint NOT NULL,
	run_attempt integer NOT NULL,
	repository_id bigint NOT NULL,
	repository text NOT NULL,
	private boolean NOT NULL,
	zone text NOT NULL,
	workflow text NOT NULL,
	name text NOT NULL,
	branch text NOT NULL,
	sha text NOT NULL,
	actor_id bigint NOT NULL,
	actor text NOT NULL,
	labels text[] NOT NULL,
	html_url text NOT NULL,
	status job_status NOT NULL,
	conclusion text NOT NULL,
	runner_id bigint NOT NULL,
	runner_name text NOT NULL,
	queued_at timestamp with time zone NOT NULL,
	started_at timestamp with time zone,
	completed_at timestamp with time zone,
	received_at timestamp with time zone NOT NULL,
	arch text NOT NULL,
	cpu integer NOT NULL,
	memory integer NOT NULL,
	burstable boolean NOT NULL,
	extra_labels text[] NOT NULL,
	wait_code text NOT NULL,
	wait_text text NOT NULL,
	tries integer NOT NULL,
	failure text NOT NULL,
	retry_at timestamp with time zone,
	wait_remedy text NOT NULL DEFAULT ''::text,
	wait_from timestamp with time zone,
	wait_to timestamp with time zone,
	wait_basis text NOT NULL DEFAULT ''::text,
	confirmed_at timestamp with time zone,
	denials integer NOT NULL DEFAULT 0,
	denied_at timestamp with time zone,
	zone_known boolean NOT NULL DEFAULT false,
	CONSTRAINT jobs_github_key UNIQUE (org_id, installation_id, github_job_id, run_attempt),
	CONSTRAINT jobs_pkey PRIMARY KEY (org_id, job_id),
	CONSTRAINT jobs_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations(org_id, installation_id) ON DELETE CASCADE,
	CONSTRAINT jobs_completed_check CHECK (((completed_at IS NULL) = (status <> 'completed'::job_status))),
	CONSTRAINT jobs_demand_check CHECK (((cpu >= 0) AND (memory >= 0) AND (arch = ANY (ARRAY[''::text, 'amd64'::text, 'arm64'::text, 'any'::text])))),
	CONSTRAINT jobs_wait_check CHECK (((wait_from IS NULL) = (wait_to IS NULL))),
	CONSTRAINT jobs_zone_check CHECK ((zone = ANY (ARRAY['private'::text, 'public'::text, 'fork'::text])))
);
CREATE INDEX jobs_list_idx ON jobs USING btree (org_id, received_at DESC, job_id DESC);
CREATE INDEX jobs_open_idx ON jobs USING btree (org_id, received_at, job_id) WHERE (status <> 'completed'::job_status);
CREATE INDEX jobs_repository_idx ON jobs USING btree (org_id, repository, received_at DESC, job_id DESC);
CREATE INDEX jobs_repository_open_idx ON jobs USING btree (org_id, repository_id, job_id) WITH (deduplicate_items=off) WHERE (status <> 'completed'::job_status);
CREATE INDEX jobs_runner_idx ON jobs USING btree (org_id, installation_id, runner_id) WHERE (runner_id <> 0);
CREATE INDEX jobs_zone_unknown_idx ON jobs USING btree (org_id, installation_id, run_id) WHERE ((NOT zone_known) AND (status <> 'completed'::job_status));
CREATE TRIGGER jobs_find_stray AFTER UPDATE OF zone ON jobs FOR EACH ROW WHEN ((old.zone <> new.zone)) EXECUTE FUNCTION find_stray();
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON jobs TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON jobs TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON jobs TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT, UPDATE ON jobs TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON jobs TO millrace_system;

CREATE TABLE memberships (
	org_id bigint NOT NULL,
	user_id uuid NOT NULL,
	role text NOT NULL,
	created_at timestamp with time zone NOT NULL,
	from_github boolean NOT NULL DEFAULT false,
	chosen boolean NOT NULL DEFAULT false,
	CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id),
	CONSTRAINT memberships_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE,
	CONSTRAINT memberships_user_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE,
	CONSTRAINT memberships_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'billing'::text, 'viewer'::text])))
);
CREATE INDEX memberships_user_idx ON memberships USING btree (user_id);
CREATE TRIGGER memberships_skip_deleted_org BEFORE INSERT ON memberships FOR EACH ROW EXECUTE FUNCTION skip_deleted_org();
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON memberships TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON memberships TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON memberships TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON memberships TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON memberships TO millrace_system;

CREATE TABLE org_flags (
	org_id bigint NOT NULL,
	flag text NOT NULL,
	created_at timestamp with time zone NOT NULL,
	CONSTRAINT org_flags_pkey PRIMARY KEY (org_id, flag),
	CONSTRAINT org_flags_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE
);
ALTER TABLE org_flags ENABLE ROW LEVEL SECURITY;
ALTER TABLE org_flags FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON org_flags TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON org_flags TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON org_flags TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON org_flags TO millrace_app;
GRANT DELETE, INSERT, SELECT ON org_flags TO millrace_system;

CREATE TABLE orgs (
	org_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
	slug text NOT NULL,
	name text NOT NULL,
	plan text NOT NULL,
	concurrency integer NOT NULL,
	default_cpu integer NOT NULL,
	default_memory integer NOT NULL,
	actuated_labels boolean NOT NULL,
	created_at timestamp with time zone NOT NULL,
	checklist_hidden boolean NOT NULL DEFAULT false,
	deleted_at timestamp with time zone,
	deleted_by text,
	strategy text NOT NULL DEFAULT 'pack'::text,
	CONSTRAINT orgs_slug_key UNIQUE (slug),
	CONSTRAINT orgs_pkey PRIMARY KEY (org_id),
	CONSTRAINT orgs_concurrency_check CHECK ((concurrency >= 0)),
	CONSTRAINT orgs_default_check CHECK (((default_cpu > 0) AND (default_memory > 0))),
	CONSTRAINT orgs_deleted_check CHECK (((deleted_at IS NULL) = (deleted_by IS NULL))),
	CONSTRAINT orgs_slug_check CHECK ((slug ~ '^[a-z0-9]([a-z0-9-]{0,37}[a-z0-9])?$'::text)),
	CONSTRAINT orgs_strategy_check CHECK ((strategy = ANY (ARRAY['pack'::text, 'spread'::text])))
);
CREATE TRIGGER orgs_keep_slug BEFORE INSERT ON orgs FOR EACH ROW EXECUTE FUNCTION keep_slug();
ALTER TABLE orgs ENABLE ROW LEVEL SECURITY;
ALTER TABLE orgs FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON orgs TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON orgs TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON orgs TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON orgs TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON orgs TO millrace_system;

CREATE TABLE outbox (
	outbox_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
	org_id bigint NOT NULL,
	kind text NOT NULL,
	args jsonb NOT NULL,
	at timestamp with time zone NOT NULL,
	CONSTRAINT outbox_pkey PRIMARY KEY (org_id, outbox_id),
	CONSTRAINT outbox_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE
);
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON outbox TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON outbox TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON outbox TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT ON outbox TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON outbox TO millrace_system;

CREATE TABLE placements (
	org_id bigint NOT NULL,
	snapshot pg_snapshot NOT NULL,
	next_at timestamp with time zone,
	CONSTRAINT placements_pkey PRIMARY KEY (org_id),
	CONSTRAINT placements_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE
);
ALTER TABLE placements ENABLE ROW LEVEL SECURITY;
ALTER TABLE placements FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON placements TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON placements TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON placements TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON placements TO millrace_system;

CREATE TABLE redeliveries (
	delivery_id bigint NOT NULL,
	guid text NOT NULL,
	asked_at timestamp with time zone NOT NULL,
	CONSTRAINT redeliveries_pkey PRIMARY KEY (delivery_id)
);
CREATE INDEX redeliveries_guid_idx ON redeliveries USING btree (guid);
GRANT DELETE, INSERT, SELECT ON redeliveries TO millrace_system;

CREATE TABLE repositories (
	org_id bigint NOT NULL,
	repository_id bigint NOT NULL,
	installation_id bigint NOT NULL,
	full_name text NOT NULL,
	private boolean NOT NULL,
	seen_at timestamp with time zone NOT NULL,
	polled_at timestamp with time zone,
	unlisted_at timestamp with time zone,
	priority smallint NOT NULL DEFAULT 0,
	vm_limit integer NOT NULL DEFAULT 0,
	CONSTRAINT repositories_pkey PRIMARY KEY (org_id, repository_id),
	CONSTRAINT repositories_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations(org_id, installation_id) ON DELETE CASCADE,
	CONSTRAINT repositories_share_check CHECK ((((priority >= '-5'::integer) AND (priority <= 5)) AND ((vm_limit >= 0) AND (vm_limit <= 10000))))
);
CREATE TRIGGER repositories_move_open_jobs AFTER UPDATE OF installation_id ON repositories FOR EACH ROW WHEN ((old.installation_id <> new.installation_id)) EXECUTE FUNCTION move_open_jobs();
ALTER TABLE repositories ENABLE ROW LEVEL SECURITY;
ALTER TABLE repositories FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON repositories TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON repositories TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON repositories TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT ON repositories TO millrace_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON repositories TO millrace_system;

CREATE TABLE sessions (
	hash bytea NOT NULL,
	user_id uuid NOT NULL,
	created_at timestamp with time zone NOT NULL,
	last_used_at timestamp with time zone NOT NULL,
	expires_at timestamp with time zone NOT NULL,
	session_id uuid NOT NULL,
	address text NOT NULL,
	user_agent text NOT NULL,
	confirmed_at timestamp with time zone,
	renew boolean NOT NULL,
	former bytea,
	renewed_at timestamp with time zone,
	CONSTRAINT sessions_former_key UNIQUE (former),
	CONSTRAINT sessions_id_key UNIQUE (session_id),
	CONSTRAINT sessions_pkey PRIMARY KEY (hash),
	CONSTRAINT sessions_user_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE
);
CREATE INDEX sessions_user_idx ON sessions USING btree (user_id);
GRANT DELETE, INSERT, SELECT, UPDATE ON sessions TO millrace_system;

CREATE TABLE sign_in_links (
	hash bytea NOT NULL,
	user_id uuid NOT NULL,
	expires_at timestamp with time zone NOT NULL,
	CONSTRAINT sign_in_links_pkey PRIMARY KEY (hash),
	CONSTRAINT sign_in_links_user_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE
);
GRANT DELETE, INSERT, SELECT ON sign_in_links TO millrace_system;

CREATE TABLE sweeps (
	name text NOT NULL,
	swept_at timestamp with time zone NOT NULL,
	not_before timestamp with time zone,
	CONSTRAINT sweeps_pkey PRIMARY KEY (name)
);
GRANT INSERT, SELECT, UPDATE ON sweeps TO millrace_system;

CREATE TABLE user_installations (
	user_id uuid NOT NULL,
	installation_id bigint NOT NULL,
	owner_id bigint NOT NULL,
	owner_login text NOT NULL,
	owner_type text NOT NULL,
	member boolean NOT NULL,
	admin boolean NOT NULL,
	seen_at timestamp with time zone NOT NULL,
	suspended_at timestamp with time zone,
	CONSTRAINT user_installations_pkey PRIMARY KEY (user_id, installation_id),
	CONSTRAINT user_installations_user_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE
);
CREATE INDEX user_installations_installation_idx ON user_installations USING btree (installation_id);
GRANT DELETE, INSERT, SELECT, UPDATE ON user_installations TO millrace_system;

CREATE TABLE users (
	user_id uuid NOT NULL,
	github_id bigint NOT NULL,
	login text NOT NULL,
	name text NOT NULL,
	created_at timestamp with time zone NOT NULL,
	hidden text[] NOT NULL DEFAULT '{}'::text[],
	read_at timestamp with time zone,
	CONSTRAINT users_github_id_key UNIQUE (github_id),
	CONSTRAINT users_pkey PRIMARY KEY (user_id)
);
GRANT INSERT, SELECT, UPDATE ON users TO millrace_system;

CREATE TABLE vm_samples (
	org_id bigint NOT NULL,
	placed_at timestamp with time zone NOT NULL,
	vm_id uuid NOT NULL,
	epoch bigint NOT NULL,
	time_ms integer[] NOT NULL,
	memory_mb integer[] NOT NULL,
	peak_cpu integer[] NOT NULL,
	cpu_ms integer[] NOT NULL,
	disk_read_kb integer[] NOT NULL,
	disk_write_kb integer[] NOT NULL,
	net_rx_kb integer[] NOT NULL,
	net_tx_kb integer[] NOT NULL,
	CONSTRAINT vm_samples_pkey PRIMARY KEY (org_id, vm_id, placed_at),
	CONSTRAINT vm_samples_vm_fkey FOREIGN KEY (org_id, vm_id) REFERENCES vms(org_id, vm_id) ON DELETE CASCADE,
	CONSTRAINT vm_samples_length_check CHECK (((cardinality(time_ms) <= 600) AND (ARRAY[cardinality(memory_mb), cardinality(peak_cpu), cardinality(cpu_ms), cardinality(disk_read_kb), cardinality(disk_write_kb), cardinality(net_rx_kb), cardinality(net_tx_kb)] = array_fill(cardinality(time_ms), ARRAY[7]))))
) PARTITION BY RANGE (placed_at);
ALTER TABLE vm_samples ENABLE ROW LEVEL SECURITY;
ALTER TABLE vm_samples FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON vm_samples TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON vm_samples TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON vm_samples TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON vm_samples TO millrace_app;
GRANT SELECT ON vm_samples TO millrace_system;

CREATE TABLE vms (
	org_id bigint NOT NULL,
	vm_id uuid NOT NULL,
	host_id uuid NOT NULL,
	for_job uuid NOT NULL,
	ran_job uuid,
	state text NOT NULL,
	epoch bigint NOT NULL,
	zone text NOT NULL,
	arch text NOT NULL,
	cpu integer NOT NULL,
	memory integer NOT NULL,
	burstable boolean NOT NULL,
	labels text[] NOT NULL,
	installation_id bigint NOT NULL,
	repository_id bigint NOT NULL,
	repository text NOT NULL,
	runner_id bigint NOT NULL,
	runner_name text NOT NULL,
	jit_sealed bytea,
	reason text NOT NULL,
	exit_code integer,
	retire_reason text NOT NULL,
	peak_memory bigint NOT NULL,
	cpu_ms bigint NOT NULL,
	disk_read bigint NOT NULL,
	disk_write bigint NOT NULL,
	net_rx bigint NOT NULL,
	net_tx bigint NOT NULL,
	placed_at timestamp with time zone NOT NULL,
	booting_at timestamp with time zone,
	online_at timestamp with time zone,
	busy_at timestamp with time zone,
	stopping_at timestamp with time zone,
	gone_at timestamp with time zone,
	changed_at timestamp with time zone NOT NULL,
	egress text NOT NULL DEFAULT 'internet'::text,
	stray boolean NOT NULL DEFAULT false,
	ending boolean NOT NULL DEFAULT (state = ANY (ARRAY['stopping'::text, 'gone'::text])),
	CONSTRAINT vms_pkey PRIMARY KEY (org_id, vm_id),
	CONSTRAINT vms_for_job_fkey FOREIGN KEY (org_id, for_job) REFERENCES jobs(org_id, job_id) ON DELETE CASCADE,
	CONSTRAINT vms_host_fkey FOREIGN KEY (org_id, host_id) REFERENCES hosts(org_id, host_id) ON DELETE CASCADE,
	CONSTRAINT vms_ran_job_fkey FOREIGN KEY (org_id, ran_job) REFERENCES jobs(org_id, job_id) ON DELETE CASCADE,
	CONSTRAINT vms_egress_check CHECK ((egress = ANY (ARRAY['internet'::text, 'none'::text]))),
	CONSTRAINT vms_gone_check CHECK (((gone_at IS NULL) = (state <> 'gone'::text))),
	CONSTRAINT vms_size_check CHECK (((cpu > 0) AND (memory > 0))),
	CONSTRAINT vms_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'booting'::text, 'online'::text, 'busy'::text, 'stopping'::text, 'lost'::text, 'gone'::text])))
);
CREATE UNIQUE INDEX vms_cover_key ON vms USING btree (org_id, for_job) WHERE ((ran_job IS NULL) AND (NOT ending));
CREATE INDEX vms_for_job_idx ON vms USING btree (org_id, for_job, placed_at DESC);
CREATE INDEX vms_host_idx ON vms USING btree (org_id, host_id, placed_at DESC);
CREATE INDEX vms_list_idx ON vms USING btree (org_id, placed_at DESC, vm_id DESC);
CREATE INDEX vms_live_idx ON vms USING btree (org_id, host_id, vm_id) WITH (deduplicate_items=off) WHERE (gone_at IS NULL);
CREATE INDEX vms_ran_job_idx ON vms USING btree (org_id, ran_job) WHERE (ran_job IS NOT NULL);
CREATE UNIQUE INDEX vms_runner_key ON vms USING btree (org_id, installation_id, runner_id) WHERE (runner_id <> 0);
CREATE INDEX vms_stray_idx ON vms USING btree (org_id) WHERE stray;
CREATE INDEX vms_unmatched_idx ON vms USING btree (org_id, COALESCE(gone_at, 'infinity'::timestamp with time zone)) WHERE ((ran_job IS NULL) AND (runner_id <> 0));
ALTER TABLE vms ENABLE ROW LEVEL SECURITY;
ALTER TABLE vms FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON vms TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON vms TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON vms TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT SELECT, UPDATE ON vms TO millrace_app;
GRANT INSERT, SELECT, UPDATE ON vms TO millrace_system;

CREATE TABLE zone_rules (
	org_id bigint NOT NULL,
	zone text NOT NULL,
	allowed boolean NOT NULL,
	host_labels text[] NOT NULL,
	egress text NOT NULL,
	max_cpu integer NOT NULL,
	max_memory integer NOT NULL,
	CONSTRAINT zone_rules_pkey PRIMARY KEY (org_id, zone),
	CONSTRAINT zone_rules_org_fkey FOREIGN KEY (org_id) REFERENCES orgs(org_id) ON DELETE CASCADE,
	CONSTRAINT zone_rules_egress_check CHECK ((egress = ANY (ARRAY['internet'::text, 'none'::text]))),
	CONSTRAINT zone_rules_max_check CHECK (((max_cpu >= 0) AND (max_memory >= 0))),
	CONSTRAINT zone_rules_private_check CHECK ((allowed OR (zone <> 'private'::text))),
	CONSTRAINT zone_rules_zone_check CHECK ((zone = ANY (ARRAY['private'::text, 'public'::text, 'fork'::text])))
);
ALTER TABLE zone_rules ENABLE ROW LEVEL SECURITY;
ALTER TABLE zone_rules FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON zone_rules TO millrace_migrate USING true WITH CHECK true;
CREATE POLICY system ON zone_rules TO millrace_system USING true WITH CHECK true;
CREATE POLICY tenant ON zone_rules TO millrace_app USING (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint) WITH CHECK (org_id = (NULLIF(current_setting('app.org_id'::text, true), ''::text))::bigint);
GRANT INSERT, SELECT, UPDATE ON zone_rules TO millrace_app;
GRANT SELECT ON zone_rules TO millrace_system;

CREATE OR REPLACE FUNCTION erase_org(org_id bigint, at timestamp with time zone, most integer)
 RETURNS TABLE(name text, erased bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
GRANT EXECUTE ON FUNCTION erase_org TO millrace_system;

CREATE OR REPLACE FUNCTION find_stray()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	UPDATE public.vms v SET stray = true WHERE (v.org_id, v.ran_job) = (NEW.org_id, NEW.job_id) AND v.zone <> NEW.zone;
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION host_credentials(host_id uuid)
 RETURNS TABLE(org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text, removed boolean, restart boolean, reboot boolean, rotate boolean, keys_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER ROWS 1
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	RETURN QUERY
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin,
		h.removed_at IS NOT NULL, h.restart_epoch = h.epoch, h.reboot_epoch = h.epoch, h.rotate_epoch = h.epoch, coalesce(h.keys_at, h.created_at)
	FROM public.hosts h JOIN public.host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
	WHERE h.host_id = host_credentials.host_id;
END
$function$;
GRANT EXECUTE ON FUNCTION host_credentials TO millrace_app;

CREATE OR REPLACE FUNCTION keep_partitions(at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
DECLARE
	kept   record;
	first  timestamptz;
	step   interval;
	child  text;
	found  record;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('keep_partitions'));
	FOR kept IN
		SELECT * FROM (VALUES
			('deliveries', 'day', 14, interval '7 days'),
			('job_facts', 'month', 2, interval '400 days'),
			('vm_samples', 'month', 2, interval '90 days'),
			('audit', 'month', 2, interval '400 days')
		) AS v (parent, unit, ahead, retention)
	LOOP
		step := ('1 ' || kept.unit)::interval;
		FOR n IN -1 .. kept.ahead LOOP
			first := date_trunc(kept.unit, at) + n * step;
			child := kept.parent || '_' || to_char(first, CASE kept.unit WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
			IF to_regclass('public.' || quote_ident(child)) IS NULL THEN
				EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)', child, kept.parent, first, first + step);
				PERFORM public.protect(to_regclass('public.' || quote_ident(child)));
			END IF;
		END LOOP;
		FOR found IN
			SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = to_regclass('public.' || kept.parent)
		LOOP
			first := to_date(substring(found.relname from '[0-9]+$'), CASE kept.unit WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END)::timestamptz;
			IF first + step < at - kept.retention THEN
				EXECUTE format('DROP TABLE public.%I', found.relname);
			END IF;
		END LOOP;
	END LOOP;
END
$function$;
GRANT EXECUTE ON FUNCTION keep_partitions TO millrace_system;

CREATE OR REPLACE FUNCTION keep_slug()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	IF EXISTS (SELECT FROM public.erased_orgs e WHERE e.slug = NEW.slug AND e.erased_at > NEW.created_at - interval '30 days') THEN
		RAISE EXCEPTION 'the slug % was an erased org''s', NEW.slug USING ERRCODE = 'unique_violation', CONSTRAINT = 'orgs_slug_key';
	END IF;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION member_names()
 RETURNS TABLE(user_id uuid, login text, name text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	SELECT u.user_id, u.login, u.name
	FROM public.memberships m JOIN public.users u ON u.user_id = m.user_id
	WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint
$function$;
GRANT EXECUTE ON FUNCTION member_names TO millrace_app;

CREATE OR REPLACE FUNCTION memberships_of(user_id uuid)
 RETURNS TABLE(org_id bigint, slug text, name text, role text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	SELECT o.org_id, o.slug, o.name, m.role
	FROM public.memberships m JOIN public.orgs o ON o.org_id = m.org_id
	WHERE m.user_id = memberships_of.user_id
	ORDER BY o.slug
$function$;
GRANT EXECUTE ON FUNCTION memberships_of TO millrace_app;

CREATE OR REPLACE FUNCTION move_open_jobs()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	WITH open AS (
		SELECT j.org_id, j.job_id FROM public.jobs j
		WHERE (j.org_id, j.repository_id, j.installation_id) = (OLD.org_id, OLD.repository_id, OLD.installation_id) AND j.status <> 'completed'
			AND NOT EXISTS (SELECT FROM public.jobs o
				WHERE (o.org_id, o.installation_id, o.github_job_id, o.run_attempt) = (j.org_id, NEW.installation_id, j.github_job_id, j.run_attempt))
		ORDER BY j.github_job_id, j.run_attempt FOR NO KEY UPDATE
	)
	UPDATE public.jobs j SET installation_id = NEW.installation_id FROM open o WHERE (j.org_id, j.job_id) = (o.org_id, o.job_id);
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION note_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	NEW.changed_xid := pg_current_xact_id();
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION org_members()
 RETURNS TABLE(user_id uuid, github_id bigint, login text, name text, role text, chosen boolean, github_role text, joined_at timestamp with time zone, seen_at timestamp with time zone)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	SELECT u.user_id, u.github_id, u.login, u.name, m.role, m.chosen,
		(SELECT CASE WHEN bool_or(p.admin) THEN 'admin' WHEN bool_or(p.member) THEN 'member' ELSE '' END
			FROM public.user_installations p JOIN public.installations i ON i.installation_id = p.installation_id
			WHERE i.org_id = m.org_id AND p.user_id = m.user_id),
		m.created_at,
		(SELECT max(s.last_used_at) FROM public.sessions s WHERE s.user_id = m.user_id)
	FROM public.memberships m JOIN public.users u ON u.user_id = m.user_id
	WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint
	ORDER BY lower(u.login), u.user_id
$function$;
GRANT EXECUTE ON FUNCTION org_members TO millrace_app;

CREATE OR REPLACE FUNCTION org_of_api_token(hash bytea)
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$ SELECT t.org_id FROM public.api_tokens t WHERE t.hash = org_of_api_token.hash $function$;
GRANT EXECUTE ON FUNCTION org_of_api_token TO millrace_app;

CREATE OR REPLACE FUNCTION org_of_enrollment_token(hash bytea)
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$ SELECT t.org_id FROM public.enrollment_tokens t WHERE t.hash = org_of_enrollment_token.hash $function$;
GRANT EXECUTE ON FUNCTION org_of_enrollment_token TO millrace_app;

CREATE OR REPLACE FUNCTION org_of_slug(slug text)
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$ SELECT o.org_id FROM public.orgs o WHERE o.slug = org_of_slug.slug AND o.deleted_at IS NULL $function$;
GRANT EXECUTE ON FUNCTION org_of_slug TO millrace_app;

CREATE OR REPLACE FUNCTION protect(target regclass)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public'
AS $function$
BEGIN
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
	EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
	EXECUTE format($p$CREATE POLICY tenant ON %s TO millrace_app
		USING (org_id = nullif(current_setting('app.org_id', true), '')::bigint)
		WITH CHECK (org_id = nullif(current_setting('app.org_id', true), '')::bigint)$p$, target);
	EXECUTE format('CREATE POLICY system ON %s TO millrace_system USING (true) WITH CHECK (true)', target);
	EXECUTE format('CREATE POLICY owner ON %s TO millrace_migrate USING (true) WITH CHECK (true)', target);
END
$function$;

CREATE OR REPLACE FUNCTION renew_session(session bytea, fresh bytea, at timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	WITH renewed AS (
		UPDATE public.sessions s SET hash = fresh, former = s.hash, renewed_at = at, renew = false
		WHERE s.hash = session AND s.renew RETURNING 1
	)
	SELECT EXISTS (SELECT FROM renewed)
$function$;
GRANT EXECUTE ON FUNCTION renew_session TO millrace_app;

CREATE OR REPLACE FUNCTION renew_sessions(user_id uuid)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	UPDATE public.sessions s SET renew = true
	WHERE s.user_id = renew_sessions.user_id AND EXISTS (
		SELECT FROM public.memberships m
		WHERE m.org_id = nullif(current_setting('app.org_id', true), '')::bigint AND m.user_id = renew_sessions.user_id)
$function$;
GRANT EXECUTE ON FUNCTION renew_sessions TO millrace_app;

CREATE OR REPLACE FUNCTION schema_version()
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$ SELECT max(version_id) FROM public.goose_db_version WHERE is_applied $function$;
GRANT EXECUTE ON FUNCTION schema_version TO millrace_app;
GRANT EXECUTE ON FUNCTION schema_version TO millrace_system;

CREATE OR REPLACE FUNCTION session_at(session bytea, at timestamp with time zone, idle_since timestamp with time zone, renewed_since timestamp with time zone)
 RETURNS TABLE(session_id uuid, user_id uuid, github_id bigint, login text, name text, created_at timestamp with time zone, expires_at timestamp with time zone, confirmed_at timestamp with time zone, renew boolean)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	UPDATE public.sessions s SET last_used_at = at
	WHERE s.hash = session AND s.expires_at > at AND s.last_used_at > idle_since AND s.last_used_at < at - interval '1 minute';
	RETURN QUERY
		SELECT s.session_id, u.user_id, u.github_id, u.login, u.name, s.created_at, s.expires_at, s.confirmed_at, s.renew AND s.hash = session
		FROM public.sessions s JOIN public.users u ON u.user_id = s.user_id
		WHERE (s.hash = session OR s.former = session AND s.renewed_at > renewed_since) AND s.expires_at > at AND s.last_used_at > idle_since;
END
$function$;
GRANT EXECUTE ON FUNCTION session_at TO millrace_app;

CREATE OR REPLACE FUNCTION sign_in(link bytea, session bytea, session_id uuid, address text, user_agent text, at timestamp with time zone, expires_at timestamp with time zone)
 RETURNS uuid
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
	WITH used AS (
		DELETE FROM sign_in_links l WHERE l.hash = link RETURNING l.user_id, l.expires_at
	)
	INSERT INTO public.sessions (hash, user_id, session_id, address, user_agent, created_at, last_used_at, expires_at, renew)
	SELECT session, u.user_id, sign_in.session_id, sign_in.address, sign_in.user_agent, at, at, sign_in.expires_at, false
	FROM used u WHERE u.expires_at > at
	RETURNING user_id
$function$;
GRANT EXECUTE ON FUNCTION sign_in TO millrace_app;

CREATE OR REPLACE FUNCTION sign_out(session bytea)
 RETURNS uuid
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$ DELETE FROM public.sessions s WHERE s.hash = session OR s.former = session RETURNING s.user_id $function$;
GRANT EXECUTE ON FUNCTION sign_out TO millrace_app;

CREATE OR REPLACE FUNCTION skip_deleted_org()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
	PERFORM FROM public.orgs o WHERE o.org_id = NEW.org_id AND o.deleted_at IS NULL FOR KEY SHARE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	RETURN NEW;
END
$function$;
