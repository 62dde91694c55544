package millrace

import "time"

// Installation is our GitHub App installed on one GitHub organisation or personal account, its owner. It belongs to
// exactly one org.
type Installation struct {
	OrgID       OrgID
	ID          int64 // GitHub's
	OwnerID     int64 // GitHub's id of the account
	OwnerLogin  string
	OwnerType   OwnerType
	SuspendedAt time.Time // zero: active
}

// LinkedInstallation is an installation as the settings of its org show it.
type LinkedInstallation struct {
	Installation
	LinkedAt  time.Time
	DeletedAt time.Time // zero: it is there. One that GitHub has no more is kept for what it had
	HeardAt   time.Time // the last delivery, to within a minute; zero: none came
	ReadAt    time.Time // as of when GitHub's answer on its state is known
	ListedAt  time.Time // when its repositories were last asked for; zero: they are about to be
	MembersAt time.Time // when GitHub was last asked who is in it; zero: never, as of a personal account
	Quota     Quota
}

// UserInstallation is an installation that GitHub shows somebody, and what became of it here.
type UserInstallation struct {
	PersonInstallation             // its OrgID is set with Org
	SeenAt             time.Time   // when GitHub said so
	Org                *Membership // the org that it is linked to, if they are a member of that
	LinkedElsewhere    bool        // it is linked to an org that they are no member of
}

// ProofLength is how long GitHub's word that somebody is an installation's admin is good for linking it.
const ProofLength = 10 * time.Minute

// ErrAskGitHub is a refusal that a trip through GitHub's sign-in may resolve, after which the same is asked again.
var ErrAskGitHub = Errorf(Forbidden, "What GitHub said of you is too old for this. Sign in with GitHub once more.")

// InstallationEvent is a hint that something about an installation changed. Deliveries get lost and reordered: what is true
// is read at GitHub.
type InstallationEvent struct {
	InstallationID int64
	OwnerID        int64 // GitHub's id of the account; 0: the event does not say
	Changed        InstallationChange
	PersonID       int64 // GitHub's id, for [InstallationPeople]; 0: the event does not say
}

// InstallationChange is what changed.
type InstallationChange string

// The changes, each with what tells the truth of it.
const (
	InstallationState        InstallationChange = "state"        // it is there, suspended, renamed, or has other permissions: [Repositories.Installation]
	InstallationRepositories InstallationChange = "repositories" // which it may see, and what they are: [Repositories.InstallationRepositories]
	InstallationPeople       InstallationChange = "people"       // who is in the organisation: [People.Members]
)

// OwnerType is GitHub's account type.
type OwnerType string

// The account types.
const (
	Organization OwnerType = "Organization"
	Personal     OwnerType = "User"
)

// JITPerMinute is how many JIT configs one installation may make per minute: writes cost 5 of GitHub's 900 secondary
// points a minute, which sustains 166 (terraform-aws-github-runner, docs/rate-limits-and-tuning.md).
const JITPerMinute = 166

// Repository is one GitHub repository of an installation.
type Repository struct {
	OrgID          OrgID
	ID             int64 // GitHub's
	InstallationID int64
	FullName       string // owner/name, display only
	Private        bool
}
