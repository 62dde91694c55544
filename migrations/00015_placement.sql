-- +goose Up

-- What an org's owners and admins decide of placement: which host gets a job, and what each repository has of the slots.
ALTER TABLE orgs ADD COLUMN strategy text NOT NULL DEFAULT 'pack';
ALTER TABLE orgs ADD CONSTRAINT orgs_strategy_check CHECK (strategy IN ('pack', 'spread'));
GRANT UPDATE (strategy) ON orgs TO millrace_app;

ALTER TABLE repositories ADD COLUMN priority smallint NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN vm_limit integer NOT NULL DEFAULT 0; -- 0: none
ALTER TABLE repositories ADD CONSTRAINT repositories_share_check CHECK (priority BETWEEN -5 AND 5 AND vm_limit BETWEEN 0 AND 10000);
GRANT UPDATE (priority, vm_limit) ON repositories TO millrace_app;

-- What the jobs of a zone may do. A zone without a row has what the code says: of private repositories everything, of others
-- nothing.
CREATE TABLE zone_rules (
	org_id      bigint NOT NULL,
	zone        text NOT NULL,
	allowed     boolean NOT NULL,
	host_labels text[] NOT NULL, -- that a host must have
	egress      text NOT NULL,
	max_cpu     integer NOT NULL, -- thousandths of a vCPU; 0: no limit
	max_memory  integer NOT NULL, -- MiB; 0: no limit
	CONSTRAINT zone_rules_pkey PRIMARY KEY (org_id, zone),
	CONSTRAINT zone_rules_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE,
	CONSTRAINT zone_rules_zone_check CHECK (zone IN ('private', 'public', 'fork')),
	CONSTRAINT zone_rules_private_check CHECK (allowed OR zone <> 'private'),
	CONSTRAINT zone_rules_egress_check CHECK (egress IN ('internet', 'none')),
	CONSTRAINT zone_rules_max_check CHECK (max_cpu >= 0 AND max_memory >= 0)
);
SELECT protect('zone_rules');
GRANT SELECT, INSERT, UPDATE ON zone_rules TO millrace_app;
GRANT SELECT ON zone_rules TO millrace_system;

-- Whether a job comes from a fork is known from its run, not from its webhook. Jobs from before are asked for.
ALTER TABLE jobs ADD COLUMN zone_known boolean NOT NULL DEFAULT false;
CREATE INDEX jobs_zone_unknown_idx ON jobs (org_id, installation_id, run_id) WHERE NOT zone_known AND status <> 'completed';

-- VMs from before were placed without a rule.
ALTER TABLE vms ADD COLUMN egress text NOT NULL DEFAULT 'internet';
ALTER TABLE vms ADD CONSTRAINT vms_egress_check CHECK (egress IN ('internet', 'none'));

-- GitHub gave the VM a job of another zone, and nobody has seen to it yet.
ALTER TABLE vms ADD COLUMN stray boolean NOT NULL DEFAULT false;
CREATE INDEX vms_stray_idx ON vms (org_id) WHERE stray;

-- +goose StatementBegin
-- A job's zone may be known, or be another, only when it has a VM, or had one.
CREATE FUNCTION find_stray() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	UPDATE public.vms v SET stray = true WHERE (v.org_id, v.ran_job) = (NEW.org_id, NEW.job_id) AND v.zone <> NEW.zone;
	RETURN NULL;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION find_stray() FROM PUBLIC;
CREATE TRIGGER jobs_find_stray AFTER UPDATE OF zone ON jobs FOR EACH ROW WHEN (OLD.zone <> NEW.zone) EXECUTE FUNCTION find_stray();

-- +goose Down
DROP TRIGGER jobs_find_stray ON jobs;
DROP FUNCTION find_stray();
ALTER TABLE vms DROP COLUMN stray;
ALTER TABLE vms DROP COLUMN egress;
ALTER TABLE jobs DROP COLUMN zone_known;
DROP TABLE zone_rules;
ALTER TABLE repositories DROP COLUMN vm_limit, DROP COLUMN priority;
ALTER TABLE orgs DROP COLUMN strategy;
