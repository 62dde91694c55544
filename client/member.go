package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// Member is a user in an org on the wire.
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
