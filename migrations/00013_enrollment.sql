-- +goose Up

-- What a token says of the hosts that it makes, and from where it may be used.
ALTER TABLE enrollment_tokens
	ADD COLUMN labels    text[],                         -- theirs, and no others; NULL: those that the host's owner gave it
	ADD COLUMN cidr      cidr,                           -- NULL: from anywhere
	ADD COLUMN ephemeral boolean NOT NULL DEFAULT false; -- they are removed when they vanish
GRANT SELECT, UPDATE (revoked_at) ON enrollment_tokens TO millrace_system;

-- A host that was removed is kept for what it ran; its name is free again. A restart or reboot is asked of one process of
-- its agent: that with this epoch.
ALTER TABLE hosts
	ADD COLUMN token_id      uuid, -- that it was enrolled with
	ADD COLUMN fixed_labels  text[],
	ADD COLUMN ephemeral     boolean NOT NULL DEFAULT false,
	ADD COLUMN removed_at    timestamptz,
	ADD COLUMN restart_epoch bigint NOT NULL DEFAULT 0,
	ADD COLUMN reboot_epoch  bigint NOT NULL DEFAULT 0,
	ADD COLUMN boot_ms       integer NOT NULL DEFAULT 0, -- its agent's last trial boot; 0: none
	ADD COLUMN started_at    timestamptz,                -- when its present epoch began
	ADD COLUMN boot_id       text NOT NULL DEFAULT '',   -- of the machine that began it, and of the one before
	ADD COLUMN former_boot   text NOT NULL DEFAULT '',
	ADD COLUMN cloned_boot   text NOT NULL DEFAULT '',   -- of a second machine that has its key: it is refused
	ADD COLUMN cloned_at     timestamptz,
	DROP CONSTRAINT hosts_name_key;
CREATE UNIQUE INDEX hosts_name_key ON hosts (org_id, name) WHERE removed_at IS NULL;
CREATE INDEX hosts_ephemeral_idx ON hosts (org_id, host_id) WHERE ephemeral AND removed_at IS NULL;

DROP FUNCTION host_credentials(uuid);
-- +goose StatementBegin
CREATE FUNCTION host_credentials(host_id uuid)
	RETURNS TABLE(org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text, removed boolean, restart boolean, reboot boolean)
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin,
		h.removed_at IS NOT NULL, h.restart_epoch = h.epoch, h.reboot_epoch = h.epoch
	FROM public.hosts h JOIN public.host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
	WHERE h.host_id = host_credentials.host_id;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION host_credentials(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION host_credentials(uuid) TO millrace_app;

-- +goose Down
DROP FUNCTION host_credentials(uuid);
-- +goose StatementBegin
CREATE FUNCTION host_credentials(host_id uuid)
	RETURNS TABLE(org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin
	FROM public.hosts h JOIN public.host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
	WHERE h.host_id = host_credentials.host_id;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION host_credentials(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION host_credentials(uuid) TO millrace_app;
DROP INDEX hosts_name_key, hosts_ephemeral_idx;
DELETE FROM hosts WHERE removed_at IS NOT NULL;
ALTER TABLE hosts
	ADD CONSTRAINT hosts_name_key UNIQUE (org_id, name),
	DROP COLUMN token_id, DROP COLUMN fixed_labels, DROP COLUMN ephemeral, DROP COLUMN removed_at, DROP COLUMN restart_epoch, DROP COLUMN reboot_epoch, DROP COLUMN boot_ms,
	DROP COLUMN started_at, DROP COLUMN boot_id, DROP COLUMN former_boot, DROP COLUMN cloned_boot, DROP COLUMN cloned_at;
ALTER TABLE enrollment_tokens DROP COLUMN labels, DROP COLUMN cidr, DROP COLUMN ephemeral;
