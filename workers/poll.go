package workers

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

const (
	pollsAtOnce  = 200 // of one tick
	pollsAbreast = 4
)

// pollRepositories reads the open jobs of the repositories whose poll is due: the net under deliveries that were never
// sent. What it finds is joined like an event; jobs of ours that GitHub did not list are asked for one by one, for only
// what GitHub says of a job, and never its absence from a list, ends it.
func (w *Workers) pollRepositories(ctx context.Context) error {
	round, err := w.store.BeginPolls(ctx, pollsAtOnce)
	if err != nil {
		return err
	}
	if round.Reconciling {
		w.log.Info("reading every repository's jobs at GitHub: the service starts, or was away")
	}
	failed := w.listRepositories(ctx, round.Unlisted)
	due := round.Due
	var group errgroup.Group
	group.SetLimit(w.abreast)
	errs := make([]error, len(due))
	for i, p := range due {
		if w.abreast == 1 {
			errs[i] = w.poll(ctx, p)
			continue
		}
		group.Go(func() error {
			errs[i] = w.poll(ctx, p)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	for _, err := range append(errs, failed) {
		// A poll that failed is due again soon; what stops GitHub's answers is an incident by now.
		if err != nil && millrace.CodeOf(err) != millrace.LimitReached {
			w.log.Warn("a poll failed; trying again", "error", err)
		}
	}
	return nil
}

// listRepositories learns the repositories of installations: any of them may have jobs that nobody told us of.
func (w *Workers) listRepositories(ctx context.Context, installations []int64) (err error) {
	for _, installation := range installations {
		list, listErr := w.github.InstallationRepositories(ctx, installation)
		if listErr == nil {
			listErr = w.store.SaveRepositories(ctx, installation, list)
		}
		err = errors.Join(err, listErr)
	}
	return err
}

func (w *Workers) poll(ctx context.Context, p store.Poll) error {
	open, err := w.github.OpenJobs(ctx, p.Target)
	// A repository that was deleted or transferred lists nothing: its jobs here are asked for, and denied, one by one.
	if err != nil && (millrace.CodeOf(err) != millrace.NotFound || !p.Open) {
		return err
	}
	if len(open.Jobs) == 0 && !p.Open && open.Quota.Plenty() {
		return nil // most polls find nothing, and there is nothing to write
	}
	polled, err := w.store.JoinPoll(ctx, p, open)
	if err != nil {
		return err
	}
	if polled.Missed > 0 {
		w.log.Warn("GitHub knew what no delivery had told", "repository", p.Target.FullName, "jobs", polled.Missed)
	}
	for _, job := range polled.Unseen {
		e, err := w.github.Job(ctx, p.Target, job.GitHubID)
		switch {
		case millrace.CodeOf(err) == millrace.NotFound:
			err = w.store.DenyJob(ctx, job.OrgID, job.ID)
		case err == nil:
			err = w.store.JoinRead(ctx, p, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
