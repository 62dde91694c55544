package client

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
)

// Member is a user in an org on the wire.
//
//	GET   /api/v1/orgs/{org}/members          → List[Member], all on one page
//	PATCH /api/v1/orgs/{org}/members/{user}   ChangeMember → Member
type Member struct {
	ID            millrace.UserID `json:"id"`
	GitHubID      int64           `json:"github_id"`
	Login         string          `json:"login"`
	Name          string          `json:"name"`
	Role          millrace.Role   `json:"role"`
	FollowsGitHub bool            `json:"follows_github" doc:"The role is the one that GitHub's answers make them; otherwise it was given here"`
	GitHubRole    *millrace.Role  `json:"github_role" doc:"What GitHub's answers make them; null when they are not a member there"`
	JoinedAt      time.Time       `json:"joined_at"`
	SeenAt        *time.Time      `json:"seen_at" doc:"Their last use of the dashboard"`
}

// ChangeMember is what may be changed of a member.
type ChangeMember struct {
	Role string `json:"role" enum:"owner,admin,member,billing,viewer,github" doc:"The role, or github to follow what GitHub makes them"`
}

// NewMember is a member on the wire.
func NewMember(m millrace.Member) Member {
	out := Member{
		ID: m.ID, GitHubID: m.GitHubID, Login: m.Login, Name: m.Name, Role: m.Role, FollowsGitHub: !m.Chosen, JoinedAt: m.JoinedAt.UTC(), SeenAt: Time(m.SeenAt),
	}
	if m.GitHubRole != "" {
		out.GitHubRole = &m.GitHubRole
	}
	return out
}

// Members are the org's members by login.
func (c REST) Members(ctx context.Context) (List[Member], error) {
	return get[List[Member]](ctx, c, "members", nil)
}

// ChangeMember changes a member's role.
func (c REST) ChangeMember(ctx context.Context, id millrace.UserID, to ChangeMember) (Member, error) {
	return send[Member](ctx, c, http.MethodPatch, "members/"+id.String(), nil, to)
}
