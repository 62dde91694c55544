package store

import (
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// A completed job's closed fact is what insights read. It is written in the transaction in which the job is seen completed, and
// anew when more is heard of the job.

// closing are completed jobs whose facts are to be written.
type closing struct {
	orgs []millrace.OrgID
	jobs []string     // UUIDs
	was  []*time.Time // by what was known before, when the job was closed; nil: it was not, and has no fact
}

func (c *closing) add(org millrace.OrgID, job millrace.JobID, was *time.Time) {
	c.orgs, c.jobs, c.was = append(c.orgs, org), append(c.jobs, job.UUID()), append(c.was, was)
}

const (
	closingJobs = `(SELECT DISTINCT org_id, job_id::uuid FROM unnest($1::bigint[], $2::text[]) AS t (org_id, job_id)) c JOIN jobs j ON (j.org_id, j.job_id) = (c.org_id, c.job_id)`
	// closedAt is when j was completed. That is GitHub's word: what can't be, for a run lasts 35 days at the most, is bounded by
	// when we first heard of the job, so that there is a partition for it.
	closedAt = `least(greatest(j.completed_at, j.received_at - interval '1 day'), j.received_at + interval '36 days')`
)

// closeJobs writes the facts of completed jobs, which the caller has locked: a fact refers to nothing, and its org must not be
// erased meanwhile. Estimates will rest on them too. It does so with COMMIT.
func (s *Store) closeJobs(tx *Tx, c closing) {
	if len(c.jobs) == 0 {
		return
	}
	b := &tx.last
	// What is heard later may move the time of completion, which is part of the key: the fact moves with it.
	if slices.ContainsFunc(c.was, func(t *time.Time) bool { return t != nil }) {
		b.Queue(`
			UPDATE job_facts f SET completed_at = `+closedAt+`
			FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS c (org_id, job_id, was) JOIN jobs j ON (j.org_id, j.job_id) = (c.org_id, c.job_id::uuid)
			WHERE (f.org_id, f.completed_at, f.job_id) = (c.org_id, c.was, c.job_id::uuid) AND f.completed_at <> `+closedAt,
			c.orgs, c.jobs, c.was)
	}
	b.Queue(`
		INSERT INTO job_facts (org_id, completed_at, job_id, repository_id, repository, workflow, name, actor_id, actor, conclusion,
			arch, cpu, memory, host_id, vm_id, wait_ms, run_ms, started)
		SELECT j.org_id, `+closedAt+`, j.job_id, j.repository_id, j.repository, j.workflow, j.name, j.actor_id, j.actor, j.conclusion,
			coalesce(v.arch, j.arch), j.cpu, j.memory, v.host_id, v.vm_id,
			CASE WHEN j.runner_id = 0 THEN 0 ELSE greatest(0, extract(epoch FROM j.started_at - j.queued_at) * 1000)::bigint END,
			CASE WHEN j.runner_id = 0 THEN 0 ELSE greatest(0, extract(epoch FROM j.completed_at - j.started_at) * 1000)::bigint END,
			j.runner_id <> 0
		FROM `+closingJobs+` LEFT JOIN LATERAL (
			SELECT arch, host_id, vm_id FROM vms
			WHERE runner_id <> 0 AND (org_id, installation_id, runner_id) = (j.org_id, j.installation_id, j.runner_id) LIMIT 1
		) v ON true
		WHERE j.status = 'completed'
		ON CONFLICT ON CONSTRAINT job_facts_pkey DO UPDATE SET
			conclusion = excluded.conclusion, host_id = excluded.host_id, vm_id = excluded.vm_id, arch = excluded.arch,
			wait_ms = excluded.wait_ms, run_ms = excluded.run_ms, started = excluded.started
		RETURNING org_id, repository_id, workflow, name, started AND conclusion = 'success'`, c.orgs, c.jobs).Query(func(rows pgx.Rows) error {
		var k jobKey
		var counts bool
		_, err := pgx.ForEachRow(rows, []any{&k.org, &k.repository, &k.workflow, &k.name, &counts}, func() error {
			if counts {
				s.learning.job(k)
			}
			return nil
		})
		return err
	})
}
