-- +goose Up

-- Postgres writes a row anew in all its indexes when an update changes a column that one of them has, in its predicate too; else in
-- none, if there is room beside it (Postgres documentation, Heap-Only Tuples). A VM's way to its job changes its state only.
ALTER TABLE vms ADD COLUMN ending boolean NOT NULL GENERATED ALWAYS AS (state IN ('stopping', 'gone')) STORED;
DROP INDEX vms_live_idx, vms_cover_key, vms_host_idx;
CREATE INDEX vms_live_idx ON vms (org_id, host_id) WHERE gone_at IS NULL;
CREATE UNIQUE INDEX vms_cover_key ON vms (org_id, for_job) WHERE ran_job IS NULL AND NOT ending;
CREATE INDEX vms_host_idx ON vms (org_id, host_id, placed_at DESC);
ALTER TABLE vms SET (fillfactor = 70);
ALTER TABLE jobs SET (fillfactor = 70);

-- +goose Down
ALTER TABLE jobs RESET (fillfactor);
ALTER TABLE vms RESET (fillfactor);
DROP INDEX vms_live_idx, vms_cover_key, vms_host_idx;
CREATE INDEX vms_host_idx ON vms (org_id, host_id, placed_at DESC) WHERE online_at IS NOT NULL;
CREATE UNIQUE INDEX vms_cover_key ON vms (org_id, for_job) WHERE ran_job IS NULL AND state NOT IN ('stopping', 'gone');
CREATE INDEX vms_live_idx ON vms (org_id, host_id) WHERE state <> 'gone';
ALTER TABLE vms DROP COLUMN ending;
