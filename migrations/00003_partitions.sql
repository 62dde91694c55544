-- +goose Up

-- What grows without end is partitioned by time and dropped by retention.

-- Bodies as they arrived, deflated. The GUID can't be unique here; idempotence comes from the job's join.
CREATE TABLE deliveries (
	org_id          bigint NOT NULL,
	received_at     timestamptz NOT NULL,
	guid            text NOT NULL,
	event           text NOT NULL,
	action          text NOT NULL,
	installation_id bigint NOT NULL,
	body            bytea NOT NULL
) PARTITION BY RANGE (received_at);
CREATE INDEX deliveries_guid_idx ON deliveries (org_id, guid);
ALTER TABLE deliveries ALTER COLUMN body SET STORAGE EXTERNAL; -- it is deflated already
SELECT protect('deliveries');
GRANT SELECT, INSERT ON deliveries TO millrace_system;

-- The closed facts of completed jobs: what insights read.
CREATE TABLE job_facts (
	org_id        bigint NOT NULL,
	completed_at  timestamptz NOT NULL,
	job_id        uuid NOT NULL,
	repository_id bigint NOT NULL,
	repository    text NOT NULL,
	workflow      text NOT NULL,
	name          text NOT NULL,
	actor_id      bigint NOT NULL,
	actor         text NOT NULL,
	conclusion    text NOT NULL,
	arch          text NOT NULL,
	cpu           integer NOT NULL,
	memory        integer NOT NULL,
	host_id       uuid,
	vm_id         uuid,
	wait_ms       bigint NOT NULL, -- started − queued; 0 when it never started
	run_ms        bigint NOT NULL, -- completed − started; 0 when it never started
	started       boolean NOT NULL,
	CONSTRAINT job_facts_pkey PRIMARY KEY (org_id, completed_at, job_id)
) PARTITION BY RANGE (completed_at);
SELECT protect('job_facts');
GRANT SELECT ON job_facts TO millrace_app;
GRANT SELECT, INSERT, UPDATE ON job_facts TO millrace_system;

CREATE TABLE vm_samples (
	org_id     bigint NOT NULL,
	at         timestamptz NOT NULL,
	vm_id      uuid NOT NULL,
	memory     bigint NOT NULL,
	cpu_ms     bigint NOT NULL,
	disk_read  bigint NOT NULL,
	disk_write bigint NOT NULL,
	net_rx     bigint NOT NULL,
	net_tx     bigint NOT NULL,
	CONSTRAINT vm_samples_pkey PRIMARY KEY (org_id, vm_id, at)
) PARTITION BY RANGE (at);
SELECT protect('vm_samples');
GRANT SELECT, INSERT ON vm_samples TO millrace_app, millrace_system;

-- Every change, in the transaction that made it. Nobody may change or remove an entry.
CREATE TABLE audit (
	org_id     bigint NOT NULL,
	at         timestamptz NOT NULL,
	audit_id   uuid NOT NULL,
	actor_kind text NOT NULL,
	actor_id   text NOT NULL,
	action     text NOT NULL,
	subject    text NOT NULL,
	CONSTRAINT audit_pkey PRIMARY KEY (org_id, at, audit_id),
	CONSTRAINT audit_actor_check CHECK (actor_kind IN ('user', 'token', 'host', 'system'))
) PARTITION BY RANGE (at);
SELECT protect('audit');
GRANT SELECT, INSERT ON audit TO millrace_app, millrace_system;

-- keep_partitions makes the partitions of the coming days and months as seen from at, protected like their parents, and
-- drops those past retention. Workers call it; it runs as the owner.
-- +goose StatementBegin
CREATE FUNCTION keep_partitions(at timestamptz) RETURNS void
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
	kept   record;
	first  timestamptz;
	step   interval;
	child  text;
	found  record;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('keep_partitions'));
	FOR kept IN
		SELECT * FROM (VALUES
			('deliveries', 'day', 14, interval '7 days'),
			('job_facts', 'month', 2, interval '400 days'),
			('vm_samples', 'month', 2, interval '90 days'),
			('audit', 'month', 2, interval '400 days')
		) AS v (parent, unit, ahead, retention)
	LOOP
		step := ('1 ' || kept.unit)::interval;
		FOR n IN -1 .. kept.ahead LOOP
			first := date_trunc(kept.unit, at) + n * step;
			child := kept.parent || '_' || to_char(first, CASE kept.unit WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
			IF to_regclass('public.' || quote_ident(child)) IS NULL THEN
				EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)', child, kept.parent, first, first + step);
				PERFORM public.protect(to_regclass('public.' || quote_ident(child)));
			END IF;
		END LOOP;
		FOR found IN
			SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = to_regclass('public.' || kept.parent)
		LOOP
			first := to_date(substring(found.relname from '[0-9]+$'), CASE kept.unit WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END)::timestamptz;
			IF first + step < at - kept.retention THEN
				EXECUTE format('DROP TABLE public.%I', found.relname);
			END IF;
		END LOOP;
	END LOOP;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION keep_partitions(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_partitions(timestamptz) TO millrace_system;

-- +goose Down
DROP FUNCTION keep_partitions(timestamptz);
DROP TABLE audit, vm_samples, job_facts, deliveries;
