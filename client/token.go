package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// APIToken is an API token on the wire. Its secret is there once, in the answer that makes it.
type APIToken struct {
	ID         millrace.APITokenID   `json:"id"`
	Name       string                `json:"name"`
	Hint       string                `json:"hint" doc:"How its secret begins"`
	UserID     *millrace.UserID      `json:"user_id" doc:"Whose it is; null when it is the org's own"`
	Scopes     []millrace.Permission `json:"scopes"`
	CreatedAt  time.Time             `json:"created_at"`
	ExpiresAt  time.Time             `json:"expires_at"`
	RevokedAt  *time.Time            `json:"revoked_at"`
	LastUsedAt *time.Time            `json:"last_used_at" doc:"To the minute"`
	Secret     string                `json:"secret,omitempty" doc:"In the answer that makes it, and never again"`
}

// CreateAPIToken is what a token is made of.
type CreateAPIToken struct {
	Name   string                `json:"name" maxLength:"400"`
	Scopes []millrace.Permission `json:"scopes" maxItems:"100"`
	Days   int                   `json:"days,omitempty" minimum:"1" maximum:"366" default:"30" doc:"Until it expires"`
	OfOrg  bool                  `json:"of_org,omitempty" doc:"The org's own: it outlives its maker's membership"`
}

// NewAPIToken is a token on the wire, without its secret.
func NewAPIToken(t millrace.APIToken) APIToken {
	out := APIToken{
		ID: t.ID, Name: t.Name, Hint: t.Hint, Scopes: t.Scopes, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC(),
		RevokedAt: Time(t.RevokedAt), LastUsedAt: Time(t.LastUsedAt),
	}
	if !t.UserID.IsZero() {
		out.UserID = &t.UserID
	}
	return out
}

// EnrollmentToken is an enrollment token on the wire. Its secret is there once, in the answer that makes it.
type EnrollmentToken struct {
	ID        millrace.EnrollmentTokenID `json:"id"`
	UsesLeft  int                        `json:"uses_left"`
	CreatedAt time.Time                  `json:"created_at"`
	ExpiresAt time.Time                  `json:"expires_at"`
	Secret    string                     `json:"secret,omitempty" doc:"In the answer that makes it, and never again"`
}

// CreateEnrollmentToken is what an enrollment token is made of.
type CreateEnrollmentToken struct {
	Uses    int `json:"uses,omitempty" minimum:"1" maximum:"1000" default:"1" doc:"Hosts that it may enroll"`
	Seconds int `json:"ttl_seconds,omitempty" minimum:"60" maximum:"2592000" default:"3600" doc:"Until it expires"`
}

// NewEnrollmentToken is an enrollment token on the wire, without its secret.
func NewEnrollmentToken(t millrace.EnrollmentToken) EnrollmentToken {
	return EnrollmentToken{ID: t.ID, UsesLeft: t.UsesLeft, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC()}
}
