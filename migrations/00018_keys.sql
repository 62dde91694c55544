-- +goose Up

-- Hosts' keys are replaced now and then. That is asked of one process of the agent: that with this epoch.
ALTER TABLE hosts
	ADD COLUMN rotate_epoch bigint NOT NULL DEFAULT 0,
	ADD COLUMN keys_at      timestamptz; -- when its present keys came; NULL: with its enrollment

DROP FUNCTION host_credentials(uuid);
-- +goose StatementBegin
CREATE FUNCTION host_credentials(host_id uuid)
	RETURNS TABLE(org_id bigint, sign_key bytea, seal_key bytea, epoch bigint, sequence bigint, admin text, removed boolean, restart boolean, reboot boolean, rotate boolean, keys_at timestamptz)
	LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT h.org_id, h.sign_key, h.seal_key, h.epoch, CASE WHEN b.epoch = h.epoch THEN b.sequence ELSE 0 END, h.admin,
		h.removed_at IS NOT NULL, h.restart_epoch = h.epoch, h.reboot_epoch = h.epoch, h.rotate_epoch = h.epoch, coalesce(h.keys_at, h.created_at)
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
ALTER TABLE hosts DROP COLUMN rotate_epoch, DROP COLUMN keys_at;
