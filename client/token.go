package client

import (
	"context"
	"time"

	"github.com/millrace-ci/millrace"
)

// APIToken is an API token on the wire. Its secret is there once, in the answer that makes it.
//
//	GET    /api/v1/orgs/{org}/tokens           → List[APIToken], all on one page
//	POST   /api/v1/orgs/{org}/tokens           CreateAPIToken → APIToken
//	DELETE /api/v1/orgs/{org}/tokens/{token}
//	GET    /api/v1/orgs/{org}/token            → APIToken, the one that asks
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

// Tokens are the API tokens that the caller may see, newest first.
func (c REST) Tokens(ctx context.Context) (List[APIToken], error) {
	return get[List[APIToken]](ctx, c, "tokens", nil)
}

// OwnToken is the API token that asks.
func (c REST) OwnToken(ctx context.Context) (APIToken, error) {
	return get[APIToken](ctx, c, "token", nil)
}

// CreateToken makes an API token.
func (c REST) CreateToken(ctx context.Context, n CreateAPIToken) (APIToken, error) {
	return post[APIToken](ctx, c, "tokens", n)
}

// RevokeToken ends an API token at once.
func (c REST) RevokeToken(ctx context.Context, id millrace.APITokenID) error {
	return remove(ctx, c, "tokens/"+id.String())
}

// EnrollmentToken is an enrollment token on the wire. Its secret is there once, in the answer that makes it.
//
//	GET    /api/v1/orgs/{org}/enrollment-tokens           → List[EnrollmentToken], all on one page
//	POST   /api/v1/orgs/{org}/enrollment-tokens           CreateEnrollmentToken → EnrollmentToken
//	DELETE /api/v1/orgs/{org}/enrollment-tokens/{token}
type EnrollmentToken struct {
	ID        millrace.EnrollmentTokenID `json:"id"`
	UsesLeft  int                        `json:"uses_left"`
	Labels    []string                   `json:"labels" doc:"Of the hosts that it makes, and no others; null when the host's owner says"`
	CIDR      *string                    `json:"cidr" doc:"Where it may be used; null: anywhere"`
	Ephemeral bool                       `json:"ephemeral" doc:"Its hosts are removed 15 minutes after they were last heard"`
	CreatedAt time.Time                  `json:"created_at"`
	ExpiresAt time.Time                  `json:"expires_at"`
	Secret    string                     `json:"secret,omitempty" doc:"In the answer that makes it, and never again"`
}

// CreateEnrollmentToken is what an enrollment token is made of.
type CreateEnrollmentToken struct {
	Labels    []string `json:"labels,omitempty" nullable:"true" maxItems:"100" doc:"Of the hosts that it makes, and no others; without: the host's owner says"`
	CIDR      string   `json:"cidr,omitempty" maxLength:"50" example:"192.0.2.0/24" doc:"Where it may be used; without: anywhere"`
	Ephemeral bool     `json:"ephemeral,omitempty" doc:"Its hosts are removed 15 minutes after they were last heard, as spot machines are"`
	Uses      int      `json:"uses,omitempty" minimum:"1" maximum:"1000" default:"1" doc:"Hosts that it may enroll"`
	Seconds   int      `json:"ttl_seconds,omitempty" minimum:"60" maximum:"2592000" default:"3600" doc:"Until it expires"`
}

// NewEnrollmentToken is an enrollment token on the wire, without its secret.
func NewEnrollmentToken(t millrace.EnrollmentToken) EnrollmentToken {
	out := EnrollmentToken{ID: t.ID, UsesLeft: t.UsesLeft, Labels: t.Labels, Ephemeral: t.Ephemeral, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC()}
	if t.CIDR.IsValid() {
		cidr := t.CIDR.String()
		out.CIDR = &cidr
	}
	return out
}

// EnrollmentTokens are those that still work, newest first.
func (c REST) EnrollmentTokens(ctx context.Context) (List[EnrollmentToken], error) {
	return get[List[EnrollmentToken]](ctx, c, "enrollment-tokens", nil)
}

// CreateEnrollmentToken makes a token that turns machines into hosts.
func (c REST) CreateEnrollmentToken(ctx context.Context, n CreateEnrollmentToken) (EnrollmentToken, error) {
	return post[EnrollmentToken](ctx, c, "enrollment-tokens", n)
}

// RevokeEnrollmentToken ends an enrollment token at once.
func (c REST) RevokeEnrollmentToken(ctx context.Context, id millrace.EnrollmentTokenID) error {
	return remove(ctx, c, "enrollment-tokens/"+id.String())
}
