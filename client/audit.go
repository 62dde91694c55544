package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// AuditEntry is one change on the wire.
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
