-- +goose Up

-- Why a host takes no VM, in its agent's words: its disk is nearly full, its driver does not work. '' when it does.
ALTER TABLE hosts ADD COLUMN refuses text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE hosts DROP COLUMN refuses;
