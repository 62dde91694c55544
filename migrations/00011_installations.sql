-- +goose Up

ALTER TABLE installations ADD COLUMN read_at timestamptz; -- as of when GitHub's answer on its state is kept

-- What GitHub said of an installation that is no org's is said here alone.
ALTER TABLE user_installations ADD COLUMN suspended_at timestamptz;

-- GitHub's list lacks the repository: it is not polled, and what it had stays.
ALTER TABLE repositories ADD COLUMN unlisted_at timestamptz;

-- +goose StatementBegin
-- The open jobs of a repository that comes under another installation of its org go along: GitHub tells of them as that
-- one's, and each would be two.
CREATE FUNCTION move_open_jobs() RETURNS trigger
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
REVOKE ALL ON FUNCTION move_open_jobs() FROM PUBLIC;
CREATE TRIGGER repositories_move_open_jobs AFTER UPDATE OF installation_id ON repositories
	FOR EACH ROW WHEN (OLD.installation_id <> NEW.installation_id) EXECUTE FUNCTION move_open_jobs();

-- +goose Down
DROP TRIGGER repositories_move_open_jobs ON repositories;
DROP FUNCTION move_open_jobs();
ALTER TABLE repositories DROP COLUMN unlisted_at;
ALTER TABLE user_installations DROP COLUMN suspended_at;
ALTER TABLE installations DROP COLUMN read_at;
