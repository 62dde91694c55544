package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const incidentColumns = `i.org_id, i.incident_id, i.code, i.installation_id, n.owner_login, i.repository_id, i.repository, i.detail,
	i.opened_at, i.seen_at, i.probe_at, i.closed_at`

const incidentFrom = ` FROM incidents i JOIN installations n ON (n.org_id, n.installation_id) = (i.org_id, i.installation_id)`

func scanIncident(row pgx.CollectableRow) (i millrace.Incident, err error) {
	var closed *time.Time
	err = row.Scan(&i.OrgID, &i.ID, &i.Code, &i.InstallationID, &i.Owner, &i.RepositoryID, &i.Repository, &i.Detail,
		&i.OpenedAt, &i.SeenAt, &i.ProbeAt, &closed)
	i.ClosedAt = val(closed)
	return i, err
}

// IncidentFilter narrows a list of incidents. Its zero value is all incidents, newest first.
type IncidentFilter struct {
	Open   bool // only those that hold now
	Closed bool // only those that are over
	Cursor string
	Limit  int // 1 to 100; 0 is 50
}

// IncidentPage is one page of incidents; Next is "" on the last.
type IncidentPage struct {
	Incidents []millrace.Incident
	Next      string
}

// Incidents lists incidents, newest first.
func (o Org) Incidents(ctx context.Context, f IncidentFilter) (page IncidentPage, err error) {
	limit := pageSize(f.Limit)
	var w where
	w.and(`i.org_id = ?`, o.id)
	if f.Open {
		w.and(`i.closed_at IS NULL`)
	}
	if f.Closed {
		w.and(`i.closed_at IS NOT NULL`)
	}
	if f.Cursor != "" {
		at, id, err := o.parseCursor(f.Cursor)
		if err != nil {
			return page, err
		}
		w.and(`(i.opened_at, i.incident_id) < (?, ?::uuid)`, at, id)
	}
	sql := fmt.Sprintf(`SELECT %s %s WHERE %s ORDER BY i.opened_at DESC, i.incident_id DESC LIMIT %d`, incidentColumns, incidentFrom, w.sql.String(), limit+1)
	err = o.tx(ctx, func(tx *Tx) error {
		page.Incidents, err = many(ctx, tx, scanIncident, sql, w.args...)
		return err
	})
	if len(page.Incidents) > limit {
		page.Incidents = page.Incidents[:limit]
		last := page.Incidents[limit-1]
		page.Next = o.cursor(last.OpenedAt, last.ID)
	}
	return page, err
}

// reopenWithin is how long after its end an incident that comes back is the same one.
const reopenWithin = time.Hour

// OpenIncident notes that GitHub's answer to a call for an installation, or for one of its repositories (0: none), named
// a condition: it opens the incident, or says of the open one that it still holds. What it stops is placed for no more.
// A condition of an installation that is no org's changes nothing.
func (s *Store) OpenIncident(ctx context.Context, installation, repositoryID int64, repository string, c millrace.Condition) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		var org millrace.OrgID
		err := tx.QueryRow(ctx, `
			SELECT i.org_id FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL WHERE i.installation_id = $1`, installation).Scan(&org)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.openIncident(ctx, org, installation, repositoryID, repository, c)
	})
}

func (tx *Tx) openIncident(ctx context.Context, org millrace.OrgID, installation, repositoryID int64, repository string, c millrace.Condition) error {
	probe := tx.now.Add(c.Code.ProbeEvery())
	if !c.Until.IsZero() {
		probe = c.Until
	}
	const key = `(org_id, installation_id, repository_id, code) = ($1, $2, $3, $4)`
	tag, err := tx.Exec(ctx, `
		UPDATE incidents SET detail = $5, seen_at = $6, probe_at = greatest(probe_at, $7) WHERE `+key+` AND closed_at IS NULL`,
		org, installation, repositoryID, c.Code, c.Detail, tx.now, probe)
	if err != nil || tag.RowsAffected() > 0 {
		return err
	}
	tx.announceRules(org)
	tag, err = tx.Exec(ctx, `
		UPDATE incidents SET detail = $5, seen_at = $6, probe_at = $7, closed_at = NULL
		WHERE (org_id, incident_id) = ($1, (SELECT incident_id FROM incidents WHERE `+key+` AND closed_at > $8 ORDER BY closed_at DESC, incident_id LIMIT 1))`,
		org, installation, repositoryID, c.Code, c.Detail, tx.now, probe, tx.now.Add(-reopenWithin))
	if err != nil || tag.RowsAffected() > 0 {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO incidents (org_id, incident_id, code, installation_id, repository_id, repository, detail, opened_at, seen_at, probe_at)
		VALUES ($1, $2, $4, $5, $6, $7, $8, $3, $3, $9)
		ON CONFLICT DO NOTHING`, // another process met it at the same time
		org, millrace.NewIncidentID(tx.ids, tx.now), tx.now, c.Code, installation, repositoryID, repository, c.Detail, probe)
	return err
}

// CloseIncidents closes the open incidents of an installation that have one of codes, of this repository or of none: the
// conditions no longer hold.
func (s *Store) CloseIncidents(ctx context.Context, installation, repositoryID int64, codes ...millrace.WaitCode) error {
	return s.systemTx(ctx, func(tx *Tx) error { return tx.closeIncidents(ctx, installation, repositoryID, codes...) })
}

func (tx *Tx) closeIncidents(ctx context.Context, installation, repositoryID int64, codes ...millrace.WaitCode) error {
	orgs, err := many(ctx, tx, pgx.RowTo[millrace.OrgID], `
		UPDATE incidents SET closed_at = $4
		WHERE installation_id = $1 AND repository_id IN (0, $2) AND code = ANY($3) AND closed_at IS NULL RETURNING org_id`,
		installation, repositoryID, codes, tx.now)
	for _, org := range orgs {
		tx.announceRules(org)
	}
	if err == nil && len(orgs) > 0 && slices.Contains(codes, millrace.WaitSuspended) { // a call that went well proves both
		_, err = tx.Exec(ctx, `UPDATE installations SET suspended_at = NULL WHERE installation_id = $1 AND suspended_at IS NOT NULL`, installation)
	}
	return err
}

// OpenIncidents are the open incidents of an installation, in order of their IDs, and the time that they are read at.
func (s *Store) OpenIncidents(ctx context.Context, installation int64) (list []millrace.Incident, at time.Time, err error) {
	at, err = s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			SELECT `+incidentColumns+incidentFrom+` WHERE i.installation_id = $1 AND i.closed_at IS NULL ORDER BY i.incident_id`,
			installation).Query(func(rows pgx.Rows) (err error) {
			list, err = pgx.CollectRows(rows, scanIncident)
			return err
		})
	})
	return list, at, err
}

// DueIncident is an open incident that is to be looked at again, and where its installation's runners register.
type DueIncident struct {
	millrace.Incident
	// Through is the repository to look through: the one concerned or, of a whole installation, the last that had a job. A
	// personal account has runners nowhere else.
	Through millrace.Repository
	Target  millrace.RunnerTarget // where Through's runners register
}

// DueIncidents are the open incidents whose time to be probed has come, at most 100, and that time; each is due again after
// its code's pause, whatever becomes of the probe. While GitHub has asked not to be called for an installation, none of its
// is due.
func (s *Store) DueIncidents(ctx context.Context) (due []DueIncident, at time.Time, err error) {
	var first *time.Time
	at, err = s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`SELECT min(probe_at) FROM incidents WHERE closed_at IS NULL`).QueryRow(func(row pgx.Row) error { return row.Scan(&first) })
	})
	if err != nil || first == nil || first.After(at) { // as a rule
		return nil, at, err
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		at = tx.now
		type row struct {
			millrace.Incident
			kind    millrace.OwnerType
			through millrace.Repository
		}
		rows, err := many(ctx, tx, func(r pgx.CollectableRow) (out row, err error) {
			var closed *time.Time
			i := &out.Incident
			return out, r.Scan(&i.OrgID, &i.ID, &i.Code, &i.InstallationID, &i.Owner, &i.RepositoryID, &i.Repository, &i.Detail,
				&i.OpenedAt, &i.SeenAt, &i.ProbeAt, &closed, &out.kind, &out.through.ID, &out.through.FullName, &out.through.Private)
		}, `
			SELECT `+incidentColumns+`, n.owner_type, coalesce(r.repository_id, 0), coalesce(r.full_name, ''), coalesce(r.private, true)`+incidentFrom+`
				JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL
				LEFT JOIN LATERAL (
					SELECT * FROM repositories r
					WHERE (r.org_id, r.installation_id) = (i.org_id, i.installation_id) AND i.repository_id IN (0, r.repository_id)
					ORDER BY r.seen_at DESC, r.repository_id LIMIT 1
				) r ON true
			WHERE i.closed_at IS NULL AND i.probe_at <= $1
				AND NOT EXISTS (SELECT FROM incidents l WHERE (l.org_id, l.installation_id, l.code) = (i.org_id, i.installation_id, $2) AND l.closed_at IS NULL AND l.probe_at > $1)
			ORDER BY i.probe_at, i.incident_id LIMIT 100 FOR UPDATE OF i SKIP LOCKED`, tx.now, millrace.WaitRateLimited)
		if err != nil || len(rows) == 0 {
			return err
		}
		var b pgx.Batch
		for _, r := range rows {
			due = append(due, DueIncident{r.Incident, r.through, registersAt(r.InstallationID, r.Owner, r.kind, r.through.FullName)})
			b.Queue(`UPDATE incidents SET probe_at = $3 WHERE (org_id, incident_id) = ($1, $2)`, r.OrgID, r.ID, tx.now.Add(r.Code.ProbeEvery()))
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	return due, at, err
}
