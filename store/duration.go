package store

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// Estimates rest on how long a job's last runs took, and on how long its host's last VMs needed to be online. Both are computed
// anew some seconds after there is something new, for all jobs and hosts at once.

// lastRuns is how many past runs estimates rest on.
const lastRuns = 50

// jobKey tells jobs apart that are of one kind: a job's runs.
type jobKey struct {
	org            millrace.OrgID
	repository     int64
	workflow, name string
}

const (
	jobDurations    = ` LEFT JOIN job_durations d ON (d.org_id, d.repository_id, d.workflow, d.name) = (j.org_id, j.repository_id, j.workflow, j.name)`
	durationColumns = `d.n, d.p50, d.p90`
)

// nullableDurations scans [durationColumns] of an outer join.
type nullableDurations struct {
	n        *int
	p50, p90 *int64
}

func (d *nullableDurations) targets() []any { return []any{&d.n, &d.p50, &d.p90} }

func (d *nullableDurations) durations() (_ millrace.Durations, known bool) {
	if d.n == nil {
		return millrace.Durations{}, false
	}
	return durations(*d.n, *d.p50, *d.p90), true
}

// durations are those of n runs, of milliseconds.
func durations(n int, p50, p90 int64) millrace.Durations {
	return millrace.Durations{N: n, P50: time.Duration(p50) * time.Millisecond, P90: time.Duration(p90) * time.Millisecond}
}

// learning are the jobs and hosts of which this process has seen something new. It is lost with the process, and when Postgres is
// away: the next run makes up for that.
type learning struct {
	mu    sync.Mutex
	jobs  map[jobKey]bool
	hosts map[millrace.HostID]millrace.OrgID
}

func (l *learning) job(k jobKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs == nil {
		l.jobs = map[jobKey]bool{}
	}
	l.jobs[k] = true
}

func (l *learning) host(org millrace.OrgID, host millrace.HostID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts == nil {
		l.hosts = map[millrace.HostID]millrace.OrgID{}
	}
	l.hosts[host] = org
}

// Learn keeps how long the last runs took of the jobs that this process has seen succeed, and how long the last VMs needed to be
// online of the hosts that it has seen boot one, since it last learned.
func (s *Store) Learn(ctx context.Context) error {
	s.learning.mu.Lock()
	jobs, hosts := s.learning.jobs, s.learning.hosts
	s.learning.jobs, s.learning.hosts = nil, nil
	s.learning.mu.Unlock()
	if len(jobs)+len(hosts) == 0 {
		return nil
	}
	var jobOrgs, hostOrgs []millrace.OrgID
	var repositories []int64
	var workflows, names, hostIDs []string
	for k := range jobs {
		jobOrgs, repositories = append(jobOrgs, k.org), append(repositories, k.repository)
		workflows, names = append(workflows, k.workflow), append(names, k.name)
	}
	for host, org := range hosts {
		hostOrgs, hostIDs = append(hostOrgs, org), append(hostIDs, host.UUID())
	}
	_, err := s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		// In order, both: another server may be writing the same.
		b.Queue(`
			INSERT INTO job_durations (org_id, repository_id, workflow, name, n, p50, p90)
			SELECT j.org_id, j.repository_id, j.workflow, j.name, count(*),
				percentile_disc(0.5) WITHIN GROUP (ORDER BY f.run_ms), percentile_disc(0.9) WITHIN GROUP (ORDER BY f.run_ms)
			FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS j (org_id, repository_id, workflow, name), LATERAL (
				SELECT run_ms FROM job_facts f
				WHERE f.org_id = j.org_id AND f.repository_id = j.repository_id AND f.name = j.name AND f.workflow = j.workflow
					AND f.started AND f.conclusion = 'success'
				ORDER BY f.completed_at DESC, f.job_id LIMIT $5
			) f
			GROUP BY j.org_id, j.repository_id, j.workflow, j.name ORDER BY j.org_id, j.repository_id, j.workflow, j.name
			ON CONFLICT ON CONSTRAINT job_durations_pkey DO UPDATE SET n = excluded.n, p50 = excluded.p50, p90 = excluded.p90`,
			jobOrgs, repositories, workflows, names, lastRuns)
		b.Queue(`
			WITH booted AS (
				SELECT t.org_id, t.host_id::uuid, count(*) AS n, percentile_disc(0.5) WITHIN GROUP (ORDER BY v.ms) AS p50, percentile_disc(0.9) WITHIN GROUP (ORDER BY v.ms) AS p90
				FROM unnest($1::bigint[], $2::text[]) AS t (org_id, host_id), LATERAL (
					SELECT (extract(epoch FROM v.online_at - v.placed_at) * 1000)::bigint AS ms FROM vms v
					WHERE (v.org_id, v.host_id) = (t.org_id, t.host_id::uuid) AND v.online_at IS NOT NULL
					ORDER BY v.placed_at DESC, v.vm_id DESC LIMIT $3
				) v
				GROUP BY t.org_id, t.host_id
			), locked AS (
				SELECT h.org_id, h.host_id FROM hosts h JOIN booted b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
				ORDER BY h.org_id, h.host_id FOR NO KEY UPDATE OF h
			)
			UPDATE hosts h SET boot_n = b.n, boot_p50 = b.p50, boot_p90 = b.p90
			FROM booted b JOIN locked l ON (l.org_id, l.host_id) = (b.org_id, b.host_id) WHERE (h.org_id, h.host_id) = (b.org_id, b.host_id)`,
			hostOrgs, hostIDs, lastRuns)
	})
	return err
}
