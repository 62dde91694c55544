-- +goose Up

-- Of rows that an index has under the same key Postgres makes one entry, and marks that as dead only once all of them are
-- (Postgres documentation, B-Tree Indexes, Deduplication). Under a busy host's key there is always one that lives, so that each read
-- of its VMs, and of its org's, went through all that had ended since the last vacuum.
DROP INDEX vms_live_idx, jobs_repository_open_idx;
CREATE INDEX vms_live_idx ON vms (org_id, host_id, vm_id) WITH (deduplicate_items = off) WHERE gone_at IS NULL;
CREATE INDEX jobs_repository_open_idx ON jobs (org_id, repository_id, job_id) WITH (deduplicate_items = off) WHERE status <> 'completed';

-- It is encrypted, and to try to compress that is for nothing.
ALTER TABLE vms ALTER COLUMN jit_sealed SET STORAGE EXTERNAL;

-- +goose Down
ALTER TABLE vms ALTER COLUMN jit_sealed SET STORAGE EXTENDED;
DROP INDEX vms_live_idx, jobs_repository_open_idx;
CREATE INDEX jobs_repository_open_idx ON jobs (org_id, repository_id) WHERE status <> 'completed';
CREATE INDEX vms_live_idx ON vms (org_id, host_id) WHERE gone_at IS NULL;
