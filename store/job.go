package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const jobColumns = `j.org_id, j.job_id, j.installation_id, j.github_job_id, j.run_id, j.run_attempt, j.repository_id, j.repository,
	j.private, j.zone, j.zone_known, j.workflow, j.name, j.branch, j.sha, j.actor_id, j.actor, j.labels, j.html_url, j.status::text, j.conclusion,
	j.runner_id, j.runner_name, j.queued_at, j.started_at, j.completed_at, j.received_at, j.arch, j.cpu, j.memory, j.burstable,
	j.extra_labels, j.wait_code, j.wait_text, j.wait_remedy, j.wait_from, j.wait_to, j.wait_basis, j.tries, j.failure, j.retry_at`

// nullableEstimate scans the columns of a job's estimate, which may be NULL.
type nullableEstimate struct {
	from, to *time.Time
	basis    string
}

func (e nullableEstimate) estimate() *millrace.Estimate {
	if e.from == nil {
		return nil
	}
	return &millrace.Estimate{From: *e.from, To: *e.to, Basis: e.basis}
}

// jobTargets are where [jobColumns] are scanned to.
func jobTargets(j *millrace.Job, e *nullableEstimate) []any {
	return []any{
		(*int64)(&j.OrgID), scanID(&j.ID), &j.InstallationID, &j.GitHubID, &j.RunID, &j.RunAttempt, &j.RepositoryID, &j.Repository, &j.Private, (*string)(&j.Zone),
		&j.ZoneKnown, &j.Workflow, &j.Name, &j.Branch, &j.SHA, &j.ActorID, &j.Actor, &j.Labels, &j.HTMLURL, (*string)(&j.Status), &j.Conclusion, &j.RunnerID,
		&j.RunnerName, scanTime(&j.QueuedAt), scanTime(&j.StartedAt), scanTime(&j.CompletedAt), scanTime(&j.ReceivedAt), (*string)(&j.Demand.Arch), &j.Demand.Size.MilliCPU,
		&j.Demand.Size.MemoryMB, &j.Demand.Burstable, &j.Demand.Extra, (*string)(&j.Wait.Code), &j.Wait.Text, &j.Wait.Remedy, &e.from, &e.to, &e.basis,
		&j.Tries, &j.Failure, scanTime(&j.RetryAt),
	}
}

func scanJob(row pgx.CollectableRow) (j millrace.Job, err error) {
	var e nullableEstimate
	err = row.Scan(jobTargets(&j, &e)...)
	j.Wait.Estimate = e.estimate()
	return j, err
}

// JobRow is a job with the VM that ran it, or the one that is meant for it; nil when there is none.
type JobRow struct {
	millrace.Job
	VM       *millrace.VM
	HostName string
}

// JobFilter narrows a list of jobs. Its zero value is all jobs, newest first.
type JobFilter struct {
	Status     []millrace.JobStatus
	Repository string // full name
	Cursor     string // where the page before ended
	Limit      int    // 1 to 100; 0 is 50
}

// JobPage is one page of jobs; Next is "" on the last.
type JobPage struct {
	Jobs []JobRow
	Next string
}

// jobVM joins a job to the VM that ran it, else to the newest that was launched or reassigned for it: two look-ups by key.
const jobVM = `
	LEFT JOIN LATERAL (
		(SELECT 1 AS rank, v.* FROM vms v WHERE (v.org_id, v.ran_job) = (j.org_id, j.job_id) ORDER BY v.placed_at DESC LIMIT 1)
		UNION ALL
		(SELECT 2, v.* FROM vms v WHERE (v.org_id, v.for_job) = (j.org_id, j.job_id) AND v.ran_job IS NULL ORDER BY v.placed_at DESC LIMIT 1)
		ORDER BY rank LIMIT 1
	) v ON true
	LEFT JOIN hosts h ON (h.org_id, h.host_id) = (v.org_id, v.host_id)`

func scanJobRow(row pgx.CollectableRow) (r JobRow, err error) {
	var e nullableEstimate
	var vm millrace.VM
	targets, more := jobTargets(&r.Job, &e), append(vmTargets(&vm), &r.HostName)
	if row.RawValues()[len(targets)] != nil { // it has a VM
		r.VM = &vm
	} else {
		clear(more)
	}
	err = row.Scan(append(targets, more...)...)
	r.Wait.Estimate = e.estimate()
	return r, err
}

// Jobs lists jobs, newest first.
func (o Org) Jobs(ctx context.Context, f JobFilter) (page JobPage, err error) {
	limit := pageSize(f.Limit)
	var w where
	w.and(`j.org_id = ?`, o.id)
	if len(f.Status) > 0 {
		statuses := make([]string, len(f.Status))
		for i, status := range f.Status {
			statuses[i] = string(status)
		}
		w.and(`j.status = ANY(?::text[]::job_status[])`, statuses)
		if !slices.Contains(f.Status, millrace.JobCompleted) {
			w.and(`j.status <> 'completed'`) // says that the index of open jobs will do
		}
	}
	if f.Repository != "" {
		w.and(`j.repository = ?`, f.Repository)
	}
	if f.Cursor != "" {
		at, id, err := o.parseCursor(f.Cursor)
		if err != nil {
			return page, err
		}
		w.and(`(j.received_at, j.job_id) < (?, ?::uuid)`, at, id)
	}
	// The page first, then its VMs: joined the other way round, a table without statistics is joined as a whole.
	sql := fmt.Sprintf(`
		SELECT %s, %s, h.name FROM (
			SELECT * FROM jobs j WHERE %s ORDER BY j.received_at DESC, j.job_id DESC LIMIT %d
		) j %s
		ORDER BY j.received_at DESC, j.job_id DESC`, jobColumns, vmColumns, w.sql.String(), limit+1, jobVM)
	err = o.tx(ctx, func(tx *Tx) error {
		page.Jobs, err = many(ctx, tx, scanJobRow, sql, w.args...)
		return err
	})
	if len(page.Jobs) > limit {
		page.Jobs = page.Jobs[:limit]
		last := page.Jobs[limit-1]
		page.Next = o.cursor(last.ReceivedAt, last.ID)
	}
	return page, err
}

// Job finds one job.
func (o Org) Job(ctx context.Context, id millrace.JobID) (row JobRow, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		row, err = one(ctx, tx, scanJobRow, `SELECT `+jobColumns+`, `+vmColumns+`, h.name FROM jobs j`+jobVM+` WHERE (j.org_id, j.job_id) = ($1, $2)`, o.id, id)
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = millrace.Errorf(millrace.NotFound, "There is no job with this ID.")
	}
	return row, err
}

// JobCounts are how many jobs the org has in each status; completed ones of the last 24 hours only.
func (o Org) JobCounts(ctx context.Context) (counts map[millrace.JobStatus]int, err error) {
	counts = map[millrace.JobStatus]int{}
	err = o.tx(ctx, func(tx *Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT status::text, count(*) FROM jobs
			WHERE org_id = $1 AND (status <> 'completed' OR received_at > $2) GROUP BY status`, o.id, tx.now.Add(-24*time.Hour))
		if err != nil {
			return err
		}
		var status millrace.JobStatus
		var n int
		_, err = pgx.ForEachRow(rows, []any{&status, &n}, func() error {
			counts[status] = n
			return nil
		})
		return err
	})
	return counts, err
}

// Repositories are the full names of the repositories that had jobs, in order.
func (o Org) Repositories(ctx context.Context) (names []string, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		names, err = many(ctx, tx, pgx.RowTo[string], `SELECT DISTINCT full_name FROM repositories WHERE org_id = $1 ORDER BY 1 LIMIT 1000`, o.id)
		return err
	})
	return names, err
}

func pageSize(limit int) int {
	if limit <= 0 {
		return 50
	}
	return min(limit, 100)
}

// cursor names a row of one of the org's lists, sorted by time and ID, newest first.
func (o Org) cursor(at time.Time, uuid [16]byte) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()))
	b = append(b, uuid[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, o.cursorSum(b)...))
}

// cursorSum tells an org's cursors from another's. It keeps nothing secret: row-level security does.
func (o Org) cursorSum(b []byte) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(bytes.Clone(b), uint64(o.id)))
	return sum[:4]
}

// maxCursor is a time that no row has, in Unix microseconds, and that Postgres still can hold.
const maxCursor = 1 << 60

func (o Org) parseCursor(s string) (at time.Time, uuid string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 28 || binary.BigEndian.Uint64(b) > maxCursor || !bytes.Equal(b[24:], o.cursorSum(b[:24])) {
		return at, "", millrace.Errorf(millrace.Invalid, "The cursor is not one that a list of this org gave out.")
	}
	var id millrace.JobID // of whatever kind: only its UUID is used
	copy(id[:], b[8:24])
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b))), id.UUID(), nil
}

// JobRepository finds a job's repository and where its runners register. NotFound when one of them is gone.
func (s *Store) JobRepository(ctx context.Context, org millrace.OrgID, job millrace.JobID) (at millrace.RunnerTarget, r millrace.Repository, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		var owner string
		var kind millrace.OwnerType
		err := tx.QueryRow(ctx, `
			SELECT r.org_id, r.repository_id, r.installation_id, r.full_name, r.private, i.owner_login, i.owner_type
			FROM jobs j JOIN repositories r ON (r.org_id, r.repository_id) = (j.org_id, j.repository_id)
				JOIN installations i ON (i.org_id, i.installation_id) = (r.org_id, r.installation_id)
			WHERE (j.org_id, j.job_id) = ($1, $2)`, org, job).Scan(&r.OrgID, &r.ID, &r.InstallationID, &r.FullName, &r.Private, &owner, &kind)
		at = registersAt(r.InstallationID, owner, kind, r.FullName)
		return err
	})
	return at, r, err
}
