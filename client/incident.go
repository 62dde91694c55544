package client

import (
	"context"
	"net/url"
	"time"

	"github.com/millrace-ci/millrace"
)

// Incident is a condition at GitHub that stops jobs, as the REST API shows it.
//
//	GET /api/v1/orgs/{org}/incidents?open=true&limit=50&cursor=…   → List[Incident]
type Incident struct {
	ID         millrace.IncidentID `json:"id"`
	Code       millrace.WaitCode   `json:"code"` // that of the jobs that wait because of it
	Title      string              `json:"title"`
	Remedy     string              `json:"remedy"`     // what an admin of the GitHub owner can do
	Owner      string              `json:"owner"`      // the GitHub organisation or account
	Repository string              `json:"repository"` // owner/name; "": all of the owner's
	Detail     string              `json:"detail"`     // what GitHub said
	OpenedAt   time.Time           `json:"opened_at"`
	SeenAt     time.Time           `json:"seen_at"`   // when GitHub last said so
	ClosedAt   *time.Time          `json:"closed_at"` // null while it holds
}

// NewIncident is i on the wire.
func NewIncident(i millrace.Incident) Incident {
	return Incident{
		ID: i.ID, Code: i.Code, Title: i.Code.Title(), Remedy: i.Remedy(), Owner: i.Owner, Repository: i.Repository, Detail: i.Said(),
		OpenedAt: i.OpenedAt.UTC(), SeenAt: i.SeenAt.UTC(), ClosedAt: Time(i.ClosedAt),
	}
}

// IncidentQuery narrows a list of incidents; its zero value is all of them, newest first.
type IncidentQuery struct {
	Open   bool // only those that hold now
	Cursor string
	Limit  int // 0: the server's choice
}

// Incidents is one page of incidents.
func (c REST) Incidents(ctx context.Context, q IncidentQuery) (List[Incident], error) {
	v := url.Values{}
	if q.Open {
		v.Set("open", "true")
	}
	set(v, "cursor", q.Cursor)
	setLimit(v, q.Limit)
	return get[List[Incident]](ctx, c, "incidents", v)
}
