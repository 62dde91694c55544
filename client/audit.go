package client

import (
	"context"
	"net/url"
	"time"

	"github.com/millrace-ci/millrace"
)

// AuditEntry is one change on the wire.
//
//	GET /api/v1/orgs/{org}/audit?actor=…&action=member.&subject=…&from=RFC3339&to=RFC3339&limit=50&cursor=…   → List[AuditEntry]
type AuditEntry struct {
	ID        millrace.AuditID  `json:"id"`
	At        time.Time         `json:"at"`
	Actor     AuditActor        `json:"actor"`
	Action    string            `json:"action" example:"member.role_changed"`
	Subject   string            `json:"subject" doc:"The ID of what it was done to"`
	Address   string            `json:"address" doc:"Where the request came from"`
	RequestID string            `json:"request_id"`
	Changes   []millrace.Change `json:"changes"`
}

// AuditActor is who made a change.
type AuditActor struct {
	Kind millrace.ActorKind `json:"kind" enum:"user,token,host,system"`
	ID   string             `json:"id"`
	Name string             `json:"name" doc:"As it was at that time"`
}

// NewAuditEntry is a change on the wire.
func NewAuditEntry(e millrace.AuditEntry) AuditEntry {
	return AuditEntry{
		ID: e.ID, At: e.At.UTC(), Actor: AuditActor{e.Actor.Kind, e.Actor.ID, e.Actor.Name}, Action: e.Action, Subject: e.Subject,
		Address: e.Actor.Address, RequestID: e.Actor.RequestID, Changes: e.Changes,
	}
}

// AuditQuery narrows the audit log; its zero value is all of it, newest first.
type AuditQuery struct {
	Actor   string // ID, or name as it was at that time
	Action  string // or all that begin so, when it ends with a dot
	Subject string
	Cursor  string
	Limit   int // 0: the server's choice
}

// Audit is one page of the audit log.
func (c REST) Audit(ctx context.Context, q AuditQuery) (List[AuditEntry], error) {
	v := url.Values{}
	set(v, "actor", q.Actor)
	set(v, "action", q.Action)
	set(v, "subject", q.Subject)
	set(v, "cursor", q.Cursor)
	setLimit(v, q.Limit)
	return get[List[AuditEntry]](ctx, c, "audit", v)
}
