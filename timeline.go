package millrace

import "time"

// Stage is a point in the way of a job that people see.
type Stage string

// The stages, in order.
const (
	StageQueued  Stage = "queued"  // we heard of it
	StagePlaced  Stage = "placed"  // a host was chosen
	StageBooting Stage = "booting" // its machine started
	StageOnline  Stage = "online"  // its runner is registered and connected
	StageRunning Stage = "running" // the runner was given the job
	StageDone    Stage = "done"    // the job has ended
)

// Reached is a stage and when a job reached it.
type Reached struct {
	Stage Stage
	At    time.Time
}

// Timeline is which stages j has reached, in order, by the server's clock. v is the VM that ran j or is meant for it,
// nil when there is none. A stage that was never observed is left out. GitHub's clock, in whole seconds, stands in for
// ours only where we have seen nothing better; no stage comes before the one in front of it.
func Timeline(j Job, v *VM) []Reached {
	var list []Reached
	add := func(s Stage, at time.Time) {
		if at.IsZero() {
			return
		}
		if n := len(list); n > 0 && at.Before(list[n-1].At) {
			at = list[n-1].At
		}
		list = append(list, Reached{s, at})
	}
	add(StageQueued, j.ReceivedAt)
	running, done := j.StartedAt, j.CompletedAt
	if v != nil {
		add(StagePlaced, v.Stamps.Placed)
		add(StageBooting, v.Stamps.Booting)
		add(StageOnline, v.Stamps.Online)
		if v.RanJob == j.ID || v.RanJob.IsZero() {
			running = firstTime(v.Stamps.Busy, running)
		}
		if v.RanJob == j.ID {
			done = firstTime(v.Stamps.Stopping, v.Stamps.Gone, done)
		}
	}
	if j.Status == JobInProgress || j.RunnerID != 0 {
		add(StageRunning, running)
	}
	if j.Status == JobCompleted {
		add(StageDone, done)
	}
	return list
}

// firstTime is the first of times that is not zero.
func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}
