package workers

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// probeIncidents looks whether the conditions of open incidents still hold, and closes those that don't.
func (w *Workers) probeIncidents(ctx context.Context) error {
	due, now, err := w.store.DueIncidents(ctx)
	if err != nil {
		return err
	}
	var failed error
	paused := map[int64]bool{} // installations for which GitHub has just asked not to be called
	for _, i := range due {
		if paused[i.InstallationID] {
			continue
		}
		over, err := w.isOver(ctx, i)
		c := millrace.ConditionOf(err)
		paused[i.InstallationID] = c != nil && c.Code == millrace.WaitRateLimited
		switch {
		case c == nil:
		case c.Code == i.Code:
			err = w.store.OpenIncident(ctx, i.InstallationID, i.RepositoryID, i.Repository, *c) // it still holds
		default: // another one is in the way: unless it is one that stops all calls, GitHub answers us
			err = w.github.note(ctx, i.InstallationID, now, err)
			over = slices.Contains(provenByAny, i.Code) && !slices.Contains(millrace.StopsCalls, c.Code)
		}
		if err == nil && over {
			err = w.store.CloseIncidents(ctx, i.InstallationID, i.RepositoryID, i.Code)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// isOver asks GitHub, past the gate, for what the condition refuses.
func (w *Workers) isOver(ctx context.Context, i store.DueIncident) (bool, error) {
	switch i.Code {
	case millrace.WaitRateLimited, millrace.WaitRunnerVersion, millrace.WaitZoneMismatch:
		return true, nil // its time is over; it opens again if it holds
	case millrace.WaitSuspended:
		return false, w.readInstallation(ctx, i.InstallationID) // which closes it
	case millrace.WaitGitHubDown:
		_, err := w.direct.Installation(ctx, i.InstallationID)
		if millrace.CodeOf(err) == millrace.Unavailable {
			return false, err
		}
		return true, nil // it answers, whatever
	case millrace.WaitRunnerGroup:
		if i.RepositoryID == 0 {
			break
		}
		admits, err := w.direct.GroupAdmits(ctx, i.Target, i.Through)
		if millrace.CodeOf(err) == millrace.NotFound {
			return true, nil // there is nothing left to stop
		}
		return admits, err
	default:
	}
	// Only a registration proves that runners may be registered. This one is never connected to, and removed at once.
	config, err := w.direct.CreateJIT(ctx, i.Target, probeName(i.ID), []string{"millrace-probe"})
	switch {
	case millrace.CodeOf(err) == millrace.Conflict: // of a probe before, whose removal failed
		old, err := w.direct.FindRunner(ctx, i.Target, probeName(i.ID))
		if err != nil {
			return false, err
		}
		return true, w.direct.DeleteRunner(ctx, i.Target, old.ID)
	case err != nil:
		return false, err
	}
	return true, w.direct.DeleteRunner(ctx, i.Target, config.RunnerID)
}

// probeName is the name that a probe registers under: no VM's.
func probeName(id millrace.IncidentID) string { return probePrefix + id.String()[len("inc_"):] }

const probePrefix = "millrace-probe-"
