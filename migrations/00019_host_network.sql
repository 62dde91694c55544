-- +goose Up

-- What VMs' networks on the host are, as its agent says; older ones don't.
ALTER TABLE hosts ADD COLUMN network text NOT NULL DEFAULT 'unknown' CHECK (network IN ('tap', 'user', 'unknown'));

-- +goose Down
ALTER TABLE hosts DROP COLUMN network;
