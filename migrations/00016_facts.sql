-- +goose Up

-- Architectures that a host emulates because its owner lets it.
ALTER TABLE hosts ADD COLUMN emulates text[] NOT NULL DEFAULT '{}';

-- What its agent found at its start, a list of the root package's Finding. Lists of hosts don't read it.
ALTER TABLE hosts ADD COLUMN findings jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(findings) = 'array' AND octet_length(findings::text) < 1048576);

-- +goose Down
ALTER TABLE hosts DROP COLUMN emulates, DROP COLUMN findings;
