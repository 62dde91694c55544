package millrace

import "time"

// Actor is who made a change, and by which request.
type Actor struct {
	Kind      ActorKind
	ID        string // the ID as people see it; "" for the system
	Name      string // a user's login, a token's or a host's name at that time; display only
	Address   string // the IP address that the request came from; "" without a request
	RequestID string
}

// ActorKind is the kind of an actor.
type ActorKind string

// The kinds.
const (
	ActorUser   ActorKind = "user"
	ActorToken  ActorKind = "token"
	ActorHost   ActorKind = "host"
	ActorSystem ActorKind = "system"
)

// ActorKinds are all of them.
var ActorKinds = []ActorKind{ActorUser, ActorToken, ActorHost, ActorSystem}

// AuditEntry is one change, recorded in the transaction that made it.
type AuditEntry struct {
	ID      AuditID
	At      time.Time
	Actor   Actor
	Action  string // e.g. host.enrolled
	Subject string // the ID of what it was done to
	Changes []Change
}

// Change is one field of a change: what it was and what it became. "" is nothing; a secret is never told.
type Change struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}
