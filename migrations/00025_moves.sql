-- +goose Up

-- +goose StatementBegin
-- The open jobs of a repository that comes under another installation of its org go along: GitHub tells of them as that
-- one's, and each would be two. Who takes in jobs of it right now holds its row FOR KEY SHARE, and is waited for: its jobs go along, too.
CREATE OR REPLACE FUNCTION move_open_jobs() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	PERFORM FROM public.repositories r WHERE (r.org_id, r.repository_id) = (NEW.org_id, NEW.repository_id) FOR UPDATE;
	WITH open AS (
		SELECT j.org_id, j.job_id FROM public.jobs j
		WHERE (j.org_id, j.repository_id, j.installation_id) = (OLD.org_id, OLD.repository_id, OLD.installation_id) AND j.status <> 'completed'
			AND NOT EXISTS (SELECT FROM public.jobs o
				WHERE (o.org_id, o.installation_id, o.github_job_id, o.run_attempt) = (j.org_id, NEW.installation_id, j.github_job_id, j.run_attempt))
		ORDER BY j.github_job_id, j.run_attempt FOR NO KEY UPDATE
	)
	UPDATE public.jobs j SET installation_id = NEW.installation_id FROM open o WHERE (j.org_id, j.job_id) = (o.org_id, o.job_id);
	RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose Down

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION move_open_jobs() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
	WITH open AS (
		SELECT j.org_id, j.job_id FROM public.jobs j
		WHERE (j.org_id, j.repository_id, j.installation_id) = (OLD.org_id, OLD.repository_id, OLD.installation_id) AND j.status <> 'completed'
			AND NOT EXISTS (SELECT FROM public.jobs o
				WHERE (o.org_id, o.installation_id, o.github_job_id, o.run_attempt) = (j.org_id, NEW.installation_id, j.github_job_id, j.run_attempt))
		ORDER BY j.github_job_id, j.run_attempt FOR NO KEY UPDATE
	)
	UPDATE public.jobs j SET installation_id = NEW.installation_id FROM open o WHERE (j.org_id, j.job_id) = (o.org_id, o.job_id);
	RETURN NULL;
END
$$;
-- +goose StatementEnd
