package store

import (
	"context"
	"fmt"
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
	if f.Cursor != "" {
		at, id, err := parseCursor(f.Cursor)
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
		page.Next = cursor(last.OpenedAt, last.ID)
	}
	return page, err
}
