package millrace

import "time"

// User is a person, known by GitHub's numeric id; the login is display only.
type User struct {
	ID       UserID
	GitHubID int64
	Login    string
	Name     string
}

// Role is what a user may do in an org: see [Rights].
type Role string

// The roles, strongest first.
const (
	RoleOwner   Role = "owner"
	RoleAdmin   Role = "admin"
	RoleMember  Role = "member"
	RoleBilling Role = "billing"
	RoleViewer  Role = "viewer"
)

// Roles are all of them.
var Roles = []Role{RoleOwner, RoleAdmin, RoleMember, RoleBilling, RoleViewer}

// Membership is a user's role in an org.
type Membership struct {
	OrgID OrgID
	Slug  string
	Name  string
	Role  Role
}

// Member is a user in an org, as its other members see them.
type Member struct {
	User
	Role       Role
	Chosen     bool // somebody here gave them the role; otherwise it follows GitHub's
	GitHubRole Role // what GitHub's answers make them; "" when they are not a member there
	JoinedAt   time.Time
	SeenAt     time.Time // their last use of the dashboard; zero: none that is remembered
}

// Device is where a session is used from.
type Device struct {
	Address   string // IP
	UserAgent string
}

// MaxUserAgent bounds the user agent that is kept, in bytes.
const MaxUserAgent = 300

// Session is a browser's sign-in.
type Session struct {
	ID          SessionID
	User        User
	Device      Device // at sign-in
	CreatedAt   time.Time
	LastUsedAt  time.Time
	ExpiresAt   time.Time
	ConfirmedAt time.Time // when the user last confirmed that it is them; zero: never
	Renew       bool      // its secret must be replaced: the user's role changed
}

// Confirmed reports whether a dangerous act needs no further confirmation at time now.
func (s Session) Confirmed(now time.Time) bool {
	return !s.ConfirmedAt.IsZero() && now.Sub(s.ConfirmedAt) < ConfirmationLength
}

// SessionLength is the absolute life of a session; SessionIdle ends one that isn't used (research: ASVS 5.0 7.3). After
// its secret was replaced the former one works for SessionGrace: requests may be under way.
const (
	SessionLength = 7 * 24 * time.Hour
	SessionIdle   = 12 * time.Hour
	SessionGrace  = time.Minute
)

// ConfirmationLength is how long a confirmation is good for.
const ConfirmationLength = 15 * time.Minute

// SignInLinkLength is how long a one-use sign-in link works.
const SignInLinkLength = 24 * time.Hour
