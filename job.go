package millrace

import "time"

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
	Wait    WaitReason // why it has no VM yet; zero when it has one or needs none
	Tries   int        // VMs launched for it that never came up
	Failure string     // why the last of them did not, in words
	RetryAt time.Time  // not placed before; zero: at once
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

// The reasons that placement can give.
const (
	WaitPlanLimit        WaitCode = "plan_limit"
	WaitNoHost           WaitCode = "no_host_matching_labels"
	WaitNoCapacity       WaitCode = "no_free_capacity"
	WaitHostUnavailable  WaitCode = "host_offline_or_draining"
	WaitLabelUnparseable WaitCode = "label_unparseable"
	WaitTooBig           WaitCode = "too_big_for_any_host"
	WaitRateLimited      WaitCode = "github_rate_limited"
	WaitSuspended        WaitCode = "app_suspended_or_uninstalled"
	WaitRetry            WaitCode = "vm_failed_retrying" // its last VM never came up; the text says why and when
)

// WaitReason is why a job has no VM: a code, and a sentence with its numbers and what to do.
type WaitReason struct {
	Code WaitCode `json:"code"`
	Text string   `json:"text"`
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
