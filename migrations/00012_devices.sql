-- +goose Up

-- Sign-ins of programs that wait for a person (RFC 8628). They are nobody's until that person says in which org: the app role
-- has no right to them.
CREATE TABLE device_authorizations (
	hash         bytea NOT NULL,       -- of the device code
	user_code    text NOT NULL,
	client       text NOT NULL,        -- what the program calls itself; nobody vouches for it
	scopes       text[] NOT NULL,      -- that it asks for
	address      text NOT NULL,
	user_agent   text NOT NULL,
	created_at   timestamptz NOT NULL,
	expires_at   timestamptz NOT NULL,
	polled_at    timestamptz,
	wait_seconds integer NOT NULL,     -- between polls
	user_id      uuid,                 -- who typed the code: nobody else may decide
	decided_at   timestamptz,
	for_org      bigint,               -- NULL once decided: refused
	days         integer NOT NULL DEFAULT 0, -- that the token is to live
	CONSTRAINT device_authorizations_pkey PRIMARY KEY (hash),
	CONSTRAINT device_authorizations_code_key UNIQUE (user_code),
	CONSTRAINT device_authorizations_user_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX device_authorizations_address_idx ON device_authorizations (address);
GRANT SELECT, INSERT, UPDATE, DELETE ON device_authorizations TO millrace_system;

-- How often somebody gave a secret that was none: a user a code, an address an enrollment token.
CREATE TABLE guesses (
	subject text NOT NULL,
	since   timestamptz NOT NULL,
	wrong   integer NOT NULL,
	CONSTRAINT guesses_pkey PRIMARY KEY (subject)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON guesses TO millrace_system;

-- +goose Down
DROP TABLE guesses;
DROP TABLE device_authorizations;
