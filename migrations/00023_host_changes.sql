-- +goose Up

-- The last transaction that changed what placement passes read of a host: a pass reads those hosts anew whose last change the snapshot
-- of the reading before didn't see.
ALTER TABLE hosts ADD COLUMN changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX hosts_changed_idx ON hosts (org_id, changed_xid);

-- +goose StatementBegin
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
	NEW.changed_xid := pg_current_xact_id();
	RETURN NEW;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION note_change() FROM PUBLIC;
CREATE TRIGGER hosts_note_change
	BEFORE UPDATE OF name, arch, emulates, offer_cpu, offer_memory, max_vms, labels, network, admin, refuses, removed_at, boot_n, boot_p50, boot_p90 ON hosts
	FOR EACH ROW EXECUTE FUNCTION note_change();

-- +goose Down
DROP TRIGGER hosts_note_change ON hosts;
DROP FUNCTION note_change;
DROP INDEX hosts_changed_idx;
ALTER TABLE hosts DROP COLUMN changed_xid;
