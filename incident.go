package millrace

import (
	"errors"
	"time"
)

// Incident is a named, customer-visible condition that stops jobs of one installation, or of one of its repositories.
// There is at most one open incident of a code, installation and repository. The system opens it when GitHub's answer
// names the condition and closes it when the condition no longer holds; meanwhile no VM is launched for the jobs
// concerned, and no try of theirs is counted. [WaitZoneMismatch] stops nothing: what it tells of is over, and it closes
// when that has not happened again for an hour.
type Incident struct {
	OrgID          OrgID
	ID             IncidentID
	Code           WaitCode // one of [IncidentCodes]; jobs that it stops wait for the same
	InstallationID int64
	Owner          string // the installation's GitHub owner, display only
	RepositoryID   int64  // 0: the whole installation
	Repository     string // owner/name, display only
	Detail         string // what GitHub said
	OpenedAt       time.Time
	SeenAt         time.Time // when the condition was last met
	ProbeAt        time.Time // when it is next looked whether it still holds
	ClosedAt       time.Time // zero while it is open
}

// Condition is the error of a call that GitHub refused for a reason that stops jobs, not only this call.
type Condition struct {
	Code   WaitCode
	Detail string    // what GitHub said
	Until  time.Time // GitHub asks not to be called before; zero: it names no time
}

// Error is what GitHub said.
func (c *Condition) Error() string { return string(c.Code) + ": " + c.Detail }

// ConditionOf is the first *Condition in err's chain; nil when there is none.
func ConditionOf(err error) *Condition {
	var c *Condition
	if errors.As(err, &c) {
		return c
	}
	return nil
}

// incidents is all that is said of a condition: what it is, what an admin of the GitHub owner can do, and how often it
// is looked whether it still holds.
var incidents = map[WaitCode]struct {
	title, remedy string
	probe         time.Duration
}{
	WaitSelfHostedDisabled: {
		"Self-hosted runners are disabled in this GitHub organisation",
		"An owner of the organisation allows them for its repositories under Settings → Actions → General → Runners.", time.Minute,
	},
	WaitSuspended: {
		"The GitHub App is suspended or uninstalled",
		"An owner of the GitHub account unsuspends or installs the App under Settings → GitHub Apps.", time.Minute,
	},
	WaitPermission: {
		"The GitHub App lacks a permission",
		"An owner of the GitHub account accepts the App's new permissions under Settings → GitHub Apps → Millrace → Review request.", time.Minute,
	},
	WaitIPAllowList: {
		"The organisation's IP allow list refuses Millrace",
		"An owner of the organisation adds Millrace's addresses, or allows those of installed GitHub Apps, under Settings → Authentication security → IP allow list.", time.Minute,
	},
	WaitRunnerGroup: {
		"The runner group excludes the repository",
		"An owner of the organisation lets the runner group be used by this repository (and by public repositories, if it is one) under Settings → Actions → Runner groups.", time.Minute,
	},
	WaitRunnerGroupFull: {
		"The runner group is full",
		"GitHub holds at most 10,000 runners in a group. Remove old ones under Settings → Actions → Runners.", time.Minute,
	},
	WaitRateLimited: {
		"GitHub's rate limit is used up",
		"It goes on by itself. Other Apps and scripts that use the same limit slow it down.", 15 * time.Second,
	},
	WaitRunnerVersion: {
		"GitHub refuses the runner's version as too old",
		"Update the runner in the image, then restart the hosts' agents. GitHub refuses versions 30 days after a newer one.", 15 * time.Minute,
	},
	WaitZoneMismatch: {
		"A job was given a VM of another zone",
		"A VM that ran such a job was ended. GitHub picks runners by their labels alone. Give public repositories and pull requests from forks labels of their own in runs-on, and keep the runner group from public repositories under Settings → Actions → Runner groups.", time.Hour,
	},
	WaitGitHubDown: {
		"GitHub's API does not answer",
		"It goes on by itself when GitHub is back; see https://www.githubstatus.com.", 15 * time.Second,
	},
}

// IncidentCodes are the codes that an incident can have, in order of the alphabet.
var IncidentCodes = []WaitCode{
	WaitSuspended, WaitGitHubDown, WaitRateLimited, WaitIPAllowList, WaitPermission, WaitRunnerGroup, WaitRunnerGroupFull,
	WaitRunnerVersion, WaitSelfHostedDisabled, WaitZoneMismatch,
}

// StopsCalls are the codes of the incidents during which GitHub is not called for the installation at all, but to look
// whether they still hold.
var StopsCalls = []WaitCode{WaitSuspended, WaitIPAllowList, WaitRateLimited, WaitGitHubDown}

// IsIncident reports whether c names a condition that opens an incident.
func (c WaitCode) IsIncident() bool {
	_, ok := incidents[c]
	return ok
}

// ProbeEvery is how often it is looked whether an incident of code c still holds.
func (c WaitCode) ProbeEvery() time.Duration { return incidents[c].probe }

// Remedy says what a person can do about an incident of code c.
func (i Incident) Remedy() string { return i.Code.Remedy() }

// Open reports whether the condition still holds.
func (i Incident) Open() bool { return i.ClosedAt.IsZero() }

// Stops reports whether the incident stops jobs of this installation and repository.
func (i Incident) Stops(installation, repository int64) bool {
	return i.Open() && i.Code != WaitZoneMismatch && i.InstallationID == installation && (i.RepositoryID == 0 || i.RepositoryID == repository)
}
