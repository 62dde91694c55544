-- +goose Up

-- Why a job waits: beside the reason what to do about it, and when it is likely to start. What GitHub said when it was
-- last asked for the job: a job is never given up for one answer.
ALTER TABLE jobs
	ADD COLUMN wait_remedy  text NOT NULL DEFAULT '',
	ADD COLUMN wait_from    timestamptz,
	ADD COLUMN wait_to      timestamptz,
	ADD COLUMN wait_basis   text NOT NULL DEFAULT '',
	ADD COLUMN confirmed_at timestamptz,             -- when a read last found it open at GitHub
	ADD COLUMN denials      integer NOT NULL DEFAULT 0, -- reads in a row since then that found no such job
	ADD COLUMN denied_at    timestamptz,             -- the first of them
	ADD CONSTRAINT jobs_wait_check CHECK ((wait_from IS NULL) = (wait_to IS NULL));
CREATE INDEX jobs_repository_open_idx ON jobs (org_id, repository_id) WHERE status <> 'completed';

ALTER TABLE installations
	ADD COLUMN heard_at    timestamptz,               -- the last delivery
	ADD COLUMN missed_at   timestamptz,               -- when a read last found what no delivery had told
	ADD COLUMN listed_at   timestamptz,               -- when its repositories were last listed
	ADD COLUMN quota_limit integer NOT NULL DEFAULT 0, -- of calls an hour, as GitHub last said; 0: not known
	ADD COLUMN quota_left  integer NOT NULL DEFAULT 0,
	ADD COLUMN quota_reset timestamptz;

ALTER TABLE repositories ADD COLUMN polled_at timestamptz; -- when its jobs were last read at GitHub; NULL: at once

-- VMs whose job is not known yet: what a pass looks for among all that ever were.
CREATE INDEX vms_unmatched_idx ON vms (org_id, coalesce(gone_at, 'infinity')) WHERE ran_job IS NULL AND runner_id <> 0;
CREATE INDEX vms_host_idx ON vms (org_id, host_id, placed_at DESC) WHERE online_at IS NOT NULL;

-- How long from placed to online on the host, over its last VMs, in ms.
ALTER TABLE hosts
	ADD COLUMN boot_n   integer NOT NULL DEFAULT 0,
	ADD COLUMN boot_p50 bigint NOT NULL DEFAULT 0,
	ADD COLUMN boot_p90 bigint NOT NULL DEFAULT 0;

-- How long a job took, over its last runs, in ms: what estimates rest on.
CREATE TABLE job_durations (
	org_id        bigint NOT NULL,
	repository_id bigint NOT NULL,
	workflow      text NOT NULL,
	name          text NOT NULL,
	n             integer NOT NULL,
	p50           bigint NOT NULL,
	p90           bigint NOT NULL,
	CONSTRAINT job_durations_pkey PRIMARY KEY (org_id, repository_id, workflow, name),
	CONSTRAINT job_durations_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE
);
SELECT protect('job_durations');
GRANT SELECT ON job_durations TO millrace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON job_durations TO millrace_system;
CREATE INDEX job_facts_name_idx ON job_facts (org_id, repository_id, name, completed_at DESC);

-- Conditions that stop jobs. One that comes back within an hour is the same incident.
CREATE TABLE incidents (
	org_id          bigint NOT NULL,
	incident_id     uuid NOT NULL,
	code            text NOT NULL,
	installation_id bigint NOT NULL,
	repository_id   bigint NOT NULL, -- 0: the whole installation
	repository      text NOT NULL,   -- display only
	detail          text NOT NULL,   -- what GitHub said
	opened_at       timestamptz NOT NULL,
	seen_at         timestamptz NOT NULL,
	probe_at        timestamptz NOT NULL,
	closed_at       timestamptz,
	CONSTRAINT incidents_pkey PRIMARY KEY (org_id, incident_id),
	CONSTRAINT incidents_installation_fkey FOREIGN KEY (org_id, installation_id) REFERENCES installations ON DELETE CASCADE
);
CREATE UNIQUE INDEX incidents_open_key ON incidents (org_id, installation_id, repository_id, code) WHERE closed_at IS NULL;
CREATE INDEX incidents_list_idx ON incidents (org_id, opened_at DESC, incident_id DESC);
SELECT protect('incidents');
GRANT SELECT, INSERT, UPDATE ON incidents TO millrace_app, millrace_system; -- app: what an agent's report names


-- Deliveries belong to the App, not to an org: the system role's alone.
CREATE TABLE redeliveries (
	delivery_id bigint NOT NULL, -- GitHub's, of the failed try
	guid        text NOT NULL,
	asked_at    timestamptz NOT NULL,
	CONSTRAINT redeliveries_pkey PRIMARY KEY (delivery_id)
);
CREATE INDEX redeliveries_guid_idx ON redeliveries (guid);
GRANT SELECT, INSERT, DELETE ON redeliveries TO millrace_system;

-- When each net last swept all there was; a gap is an outage of ours.
CREATE TABLE sweeps (
	name     text NOT NULL,
	swept_at timestamptz NOT NULL,
	not_before timestamptz, -- GitHub asks not to be called before
	CONSTRAINT sweeps_pkey PRIMARY KEY (name)
);
GRANT SELECT, INSERT, UPDATE ON sweeps TO millrace_system;

-- Each call of an agent asks for it: in this language its plan is kept.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION host_credentials(host_id uuid)
	RETURNS TABLE (org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin
	FROM public.hosts h JOIN public.host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
	WHERE h.host_id = host_credentials.host_id;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE sweeps, redeliveries, incidents, job_durations;
DROP INDEX job_facts_name_idx;
ALTER TABLE hosts DROP COLUMN boot_n, DROP COLUMN boot_p50, DROP COLUMN boot_p90;
DROP INDEX vms_host_idx, vms_unmatched_idx;
ALTER TABLE repositories DROP COLUMN polled_at;
ALTER TABLE installations DROP COLUMN heard_at, DROP COLUMN missed_at, DROP COLUMN listed_at, DROP COLUMN quota_limit, DROP COLUMN quota_left, DROP COLUMN quota_reset;
DROP INDEX jobs_repository_open_idx;
ALTER TABLE jobs DROP CONSTRAINT jobs_wait_check, DROP COLUMN wait_remedy, DROP COLUMN wait_from, DROP COLUMN wait_to, DROP COLUMN wait_basis,
	DROP COLUMN confirmed_at, DROP COLUMN denials, DROP COLUMN denied_at;
