package workers

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

const (
	maxSweepPages = 100                // of 100 deliveries: what an outage left beyond is found by polls
	giveUpAfter   = 3 * 24 * time.Hour // each try is a delivery of its own, which GitHub keeps for as long
)

// sweepDeliveries has GitHub deliver again what failed: GitHub does not by itself. Tries of one delivery share its GUID; if
// none of them was answered with success, the newest is repeated. The next sweep begins where everything is dealt with, so
// that a sweep that ends early, or a delivery whose next try is not due, is taken up again.
func (w *Workers) sweepDeliveries(ctx context.Context) error {
	sweep, err := w.store.BeginSweep(ctx)
	if err != nil {
		return err
	}
	upTo := sweep.At
	seen := map[string]bool{} // GUIDs whose newest try was met, or that were delivered
	cursor := ""
	for range maxSweepPages {
		page, next, err := w.github.DeliveryTries(ctx, cursor)
		if err != nil {
			return err
		}
		oldest, err := w.redeliver(ctx, page, sweep, seen)
		if err != nil {
			return err
		}
		if !oldest.IsZero() && oldest.Before(upTo) {
			upTo = oldest
		}
		if next == "" || len(page) > 0 && page[len(page)-1].DeliveredAt.Before(sweep.Since) {
			break
		}
		cursor = next
	}
	return w.store.EndSweep(ctx, upTo)
}

// redeliver asks for the deliveries of a page that are due, and returns when the oldest of those that are not due yet was
// delivered; zero when there is none.
func (w *Workers) redeliver(ctx context.Context, page []millrace.DeliveryTry, sweep store.Sweep, seen map[string]bool) (pending time.Time, err error) {
	var failed []millrace.DeliveryTry
	var guids []string
	for _, d := range page {
		if d.OK { // whether before a try that failed or after it
			seen[d.GUID] = true
		}
	}
	for _, d := range page { // newest first
		if !seen[d.GUID] && !d.OK && !d.DeliveredAt.Before(sweep.Since) && worthRepeating(d.StatusCode) && sweep.At.Sub(d.DeliveredAt) < giveUpAfter {
			failed, guids = append(failed, d), append(guids, d.GUID)
		}
		seen[d.GUID] = true
	}
	if len(failed) == 0 {
		return pending, nil
	}
	known, err := w.store.Redeliveries(ctx, guids)
	if err != nil {
		return pending, err
	}
	for _, d := range failed {
		r := known[d.GUID]
		switch {
		case r.Done[d.ID], r.Tries > 0 && sweep.At.Sub(r.First) >= giveUpAfter:
			continue
		case r.Tries > 0 && sweep.At.Before(r.Last.Add(redeliverAfter(r.Tries))):
			pending = d.DeliveredAt
			continue
		}
		err := w.github.Redeliver(ctx, d.ID)
		if err != nil && millrace.CodeOf(err) != millrace.NotFound {
			return pending, err
		}
		if err := w.store.SaveRedelivery(ctx, d); err != nil {
			return pending, err
		}
	}
	return pending, nil
}

// worthRepeating reports whether a delivery that we answered so may fare better: what we can't read, or is too large, will
// not.
func worthRepeating(status int) bool { return status != 400 && status != 413 }

// redeliverAfter is the pause before a further try: 1 min doubled each time, an hour at the most.
func redeliverAfter(tries int) time.Duration { return min(time.Minute<<min(tries-1, 6), time.Hour) }

// sweepRunners removes registrations at GitHub whose VM is gone. One that runs a job is refused, and left.
func (w *Workers) sweepRunners(ctx context.Context) error {
	targets, err := w.store.RunnerTargets(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, t := range targets {
		if err := w.sweepTarget(ctx, t); err != nil {
			failed = errors.Join(failed, err) // the others are swept all the same
		}
	}
	return failed
}

func (w *Workers) sweepTarget(ctx context.Context, t store.RunnersToSweep) error {
	runners, err := w.github.ListRunners(ctx, t.Target)
	if err != nil {
		return err
	}
	orphans, err := w.store.OrphanRunners(ctx, t.OrgID, runners)
	if err != nil {
		return err
	}
	for _, r := range runners {
		if strings.HasPrefix(r.Name, probePrefix) { // nobody connects to it; one whose removal failed, or whose answer was lost
			orphans = append(orphans, r)
		}
	}
	for _, r := range orphans {
		if err := w.github.DeleteRunner(ctx, t.Target, r.ID); err != nil && millrace.CodeOf(err) != millrace.Conflict {
			return err
		}
		w.log.Warn("a registration was left without its VM and is removed", "org", t.OrgID, "runner", r.Name)
	}
	return nil
}
