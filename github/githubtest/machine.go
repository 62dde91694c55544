package githubtest

import (
	"errors"
	"fmt"
)

// What a runner does, without a network: the broker's calls end here, and a loop that owns time makes them itself.

// What a runner's calls are refused with.
var (
	ErrGone      = errors.New("the runner's registration is gone")
	ErrCancelled = errors.New("the job was cancelled")
	ErrTooOld    = fmt.Errorf(saysTooOld, runnerVersion)
)

// Connect opens the runner's session: it is online, and may be given a job at once. ErrGone: it is not registered;
// ErrTooOld: GitHub serves its version no more, and it ends.
func (g *GitHub) Connect(runnerID int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	run, err := g.heard(runnerID)
	if err != nil {
		return err
	}
	return g.connect(run)
}

// PickUp has the runner take the job that it was given, which is then in progress; a repeat answers the same. False: it
// was given none, or is registered no more.
func (g *GitHub) PickUp(runnerID int64) (BrokerJob, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	run, err := g.heard(runnerID)
	if err != nil {
		return BrokerJob{}, false
	}
	return g.pickUp(run)
}

// Finish ends the runner's job with success, failure or cancelled, which it is in any case once somebody cancelled it.
// The runner vanishes. One without a job that runs finishes nothing.
func (g *GitHub) Finish(runnerID int64, conclusion string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if run, err := g.heard(runnerID); err == nil && run.job != nil && run.job.Status == "in_progress" {
		g.finish(run.job, conclusion)
	}
}

// Alive says that the runner was heard; one that is silent for a minute is offline, and after ten it has lost its job.
// ErrGone: it is not registered; ErrCancelled: it should end its job.
func (g *GitHub) Alive(runnerID int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	run, err := g.heard(runnerID)
	switch {
	case err != nil:
		return err
	case run.job != nil && run.job.cancelled:
		return ErrCancelled
	}
	g.findJob(run)
	return nil
}

// Disconnect ends the runner's session: it is offline. What it was given stays its own until GitHub notices.
func (g *GitHub) Disconnect(runnerID int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if run, ok := g.runners[runnerID]; ok {
		run.session = false
		g.noted(run)
	}
}

// heard finds a runner that made a call.
func (g *GitHub) heard(runnerID int64) (*runner, error) {
	run, ok := g.runners[runnerID]
	if !ok || run.crashed {
		return nil, ErrGone
	}
	run.seen = g.cfg.Now()
	return run, nil
}

func (g *GitHub) connect(run *runner) error {
	if g.faults.RunnerVersionTooOld.has(run.Owner) {
		return ErrTooOld
	}
	if !run.met {
		run.met, run.ignored = true, g.roll(g.faults.NeverAssign)
	}
	run.session = true
	g.noted(run)
	g.findJob(run)
	return nil
}

func (g *GitHub) pickUp(run *runner) (BrokerJob, bool) {
	j := run.job
	if j == nil {
		return BrokerJob{}, false
	}
	if j.Status == "queued" {
		j.Status, j.StartedAt, j.ran, j.RunnerID, j.RunnerName = "in_progress", g.now(), g.cfg.Now(), run.ID, run.Name
		g.changed(j)
		g.send(j, "in_progress")
		if g.roll(g.faults.CrashAfterAssign) {
			run.crashed, run.session = true, false
			g.noted(run)
			return BrokerJob{}, false
		}
	}
	out := BrokerJob{ID: j.ID, RunID: j.RunID, Repository: j.Owner + "/" + j.Repo, Name: j.Name, Env: map[string]string{
		"GITHUB_ACTOR": j.Actor, "GITHUB_REF_NAME": j.Branch, "GITHUB_WORKFLOW": j.Workflow, "GITHUB_SHA": j.sha(),
	}}
	for i, s := range j.Steps {
		out.Steps = append(out.Steps, BrokerStep{i + 1, s.Name, s.Run})
	}
	return out, true
}

func (g *GitHub) finish(j *job, conclusion string) {
	if j.cancelled {
		conclusion = "cancelled"
	}
	g.complete(j, conclusion)
}
