package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// Job is a job as the REST API shows it.
//
//	GET /api/v1/orgs/{org}/jobs?status=queued,in_progress&repository=owner/name&limit=50&cursor=…   → List[Job]
//	GET /api/v1/orgs/{org}/jobs/{job}                                                               → Job
type Job struct {
	ID          millrace.JobID `json:"id"`
	GitHubJobID int64          `json:"github_job_id"`
	RunID       int64          `json:"run_id"`
	RunAttempt  int            `json:"run_attempt"`
	Repository  string         `json:"repository"` // owner/name
	Workflow    string         `json:"workflow"`
	Name        string         `json:"name"`
	Branch      string         `json:"branch"`
	SHA         string         `json:"sha"`
	Actor       string         `json:"actor"`
	Labels      []string       `json:"labels"`
	HTMLURL     string         `json:"html_url"`
	Zone        millrace.Zone  `json:"zone"`

	Status     millrace.JobStatus `json:"status"`
	Conclusion string             `json:"conclusion"` // GitHub's; "" until completed
	RunnerName string             `json:"runner_name"`

	QueuedAt    *time.Time `json:"queued_at"`    // GitHub's clock
	StartedAt   *time.Time `json:"started_at"`   // GitHub's clock; null until in_progress
	CompletedAt *time.Time `json:"completed_at"` // GitHub's clock; null until completed
	ReceivedAt  *time.Time `json:"received_at"`  // our clock, when we first heard of it

	Arch millrace.Arch        `json:"arch"` // what the labels ask for; "" when they can't be parsed
	Size millrace.Size        `json:"size"`
	Wait *millrace.WaitReason `json:"wait"` // why it has no VM yet; null when it has one or needs none
	VM   *VM                  `json:"vm"`   // the one that runs or ran it, else the one launched for it; null without

	Timeline []TimelineStep `json:"timeline"`
}

// TimelineStep is a stage that a job has reached, in order: queued, placed, booting, online, running, done.
type TimelineStep struct {
	State string    `json:"state"`
	At    time.Time `json:"at"`
	MS    int64     `json:"ms"` // since queued, by the server's clock
}
