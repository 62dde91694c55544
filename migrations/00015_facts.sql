-- +goose Up

-- Architectures that a host emulates because its owner lets it.
ALTER TABLE hosts ADD COLUMN emulates text[] NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE hosts DROP COLUMN emulates;
