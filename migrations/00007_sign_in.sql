-- +goose Up

-- A membership that GitHub's answer made, and that its next one may change or end; one that somebody here set stays as it is.
ALTER TABLE memberships ADD COLUMN from_github boolean NOT NULL DEFAULT false;

-- Whoever signs in at GitHub may belong to several orgs at once.
GRANT INSERT ON sessions TO millrace_system;

-- +goose Down
REVOKE INSERT ON sessions FROM millrace_system;
ALTER TABLE memberships DROP COLUMN from_github;
