-- +goose Up

-- How many VMs the host runs at once, as its owner says; 0: as many as its offer holds.
ALTER TABLE hosts ADD COLUMN max_vms integer NOT NULL DEFAULT 0 CHECK (max_vms >= 0);

-- +goose Down
ALTER TABLE hosts DROP COLUMN max_vms;
