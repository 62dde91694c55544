package millrace

import "time"

// User is a person, known by GitHub's numeric id; the login is display only.
type User struct {
	ID       UserID
	GitHubID int64
	Login    string
	Name     string
}

// Role is what a user may do in an org.
type Role string

// The roles, strongest first.
const (
	RoleOwner   Role = "owner"
	RoleAdmin   Role = "admin"
	RoleMember  Role = "member"
	RoleBilling Role = "billing"
	RoleViewer  Role = "viewer"
)

// Membership is a user's role in an org.
type Membership struct {
	OrgID OrgID
	Slug  string
	Name  string
	Role  Role
}

// Session is a browser's sign-in.
type Session struct {
	User      User
	CreatedAt time.Time
	ExpiresAt time.Time
}

// SessionLength is the absolute life of a session; SessionIdle ends one that isn't used (research: ASVS 5.0 7.3).
const (
	SessionLength = 7 * 24 * time.Hour
	SessionIdle   = 12 * time.Hour
)

// SignInLinkLength is how long a one-use sign-in link works.
const SignInLinkLength = 24 * time.Hour
