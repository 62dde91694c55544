-- +goose Up

ALTER TABLE hosts
	ADD COLUMN first_sequence bigint NOT NULL DEFAULT 0,       -- the highest number that a request in epoch 0 was signed with
	ADD COLUMN doubted_until  timestamptz,                     -- another machine may have its VMs: what it says of their ends isn't believed
	ADD COLUMN reboots        boolean NOT NULL DEFAULT false;  -- its owner lets it be rebooted from afar

-- +goose Down
ALTER TABLE hosts DROP COLUMN first_sequence, DROP COLUMN doubted_until, DROP COLUMN reboots;
