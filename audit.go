package millrace

import "time"

// Actor is who made a change.
type Actor struct {
	Kind ActorKind
	ID   string // the ID as people see it; "" for the system
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

// AuditEntry is one change, recorded in the transaction that made it.
type AuditEntry struct {
	At      time.Time
	Actor   Actor
	Action  string // e.g. host.enrolled
	Subject string // what it was done to
}
