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

// UserInstallation is an installation as a person may see it, by what GitHub said when it was last asked.
type UserInstallation struct {
	Installation
	Member bool // they belong to the account
	Admin  bool // they own it: they may link the installation to an org
	SeenAt time.Time
	Org    *Membership // the org that it is linked to, if they are a member there
	// LinkedElsewhere says that it is linked to an org that they are no member of.
	LinkedElsewhere bool
}

// ProofLength is how long GitHub's word that somebody owns an account is good for linking an installation of it.
const ProofLength = 10 * time.Minute

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
