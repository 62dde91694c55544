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
	Wait *millrace.WaitReason `json:"wait"` // why it does not run yet; null unless it is queued
	VM   *VM                  `json:"vm"`   // the one that runs or ran it, else the one launched for it; null without

	Timeline []TimelineStep `json:"timeline"`
}

// TimelineStep is a stage that a job has reached, see [millrace.Timeline].
type TimelineStep struct {
	State millrace.Stage `json:"state"`
	At    time.Time      `json:"at"`
	MS    int64          `json:"ms"` // since queued, by the server's clock
}

// NewJob is j on the wire; v is the VM that ran it or is meant for it, on the host named host, or nil.
func NewJob(j millrace.Job, v *millrace.VM, host string) Job {
	out := Job{
		ID:          j.ID,
		GitHubJobID: j.GitHubID,
		RunID:       j.RunID,
		RunAttempt:  j.RunAttempt,
		Repository:  j.Repository,
		Workflow:    j.Workflow,
		Name:        j.Name,
		Branch:      j.Branch,
		SHA:         j.SHA,
		Actor:       j.Actor,
		Labels:      append([]string{}, j.Labels...),
		HTMLURL:     j.HTMLURL,
		Zone:        j.Zone,
		Status:      j.Status,
		Conclusion:  j.Conclusion,
		RunnerName:  j.RunnerName,
		QueuedAt:    Time(j.QueuedAt),
		StartedAt:   Time(j.StartedAt),
		CompletedAt: Time(j.CompletedAt),
		ReceivedAt:  Time(j.ReceivedAt),
		Arch:        j.Demand.Arch,
		Size:        j.Demand.Size,
		Timeline:    []TimelineStep{},
	}
	if w := j.Waiting(v); w.Code != "" {
		if e := w.Estimate; e != nil {
			w.Estimate = &millrace.Estimate{From: e.From.UTC(), To: e.To.UTC(), Basis: e.Basis}
		}
		out.Wait = &w
	}
	if v != nil {
		vm := NewVM(*v, host)
		out.VM = &vm
	}
	timeline := millrace.Timeline(j, v)
	for _, r := range timeline {
		ms := r.At.Sub(timeline[0].At).Milliseconds()
		out.Timeline = append(out.Timeline, TimelineStep{State: r.Stage, At: r.At.UTC(), MS: ms})
	}
	return out
}
