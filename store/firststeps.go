package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// FirstSteps reads how far the org has come.
func (o Org) FirstSteps(ctx context.Context) (f millrace.FirstSteps, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		f = millrace.FirstSteps{}
		var seen, heard *time.Time
		var b pgx.Batch
		b.Queue(`
			SELECT checklist_hidden,
				(SELECT count(*) FROM installations WHERE org_id = $1 AND deleted_at IS NULL AND suspended_at IS NULL),
				(SELECT count(*) FROM repositories r JOIN installations i USING (org_id, installation_id)
					WHERE org_id = $1 AND r.unlisted_at IS NULL AND i.deleted_at IS NULL AND i.suspended_at IS NULL),
				EXISTS (SELECT FROM enrollment_tokens WHERE org_id = $1),
				(SELECT max(heard_at) FROM installations WHERE org_id = $1)
			FROM orgs WHERE org_id = $1`, o.id).QueryRow(func(row pgx.Row) error {
			return row.Scan(&f.Hidden, &f.Installations, &f.Repositories, &f.TokenMade, &heard)
		})
		b.Queue(`
			SELECT org_id, r.repository_id, r.installation_id, r.full_name, r.private FROM repositories r JOIN installations i USING (org_id, installation_id)
			WHERE org_id = $1 AND r.unlisted_at IS NULL AND i.deleted_at IS NULL AND i.suspended_at IS NULL ORDER BY lower(r.full_name) LIMIT $2`,
			o.id, millrace.SomeRepositories).Query(func(rows pgx.Rows) (err error) {
			f.Some, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.Repository, err error) {
				return r, row.Scan(&r.OrgID, &r.ID, &r.InstallationID, &r.FullName, &r.Private)
			})
			return err
		})
		b.Queue(`
			SELECT `+enrollmentColumns+` FROM enrollment_tokens
			WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND uses_left > 0 ORDER BY created_at DESC, token_id LIMIT 1`,
			o.id, tx.now).Query(func(rows pgx.Rows) error {
			list, err := pgx.CollectRows(rows, enrollmentToken)
			if len(list) > 0 {
				f.Token = &list[0]
			}
			return err
		})
		b.Queue(`SELECT count(*), count(*) FILTER (WHERE b.seen_at > $2), max(b.seen_at)`+hostFrom+` WHERE h.org_id = $1`,
			o.id, tx.now.Add(-millrace.OfflineAfter)).QueryRow(func(row pgx.Row) error { return row.Scan(&f.Hosts, &f.HostsOnline, &seen) })
		const first = `SELECT job_id, status::text, conclusion, queued_at, completed_at FROM jobs WHERE org_id = $1`
		b.Queue(first+` ORDER BY job_id LIMIT 1`, o.id).Query(stepJob(&f.FirstJob))
		b.Queue(first+` AND conclusion = 'success' ORDER BY job_id LIMIT 1`, o.id).Query(stepJob(&f.FirstGreen))
		b.Queue(`
			SELECT code FROM (
				SELECT 0 AS kind, opened_at AS at, code FROM incidents WHERE org_id = $1 AND closed_at IS NULL
				UNION ALL
				(SELECT 1, received_at, CASE WHEN status = 'queued' THEN wait_code ELSE '' END FROM jobs WHERE org_id = $1 ORDER BY job_id DESC LIMIT 10)
			) c WHERE code <> '' ORDER BY kind, at DESC, code`, o.id).Query(func(rows pgx.Rows) error {
			codes, err := pgx.CollectRows(rows, pgx.RowTo[millrace.WaitCode])
			for _, c := range codes {
				if !slices.Contains(f.Causes, c) {
					f.Causes = append(f.Causes, c)
				}
			}
			return err
		})
		err := tx.SendBatch(ctx, &b).Close()
		f.HostSeenAt, f.HeardAt = val(seen), val(heard)
		return err
	})
	return f, err
}

func stepJob(into **millrace.StepJob) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j millrace.StepJob, err error) {
			var completed *time.Time
			err = row.Scan(&j.ID, &j.Status, &j.Conclusion, &j.QueuedAt, &completed)
			j.CompletedAt = val(completed)
			return j, err
		})
		if len(list) > 0 {
			*into = &list[0]
		}
		return err
	}
}
