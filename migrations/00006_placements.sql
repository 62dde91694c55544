-- +goose Up

-- What the last placement pass of an org saw: another server need not look again for what was committed before it. Losing
-- a row costs a pass.
CREATE UNLOGGED TABLE placements (
	org_id   bigint NOT NULL,
	snapshot pg_snapshot NOT NULL,
	next_at  timestamptz, -- when the same facts would give another decision
	CONSTRAINT placements_pkey PRIMARY KEY (org_id),
	CONSTRAINT placements_org_fkey FOREIGN KEY (org_id) REFERENCES orgs ON DELETE CASCADE
) WITH (fillfactor = 50);
SELECT protect('placements');
GRANT SELECT, INSERT, UPDATE ON placements TO millrace_system;

-- +goose Down
DROP TABLE placements;
