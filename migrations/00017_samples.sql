-- +goose Up

-- What a VM used over time is one row: the first sample of each array belongs to the first of every other. Counters are
-- kept as what was added since the sample before, which is small and compresses well. Nobody has written any yet.
TRUNCATE vm_samples;
ALTER TABLE vm_samples RENAME at TO placed_at; -- the VM's, so that its row is in one partition and found there
ALTER TABLE vm_samples
	DROP COLUMN memory,
	DROP COLUMN cpu_ms,
	DROP COLUMN disk_read,
	DROP COLUMN disk_write,
	DROP COLUMN net_rx,
	DROP COLUMN net_tx,
	ADD COLUMN epoch         bigint NOT NULL,    -- the VM's: one that is given out anew starts anew
	ADD COLUMN time_ms       integer[] NOT NULL, -- added: of the first sample, since the kernel started
	ADD COLUMN memory_mb     integer[] NOT NULL, -- the most in use since the sample before
	ADD COLUMN peak_cpu      integer[] NOT NULL, -- thousandths of a vCPU: the busiest second since the sample before
	ADD COLUMN cpu_ms        integer[] NOT NULL, -- added, as the following
	ADD COLUMN disk_read_kb  integer[] NOT NULL,
	ADD COLUMN disk_write_kb integer[] NOT NULL,
	ADD COLUMN net_rx_kb     integer[] NOT NULL,
	ADD COLUMN net_tx_kb     integer[] NOT NULL,
	ADD CONSTRAINT vm_samples_vm_fkey FOREIGN KEY (org_id, vm_id) REFERENCES vms ON DELETE CASCADE,
	ADD CONSTRAINT vm_samples_length_check CHECK (cardinality(time_ms) <= 600
		AND ARRAY[cardinality(memory_mb), cardinality(peak_cpu), cardinality(cpu_ms), cardinality(disk_read_kb), cardinality(disk_write_kb),
			cardinality(net_rx_kb), cardinality(net_tx_kb)] = array_fill(cardinality(time_ms), ARRAY[7]));
GRANT UPDATE ON vm_samples TO millrace_app;
REVOKE INSERT ON vm_samples FROM millrace_system;

-- +goose Down
TRUNCATE vm_samples;
REVOKE UPDATE ON vm_samples FROM millrace_app;
GRANT INSERT ON vm_samples TO millrace_system;
ALTER TABLE vm_samples
	DROP CONSTRAINT vm_samples_vm_fkey,
	DROP COLUMN epoch,
	DROP COLUMN time_ms,
	DROP COLUMN memory_mb,
	DROP COLUMN peak_cpu,
	DROP COLUMN cpu_ms,
	DROP COLUMN disk_read_kb,
	DROP COLUMN disk_write_kb,
	DROP COLUMN net_rx_kb,
	DROP COLUMN net_tx_kb,
	ADD COLUMN memory     bigint NOT NULL,
	ADD COLUMN cpu_ms     bigint NOT NULL,
	ADD COLUMN disk_read  bigint NOT NULL,
	ADD COLUMN disk_write bigint NOT NULL,
	ADD COLUMN net_rx     bigint NOT NULL,
	ADD COLUMN net_tx     bigint NOT NULL;
ALTER TABLE vm_samples RENAME placed_at TO at;
