package millrace

import (
	"slices"
	"time"
)

// JobStatus is GitHub's status of a workflow job. The statuses are ordered: a job never goes back.
type JobStatus string

// The statuses, in order.
const (
	JobWaiting    JobStatus = "waiting" // for an environment's approval
	JobQueued     JobStatus = "queued"
	JobInProgress JobStatus = "in_progress"
	JobCompleted  JobStatus = "completed"
)

// JobStatuses are all statuses in order.
var JobStatuses = []JobStatus{JobWaiting, JobQueued, JobInProgress, JobCompleted}

// After reports whether s comes after o in a job's life.
func (s JobStatus) After(o JobStatus) bool {
	return slices.Index(JobStatuses, s) > slices.Index(JobStatuses, o)
}

// ConclusionStale is the conclusion of a job whose end GitHub never told: it knows the job no more.
const ConclusionStale = "stale"

// Job is one attempt of one GitHub workflow job. Its row is the join of all events seen of it, so their order and
// number don't matter. A re-run is another Job.
type Job struct {
	OrgID          OrgID
	ID             JobID
	InstallationID int64
	GitHubID       int64
	RunID          int64
	RunAttempt     int
	RepositoryID   int64
	Repository     string // owner/name, display only
	Private        bool
	Zone           Zone
	ZoneKnown      bool // false: whether it comes from a fork is still to be asked of GitHub
	Workflow       string
	Name           string
	Branch         string
	SHA            string
	ActorID        int64
	Actor          string // login, display only
	Labels         []string
	HTMLURL        string
	Status         JobStatus
	Conclusion     string // GitHub's, "" until completed
	RunnerID       int64  // GitHub's, 0 until in_progress; stays 0 when cancelled while queued
	RunnerName     string
	QueuedAt       time.Time // GitHub's clock, whole seconds
	StartedAt      time.Time // GitHub's clock; zero until in_progress
	CompletedAt    time.Time // GitHub's clock; zero until completed
	ReceivedAt     time.Time // our clock, when we first heard of it

	Demand  Demand     // what the labels ask for; zero when they can't be parsed
	Wait    WaitReason // why it does not run yet, as placement saw it; see [Job.Waiting] for what to show
	Tries   int        // VMs launched for it that never came up
	Failure string     // why the last of them did not, in words
	RetryAt time.Time  // not placed before; zero: at once. Without tries: its VM ran a job that is not known yet
}

// JobEvent is what one workflow_job delivery says of a job.
type JobEvent struct {
	Action         string
	InstallationID int64
	OwnerID        int64
	OwnerLogin     string
	Job            Job // OrgID, ID, ReceivedAt, Demand, Wait, Tries, Failure and RetryAt are not the event's to say
}

// WaitCode names why a job waits. The same words stand on pages, in the API and in the CLI.
type WaitCode string

// The reasons, in the order in which a job meets them.
const (
	WaitLabelUnparseable   WaitCode = "label_unparseable"
	WaitPublicOff          WaitCode = "public_repositories_off"
	WaitForksOff           WaitCode = "fork_pull_requests_off"
	WaitZoneSize           WaitCode = "too_big_for_zone"
	WaitSuspended          WaitCode = "app_suspended_or_uninstalled"
	WaitPermission         WaitCode = "permission_not_accepted"
	WaitSelfHostedDisabled WaitCode = "self_hosted_disabled_by_org"
	WaitIPAllowList        WaitCode = "ip_allow_list"
	WaitRunnerGroup        WaitCode = "runner_group_excludes_repo"
	WaitRunnerGroupFull    WaitCode = "runner_group_full"
	WaitRunnerVersion      WaitCode = "runner_version_too_old"
	WaitGitHubDown         WaitCode = "github_api_down"
	WaitRateLimited        WaitCode = "github_rate_limited"
	WaitZoneMismatch       WaitCode = "zone_mismatch" // no job waits for it: it is the incident alone
	WaitZoneUnknown        WaitCode = "zone_unknown"
	WaitRetry              WaitCode = "vm_failed_retrying" // its last VM never came up; the text says why and when
	WaitRepositoryLimit    WaitCode = "repository_limit"
	WaitNoHost             WaitCode = "no_host_matching_labels"
	WaitZoneHosts          WaitCode = "no_host_for_zone"
	WaitTooBig             WaitCode = "too_big_for_any_host"
	WaitHostUnavailable    WaitCode = "host_offline_or_draining"
	WaitHostKept           WaitCode = "host_kept_free"
	WaitNoCapacity         WaitCode = "no_free_capacity"
	WaitPlanLimit          WaitCode = "plan_limit"
	WaitBooting            WaitCode = "booting"
	WaitRegistering        WaitCode = "runner_registering"
	WaitForGitHub          WaitCode = "waiting_for_github_to_assign"
	WaitUnknown            WaitCode = "unknown" // not decided yet
)

// WaitReason is why a queued job does not run yet. Its zero value is no reason.
type WaitReason struct {
	Code     WaitCode  `json:"code"`
	Text     string    `json:"text"`               // what it waits for, with its numbers
	Remedy   string    `json:"remedy"`             // what a person can do about it
	Estimate *Estimate `json:"estimate,omitempty"` // when it is likely to start; nil when nothing is known
}

// Estimate is when a job is likely to start: the earliest and the latest likely time by the server's clock, and what
// that is based on, in words.
type Estimate struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Basis string    `json:"basis"`
}

// Like reports whether w says at time now what o said: the same words, and an estimate that has not moved by more than a
// fifth of the time that is left, and 5 s. Reasons are stored when they are no longer like the stored one: each pass moves
// each estimate a little.
func (w WaitReason) Like(o WaitReason, now time.Time) bool {
	a, b := w.Estimate, o.Estimate
	if w.Code != o.Code || w.Text != o.Text || w.Remedy != o.Remedy || (a == nil) != (b == nil) {
		return false
	}
	near := func(x, y time.Time) bool { return x.Sub(y).Abs() <= 5*time.Second+x.Sub(now).Abs()/5 }
	return a == nil || a.Basis == b.Basis && near(a.From, b.From) && near(a.To, b.To)
}

// Durations are what is known of how long something took: n times, of which half took at most P50 and nine in ten at
// most P90 (nearest rank).
type Durations struct {
	N        int
	P50, P90 time.Duration
}

// Backoff is how long a job waits for its next VM after tries of them never came up: 5 s doubled each time, 5 min at
// the most.
func Backoff(tries int) time.Duration {
	const first, last = 5 * time.Second, 5 * time.Minute
	if tries <= 0 {
		return 0
	}
	if tries > 6 {
		return last
	}
	return min(first<<(tries-1), last)
}
