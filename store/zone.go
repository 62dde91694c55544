package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// refusal is the code for which a queued job is not run because of its zone, in the scope of zone_rules $1; NULL when it
// may run. It says what [millrace.PlacementSettings.Refuses] says.
const refusal = `CASE
	WHEN (j.zone = 'public' OR j.zone = 'fork' AND NOT j.private) AND NOT EXISTS (SELECT FROM zone_rules z WHERE (z.org_id, z.zone) = ($1, 'public') AND z.allowed) THEN 'public_repositories_off'
	WHEN j.zone = 'fork' AND NOT EXISTS (SELECT FROM zone_rules z WHERE (z.org_id, z.zone) = ($1, 'fork') AND z.allowed) THEN 'fork_pull_requests_off'
	END`

// endStrays ends the VMs that run a job of another zone, for GitHub picks runners by their labels alone, and opens an
// incident of each repository whose jobs those are, also when the job is over. Their runners stay registered until the host
// has destroyed them: GitHub removes none that runs a job.
func (tx *Tx) endStrays(ctx context.Context, org millrace.OrgID) error {
	type strayed struct {
		millrace.VM
		job millrace.Job
	}
	list, err := many(ctx, tx, func(row pgx.CollectableRow) (s strayed, err error) {
		return s, row.Scan(append(vmTargets(&s.VM), &s.job.InstallationID, &s.job.RepositoryID, &s.job.Repository, &s.job.Zone, &s.job.Name, &s.job.Status)...)
	}, `SELECT `+vmColumns+`, j.installation_id, j.repository_id, j.repository, j.zone, j.name, j.status::text
		FROM vms v JOIN jobs j ON (j.org_id, j.job_id) = (v.org_id, v.ran_job) WHERE v.org_id = $1 AND (v.stray OR `+strays+`) ORDER BY v.vm_id FOR UPDATE OF v`, org)
	if err != nil {
		return err
	}
	for _, s := range list {
		said := fmt.Sprintf("GitHub gave the job %q of %s, which is one of %s, to a VM for %s.", s.job.Name, s.job.Repository, s.job.Zone.Jobs(), s.Zone.Jobs())
		var b pgx.Batch
		b.Queue(`UPDATE vms SET stray = false WHERE (org_id, vm_id) = ($1, $2)`, org, s.ID)
		if v := s.VM; s.job.Status != millrace.JobCompleted && v.State != millrace.VMStopping && v.State != millrace.VMGone {
			v.RetireReason = said + " The VM was ended."
			if err := tx.queueStop(&b, &v); err != nil {
				return err
			}
			tx.queueVM(&b, v)
		}
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		if err := tx.openIncident(ctx, org, s.job.InstallationID, s.job.RepositoryID, s.job.Repository, millrace.Condition{Code: millrace.WaitZoneMismatch, Detail: said}); err != nil {
			return err
		}
	}
	return nil
}

// queueTraces asks for the runs of jobs to be traced, each once.
func (tx *Tx) queueTraces(b *pgx.Batch, org millrace.OrgID, jobs []millrace.Job) {
	asked := map[millrace.TraceRun]bool{}
	for _, j := range jobs {
		if task := (millrace.TraceRun{OrgID: org, InstallationID: j.InstallationID, RunID: j.RunID}); !asked[task] {
			asked[task] = true
			tx.queueTask(b, org, task)
		}
	}
}

// untraced are the jobs of a run of which it is not known whether they come from a fork.
const untraced = ` FROM jobs j WHERE (j.org_id, j.installation_id, j.run_id) = ($1, $2, $3) AND NOT j.zone_known AND j.status <> 'completed'`

// Untraced is where to ask about a run's jobs. ok is false when there is nothing to ask, or nobody any more.
func (s *Store) Untraced(ctx context.Context, t millrace.TraceRun) (at millrace.RepositoryTarget, ok bool, err error) {
	at.InstallationID = t.InstallationID
	err = s.systemTx(ctx, func(tx *Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT r.full_name FROM repositories r JOIN installations i USING (org_id, installation_id) JOIN orgs o USING (org_id)
			WHERE org_id = $1 AND i.deleted_at IS NULL AND o.deleted_at IS NULL AND r.repository_id IN (SELECT j.repository_id`+untraced+`) LIMIT 1`,
			t.OrgID, t.InstallationID, t.RunID).Scan(&at.FullName)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return at, ok, err
}

// Traced says of a run's jobs whether they come from a fork.
func (s *Store) Traced(ctx context.Context, t millrace.TraceRun, fork bool) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH these AS (SELECT j.org_id, j.job_id`+untraced+` ORDER BY j.repository_id, j.installation_id, j.github_job_id, j.run_attempt FOR NO KEY UPDATE)
			UPDATE jobs j SET zone_known = true, zone = CASE WHEN $4 THEN 'fork' ELSE j.zone END
			FROM these t WHERE (j.org_id, j.job_id) = (t.org_id, t.job_id)`, t.OrgID, t.InstallationID, t.RunID, fork)
		if err == nil && tag.RowsAffected() > 0 {
			tx.announceRules(t.OrgID)
		}
		return err
	})
}
