-- +goose Up

CREATE TABLE hosts (
	org_id          bigint NOT NULL,
	host_id         uuid NOT NULL,
	name            text NOT NULL,
	arch            text NOT NULL,
	vcpus           integer NOT NULL,
	memory_mb       integer NOT NULL,
	disk_mb         integer NOT NULL,
	offer_cpu       integer NOT NULL, -- thousandths of a vCPU
	offer_memory    integer NOT NULL, -- MiB
	labels          text[] NOT NULL,
	driver          text NOT NULL,
	version         text NOT NULL,
	kernel          text NOT NULL,
	cpu_model       text NOT NULL,
	admin           text NOT NULL,
	sign_key        bytea NOT NULL,
	seal_key        bytea NOT NULL,
	epoch           bigint NOT NULL, -- raised at enrollment and at each agent start
	desired_version bigint NOT NULL, -- raised whenever the list of VMs it should have changes
	created_at      timestamptz NOT NULL,
	CONSTRAINT hosts_pkey PRIMARY KEY (org_id, host_id),
	CONSTRAINT hosts_host_id_key UNIQUE (host_id), -- a request names its host before its org is known
	CONSTRAINT hosts_name_key UNIQUE (org_id, name),
	CONSTRAINT hosts_sign_key_key UNIQUE (sign_key),
	CONSTRAINT hosts_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE,
	CONSTRAINT hosts_arch_check CHECK (arch IN ('amd64', 'arm64')),
	CONSTRAINT hosts_admin_check CHECK (admin IN ('enabled', 'draining', 'disabled')),
	CONSTRAINT hosts_keys_check CHECK (length(sign_key) = 32 AND length(seal_key) = 32),
	CONSTRAINT hosts_facts_check CHECK (vcpus > 0 AND memory_mb > 0 AND disk_mb >= 0 AND offer_cpu >= 0 AND offer_memory >= 0)
);
SELECT protect('hosts');
GRANT SELECT, INSERT, UPDATE ON hosts TO millrace_app;
GRANT SELECT, UPDATE ON hosts TO millrace_system;

-- Heartbeats are apart from hosts: narrow rows, written by each server in one statement every few seconds, and never
-- locked by placement.
CREATE TABLE host_beats (
	org_id   bigint NOT NULL,
	host_id  uuid NOT NULL,
	seen_at  timestamptz NOT NULL,
	epoch    bigint NOT NULL,
	sequence bigint NOT NULL, -- the highest of this epoch
	CONSTRAINT host_beats_pkey PRIMARY KEY (org_id, host_id),
	CONSTRAINT host_beats_host_fkey FOREIGN KEY (org_id, host_id) REFERENCES hosts ON DELETE CASCADE
) WITH (fillfactor = 50);
SELECT protect('host_beats');
GRANT SELECT, INSERT, UPDATE ON host_beats TO millrace_app, millrace_system;

-- The order of the values is the order of a job's life: GREATEST joins two statuses.
CREATE TYPE job_status AS ENUM ('waiting', 'queued', 'in_progress', 'completed');

-- One attempt of one GitHub workflow job; the join of all events seen of it.
CREATE TABLE jobs (
	org_id          bigint NOT NULL,
	job_id          uuid NOT NULL,
	installation_id bigint NOT NULL,
	github_job_id   bigint NOT NULL,
	run_id          bigint NOT NULL,
	run_attempt     integer NOT NULL,
	repository_id   bigint NOT NULL,
	repository      text NOT NULL,
	private         boolean NOT NULL,
	zone            text NOT NULL,
	workflow        text NOT NULL,
	name            text NOT NULL,
	branch          text NOT NULL,
	sha             text NOT NULL,
	actor_id        bigint NOT NULL,
	actor           text NOT NULL,
	labels          text[] NOT NULL,
	html_url        text NOT NULL,
	status          job_status NOT NULL,
	conclusion      text NOT NULL,
	runner_id       bigint NOT NULL,
	runner_name     text NOT NULL,
	queued_at       timestamptz NOT NULL,
	started_at      timestamptz,
	completed_at    timestamptz,
	received_at     timestamptz NOT NULL,
	-- What the labels ask for; cpu 0 means that they can't be parsed.
	arch            text NOT NULL,
	cpu             integer NOT NULL,
	memory          integer NOT NULL,
	burstable       boolean NOT NULL,
	extra_labels    text[] NOT NULL,
	-- Why it has no VM.
	wait_code       text NOT NULL,
	wait_text       text NOT NULL,
	tries           integer NOT NULL,
	failure         text NOT NULL, -- why its last VM never came up
	retry_at        timestamptz,
	CONSTRAINT jobs_pkey PRIMARY KEY (org_id, job_id),
	CONSTRAINT jobs_github_key UNIQUE (org_id, installation_id, github_job_id, run_attempt),
	CONSTRAINT jobs_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations ON DELETE CASCADE,
	CONSTRAINT jobs_zone_check CHECK (zone IN ('private', 'public', 'fork')),
	CONSTRAINT jobs_completed_check CHECK ((completed_at IS NULL) = (status <> 'completed')),
	CONSTRAINT jobs_demand_check CHECK (cpu >= 0 AND memory >= 0 AND arch IN ('', 'amd64', 'arm64', 'any'))
);
CREATE INDEX jobs_list_idx ON jobs (org_id, received_at DESC, job_id DESC);
CREATE INDEX jobs_open_idx ON jobs (org_id, received_at, job_id) WHERE status <> 'completed';
CREATE INDEX jobs_repository_idx ON jobs (org_id, repository, received_at DESC, job_id DESC);
CREATE INDEX jobs_runner_idx ON jobs (org_id, installation_id, runner_id) WHERE runner_id <> 0;
SELECT protect('jobs');
GRANT SELECT, UPDATE ON jobs TO millrace_app;
GRANT SELECT, INSERT, UPDATE ON jobs TO millrace_system;

CREATE TABLE vms (
	org_id          bigint NOT NULL,
	vm_id           uuid NOT NULL,
	host_id         uuid NOT NULL,
	for_job         uuid NOT NULL,
	ran_job         uuid,
	state           text NOT NULL,
	epoch           bigint NOT NULL,
	zone            text NOT NULL,
	arch            text NOT NULL,
	cpu             integer NOT NULL,
	memory          integer NOT NULL,
	burstable       boolean NOT NULL,
	labels          text[] NOT NULL,
	installation_id bigint NOT NULL,
	repository_id   bigint NOT NULL,
	repository      text NOT NULL,
	runner_id       bigint NOT NULL, -- 0 until registered
	runner_name     text NOT NULL,
	jit_sealed      bytea, -- only until the runner is online
	reason          text NOT NULL,
	exit_code       integer,
	retire_reason   text NOT NULL, -- not empty: to be unregistered and stopped
	peak_memory     bigint NOT NULL,
	cpu_ms          bigint NOT NULL,
	disk_read       bigint NOT NULL,
	disk_write      bigint NOT NULL,
	net_rx          bigint NOT NULL,
	net_tx          bigint NOT NULL,
	placed_at       timestamptz NOT NULL,
	booting_at      timestamptz,
	online_at       timestamptz,
	busy_at         timestamptz,
	stopping_at     timestamptz,
	gone_at         timestamptz,
	changed_at      timestamptz NOT NULL,
	CONSTRAINT vms_pkey PRIMARY KEY (org_id, vm_id),
	CONSTRAINT vms_host_fkey FOREIGN KEY (org_id, host_id) REFERENCES hosts ON DELETE CASCADE,
	CONSTRAINT vms_for_job_fkey FOREIGN KEY (org_id, for_job) REFERENCES jobs ON DELETE CASCADE,
	CONSTRAINT vms_ran_job_fkey FOREIGN KEY (org_id, ran_job) REFERENCES jobs ON DELETE CASCADE,
	CONSTRAINT vms_state_check CHECK (state IN ('pending', 'booting', 'online', 'busy', 'stopping', 'lost', 'gone')),
	CONSTRAINT vms_gone_check CHECK ((gone_at IS NULL) = (state <> 'gone')),
	CONSTRAINT vms_size_check CHECK (cpu > 0 AND memory > 0)
);
CREATE INDEX vms_live_idx ON vms (org_id, host_id) WHERE state <> 'gone';
CREATE INDEX vms_list_idx ON vms (org_id, placed_at DESC, vm_id DESC);
CREATE INDEX vms_for_job_idx ON vms (org_id, for_job, placed_at DESC);
CREATE INDEX vms_ran_job_idx ON vms (org_id, ran_job) WHERE ran_job IS NOT NULL;
CREATE UNIQUE INDEX vms_runner_key ON vms (org_id, installation_id, runner_id) WHERE runner_id <> 0;
-- A queued job is covered by at most one live VM.
CREATE UNIQUE INDEX vms_cover_key ON vms (org_id, for_job) WHERE ran_job IS NULL AND state NOT IN ('stopping', 'gone');
SELECT protect('vms');
GRANT SELECT, UPDATE ON vms TO millrace_app;
GRANT SELECT, INSERT, UPDATE ON vms TO millrace_system;

-- Background work that a use case wants, written in its transaction and relayed to the task queue by the workers.
CREATE TABLE outbox (
	outbox_id bigint GENERATED ALWAYS AS IDENTITY,
	org_id    bigint NOT NULL,
	kind      text NOT NULL,
	args      jsonb NOT NULL,
	at        timestamptz NOT NULL,
	CONSTRAINT outbox_pkey PRIMARY KEY (org_id, outbox_id),
	CONSTRAINT outbox_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE
);
SELECT protect('outbox');
GRANT INSERT ON outbox TO millrace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO millrace_system; -- UPDATE: rows are locked while they are relayed

-- +goose Down
DROP TABLE outbox, vms, jobs, host_beats, hosts;
DROP TYPE job_status;
