package githubtest

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// job is a workflow job, of one attempt of its run.
type job struct {
	ID, RunID                     int64
	Attempt                       int
	Owner, Repo                   string
	Workflow, Name, Actor, Branch string
	Labels                        []string
	Public, Fork                  bool
	Status, Conclusion            string
	Steps                         []*step
	RunnerID                      int64
	RunnerName                    string
	CreatedAt                     time.Time
	StartedAt, CompletedAt        time.Time
	Log                           string
	Next                          int64 // the job of a later attempt that runs it again

	run        *run
	runner     *runner // it was given to
	assignedAt time.Time
	cancelled  bool

	// The same moments to the nanosecond, for reads that lag behind; ran is zero when it never ran.
	queued, ran, ended time.Time
}

type step struct {
	Name, Run          string
	Status, Conclusion string
	StartedAt, EndedAt time.Time
}

// maxLog bounds what is kept of one job's log.
const maxLog = 4 << 20

// QueueRequest is a job to queue, as POST /_standin/jobs takes it.
type QueueRequest struct {
	Owner    string      `json:"owner"`
	Repo     string      `json:"repo"`
	Workflow string      `json:"workflow"`
	Name     string      `json:"name"`
	Labels   []string    `json:"labels"`
	Steps    []QueueStep `json:"steps"`
	Actor    string      `json:"actor"`
	Branch   string      `json:"branch"`
	Public   bool        `json:"public"`
	Fork     bool        `json:"fork"`   // of a pull request from the actor's fork
	RunID    int64       `json:"run_id"` // an open run of the repository, which the job joins; 0: a run of its own
}

// QueueStep is one step of a job: a name and what the shell runs.
type QueueStep struct {
	Name string `json:"name"`
	Run  string `json:"run"`
}

// Queue queues a job and sends its webhook, as GitHub would. The error says what is wrong with the request.
func (g *GitHub) Queue(in QueueRequest) (id int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.owners[strings.ToLower(in.Owner)]
	joined := g.runs[in.RunID]
	switch {
	case !ok:
		return 0, refuse(404, "there is no owner %q with the App installed", in.Owner)
	case in.Repo == "" || strings.ContainsAny(in.Repo, "/ "):
		return 0, refuse(422, "repo is the repository's name without its owner; got %q", in.Repo)
	case len(in.Labels) == 0:
		return 0, refuse(422, "labels are what stands in runs-on; give at least one")
	case in.RunID != 0 && (joined == nil || joined.repo != g.repos[strings.ToLower(in.Owner+"/"+in.Repo)]):
		return 0, refuse(422, "run_id %d is no run of this repository", in.RunID)
	case joined != nil && joined.unfinished == 0:
		return 0, refuse(422, "run %d is completed; run its jobs again instead", in.RunID)
	}
	j := &job{
		ID: g.nextID(), Owner: o.Login, Repo: in.Repo, Workflow: cmp.Or(in.Workflow, "ci"), Name: cmp.Or(in.Name, "build"),
		Actor: cmp.Or(in.Actor, "mona"), Branch: cmp.Or(in.Branch, "main"), Labels: in.Labels, Public: in.Public, Fork: in.Fork,
	}
	if joined != nil {
		j.RunID, j.Workflow, j.Actor, j.Branch, j.Attempt = joined.ID, joined.first().Workflow, joined.first().Actor, joined.first().Branch, joined.attempt
	} else {
		j.RunID, j.Attempt = g.nextID(), 1
	}
	for i, s := range in.Steps {
		j.Steps = append(j.Steps, &step{Name: cmp.Or(s.Name, fmt.Sprintf("Step %d", i+1)), Run: s.Run})
	}
	g.enqueue(j)
	return j.ID, nil
}

// enqueue makes j a queued job of its run, says so, and gives it to a runner if one is idle.
func (g *GitHub) enqueue(j *job) {
	j.Status, j.queued = "queued", g.cfg.Now()
	j.CreatedAt = g.now()
	for _, s := range j.Steps {
		s.Status = "queued"
	}
	g.add(j)
	g.send(j, "queued")
	g.findRunner(j)
}

// add puts a job into every index.
func (g *GitHub) add(j *job) {
	r, ok := g.runs[j.RunID]
	if !ok {
		r = &run{ID: j.RunID, repo: g.repo(j.Owner, j.Repo)}
		g.runs[r.ID] = r
		r.repo.runs = put(r.repo.runs, r)
	}
	j.run, r.attempt = r, max(r.attempt, j.Attempt)
	r.jobs = append(r.jobs, j)
	r.repo.Public, r.repo.forked = j.Public, r.repo.forked || j.Fork
	g.jobs[j.ID] = j
	g.order = append(g.order, j)
	if j.Status == "completed" { // it was loaded
		r.updatedAt = later(r.updatedAt, j.CompletedAt)
		return
	}
	g.open = put(g.open, j)
	r.unfinished++
	r.repo.open = put(r.repo.open, r)
	if j.Status == "queued" {
		p := g.pool(j.Owner)
		p.waiting = put(p.waiting, j)
	}
	g.changed(j)
}

func (j *job) sha() string {
	sum := sha1.Sum([]byte(j.Owner + "/" + j.Repo + "@" + j.Branch))
	return hex.EncodeToString(sum[:])
}

// Cancel cancels a job as a person would: at once when it is queued, otherwise its runner is told and ends it.
func (g *GitHub) Cancel(jobID int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if j, ok := g.jobs[jobID]; ok {
		g.cancel(j)
	}
}

func (g *GitHub) cancel(j *job) {
	if j.Status == "completed" {
		return
	}
	told := j.cancelled
	j.cancelled = true
	if j.Status == "in_progress" && j.runner != nil && !j.runner.removed {
		if !told {
			j.runner.rouse()
		}
		return // the runner ends it
	}
	r := j.runner
	if r != nil {
		g.takeBack(j)
	}
	g.complete(j, "cancelled")
	if r != nil {
		g.findJob(r)
	}
}

// Rerun runs a job of a completed run again: a new job of the same run, in its next attempt.
func (g *GitHub) Rerun(jobID int64) (newID int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j, ok := g.jobs[jobID]
	if !ok {
		return 0, refuse(404, "there is no job %d", jobID)
	}
	again, err := g.rerun(j)
	if err != nil {
		return 0, err
	}
	return again[0].ID, nil
}

// rerun queues these jobs of one run again, in one new attempt.
func (g *GitHub) rerun(jobs ...*job) (again []*job, err error) {
	r := jobs[0].run
	switch {
	case r.unfinished > 0:
		return nil, refuse(403, saysRunning)
	case slices.ContainsFunc(jobs, func(j *job) bool { return j.Next != 0 }):
		return nil, refuse(403, saysNotRetried)
	}
	attempt := r.attempt + 1
	for _, j := range jobs {
		n := &job{
			ID: g.nextID(), RunID: j.RunID, Attempt: attempt, Owner: j.Owner, Repo: j.Repo, Workflow: j.Workflow, Name: j.Name, Actor: j.Actor,
			Branch: j.Branch, Labels: j.Labels, Public: j.Public, Fork: j.Fork,
		}
		for _, s := range j.Steps {
			n.Steps = append(n.Steps, &step{Name: s.Name, Run: s.Run})
		}
		j.Next = n.ID
		g.enqueue(n)
		again = append(again, n)
	}
	return again, nil
}

// complete ends a job and removes its runner.
func (g *GitHub) complete(j *job, conclusion string) {
	if j.Status == "completed" {
		return
	}
	p := g.pool(j.Owner)
	p.waiting = drop(p.waiting, j)
	g.open = drop(g.open, j)
	now := g.now()
	if j.StartedAt.IsZero() {
		j.StartedAt = now
	}
	j.Status, j.Conclusion, j.CompletedAt, j.ended = "completed", conclusion, now, g.cfg.Now()
	for _, s := range j.Steps {
		if s.Status != "completed" {
			s.Status, s.Conclusion = "completed", "skipped"
			if conclusion == "cancelled" {
				s.Conclusion = "cancelled"
			}
		}
	}
	if j.runner != nil && j.RunnerID != 0 {
		j.runner.job = nil
		g.remove(j.runner)
	}
	r := j.run
	if r.unfinished--; r.unfinished == 0 {
		r.repo.open = drop(r.repo.open, r)
		r.repo.closed = append(r.repo.closed, r)
		r.closed = g.cfg.Now()
	}
	g.changed(j)
	g.send(j, "completed")
}

// lose ends a job whose runner is gone.
func (g *GitHub) lose(j *job) {
	j.Log += "The self-hosted runner lost communication with the server.\n"
	if j.cancelled {
		g.complete(j, "cancelled")
		return
	}
	g.complete(j, "failure")
}

// at is the job as it was at a moment; nil before it was queued.
func (j *job) at(t time.Time) *job {
	switch {
	case t.Before(j.queued):
		return nil
	case !t.Before(later(j.queued, later(j.ran, j.ended))):
		return j
	}
	was := *j
	was.Status, was.Conclusion, was.CompletedAt = "in_progress", "", time.Time{}
	if j.ran.IsZero() || t.Before(j.ran) {
		was.Status, was.RunnerID, was.RunnerName, was.StartedAt = "queued", 0, "", time.Time{}
	}
	return &was
}
