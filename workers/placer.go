package workers

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
)

// The placer runs one pass per org at a time in this process (an advisory lock keeps those of other processes apart). Its
// decisions are [Step]'s; [Workers.placeForever] only carries them out.

// PlacerState is what the placer knows. The zero value knows nothing.
type PlacerState struct {
	Orgs map[millrace.OrgID]OrgState
}

// OrgState is what the placer knows of one org.
type OrgState struct {
	Asked    store.Asked // since the running or last pass began
	Waits    bool        // when the last pass ended, a job had no VM
	Running  bool        // a pass is under way
	NextAt   time.Time   // when the same facts would give another decision, or what can wait has waited; zero: never
	Failures int         // passes that failed in a row
}

// idle reports whether there is nothing to know of an org.
func (o OrgState) idle() bool {
	return len(o.Asked.Commits) == 0 && !o.Waits && !o.Running && o.NextAt.IsZero() && o.Failures == 0
}

// urgent reports whether what was asked for can't wait.
func (o OrgState) urgent() bool {
	return o.Asked.Urgency == store.AtOnce || o.Asked.Urgency == store.ForRoom && o.Waits
}

// wait has what can wait wait for a pass.
func (o OrgState) wait(now time.Time) OrgState {
	if len(o.Asked.Commits) > 0 && !o.urgent() && (o.Running || o.Failures == 0) {
		o.NextAt = sooner(o.NextAt, now.Add(waitsFor))
	}
	return o
}

// PlacerEvent is something that happened.
type PlacerEvent interface{ placerEvent() }

type (
	// Announced says that the demand of some orgs may have changed.
	Announced struct{ Demand store.Demand }
	// PassDone says that a pass ended; NextAt as in [millrace.Decision], Waits as in [store.Placed].
	PassDone struct {
		Org    millrace.OrgID
		NextAt time.Time
		Waits  bool
		Failed bool
	}
	// Woken says that the time of [PlacerState.Wake] has come.
	Woken struct{}
)

func (Announced) placerEvent() {}
func (PassDone) placerEvent()  {}
func (Woken) placerEvent()     {}

// RunPass is the one thing that the placer has done: a pass for an org, whose end is a [PassDone].
type RunPass struct {
	Org   millrace.OrgID
	Asked store.Asked
}

// Step is the placer's decision: what happened, now, and what to do. An announcement during a pass starts another one
// after it, for the pass may have read before the announced commit; any number of announcements start one.
func Step(s PlacerState, event PlacerEvent, now time.Time) (PlacerState, []RunPass) {
	s.Orgs = maps.Clone(s.Orgs)
	if s.Orgs == nil {
		s.Orgs = map[millrace.OrgID]OrgState{}
	}
	switch e := event.(type) {
	case Announced:
		for org, asked := range e.Demand {
			o := s.Orgs[org]
			o.Asked = o.Asked.And(asked)
			s.Orgs[org] = o.wait(now)
		}
	case PassDone:
		o := s.Orgs[e.Org]
		o.Running = false
		if e.Failed {
			o.Failures++
			o.NextAt = now.Add(retryPass(o.Failures))
			o.Asked = store.Unknown // what it was to see
		} else {
			o.Failures, o.Waits = 0, e.Waits
			o.NextAt = sooner(o.NextAt, e.NextAt)
			o = o.wait(now)
		}
		if s.Orgs[e.Org] = o; o.idle() {
			delete(s.Orgs, e.Org) // or each step would look at every org that ever had a job
		}
	case Woken:
	}
	var run []RunPass
	for _, org := range slices.Sorted(maps.Keys(s.Orgs)) {
		o := s.Orgs[org]
		due := !o.NextAt.IsZero() && !o.NextAt.After(now)
		if o.Running || !due && (!o.urgent() || o.Failures > 0) {
			continue
		}
		run = append(run, RunPass{org, o.Asked})
		o.Running, o.Asked, o.NextAt = true, store.Asked{}, time.Time{}
		s.Orgs[org] = o
	}
	return s, run
}

// Wake is when [Woken] is due next; zero: never.
func (s PlacerState) Wake() (at time.Time) {
	for _, o := range s.Orgs {
		if !o.Running {
			at = sooner(at, o.NextAt)
		}
	}
	return at
}

// sooner is the earlier of two times of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// retryPass is how long to wait after a number of failed passes: 100 ms doubled each time, 10 s at the most.
func retryPass(failures int) time.Duration {
	return min(100*time.Millisecond<<min(failures-1, 7), 10*time.Second)
}

// waitsFor is how long what can wait waits for a pass that places something: most passes would only tie a VM to its job, or see
// that one has ended.
const waitsFor = 200 * time.Millisecond

const (
	// pollDemand is how often all orgs are looked at: an announcement can be lost.
	pollDemand = 10 * time.Second
	// passes is how many orgs are placed for at the same time in one process.
	passes = 4
)

// placeForever carries out what [Step] decides until ctx ends and the passes under way have ended.
func (w *Workers) placeForever(ctx context.Context) error {
	var state PlacerState
	running := 0
	done := make(chan PassDone)
	slots := make(chan struct{}, passes)
	timer := time.NewTimer(0)
	defer timer.Stop()
	nextPoll := time.Now()
	for {
		var event PlacerEvent
		select {
		case pass := <-done:
			running--
			event = pass
		case <-w.store.Bus.Demands():
			demand, all := w.store.Bus.TakeDemand()
			if all {
				nextPoll = time.Now()
			}
			event = Announced{demand}
		case <-timer.C:
			event = Woken{}
		case <-ctx.Done():
			for ; running > 0; running-- {
				<-done
			}
			return nil
		}
		events := []PlacerEvent{event}
		if now := time.Now(); !nextPoll.After(now) {
			nextPoll = now.Add(pollDemand)
			demand, err := w.store.OrgsWithDemand(ctx)
			if err != nil && ctx.Err() == nil {
				w.log.Error("looking for demand failed; trying again", "error", err)
			}
			events = append(events, Announced{demand})
		}
		for _, event := range events {
			var run []RunPass
			state, run = Step(state, event, time.Now())
			for _, pass := range run {
				running++
				go func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					done <- w.pass(ctx, pass)
				}()
			}
		}
		at := nextPoll
		if wake := state.Wake(); !wake.IsZero() && wake.Before(at) {
			at = wake
		}
		timer.Reset(time.Until(at))
	}
}

func (w *Workers) pass(ctx context.Context, p RunPass) PassDone {
	placed, err := w.store.Place(ctx, p.Org, p.Asked, scheduler.Decide)
	if err != nil && ctx.Err() == nil {
		w.log.Error("a placement pass failed; trying again", "org", p.Org, "error", err)
	}
	if placed.VMs > 0 {
		w.log.Debug("placed", "org", p.Org, "vms", placed.VMs)
	}
	done := PassDone{Org: p.Org, Waits: placed.Waits, Failed: err != nil}
	if !placed.NextAt.IsZero() {
		// By this process's clock: were it ahead of the database's, an absolute time would be due at once, again and again.
		done.NextAt = time.Now().Add(max(placed.NextAt.Sub(placed.At), time.Millisecond))
	}
	return done
}
