package workers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/millrace-ci/millrace"
)

// Do does a task. It may be repeated, and done by two processes at once.
func (w *Workers) Do(ctx context.Context, task river.JobArgs) error {
	switch t := task.(type) {
	case millrace.RetireVM:
		return w.retireVM(ctx, t)
	case millrace.TraceRun:
		return w.traceRun(ctx, t)
	case millrace.CheckRunnerGroup:
		return w.checkRunnerGroup(ctx, t)
	case millrace.ReadInstallation:
		return w.readInstallation(ctx, t.InstallationID)
	case millrace.ReadMembers:
		return w.readMembersFor(ctx, t)
	case millrace.SweepInstallations:
		return w.sweepInstallations(ctx)
	case millrace.SweepMembers:
		return w.sweepMembers(ctx)
	case millrace.EraseOrg:
		return w.eraseOrg(ctx, t)
	case millrace.FindDeletedOrgs:
		n, err := w.store.FindDeletedOrgs(ctx)
		if n > 0 {
			w.log.Warn("deleted orgs should be erased by now, and are not; trying again", "orgs", n)
		}
		return err
	case millrace.KeepPartitions:
		return errors.Join(w.store.KeepPartitions(ctx), w.store.ForgetGuesses(ctx))
	case millrace.ExpireLogs:
		n, err := w.store.ExpireBlobs(ctx, time.Now())
		if n > 0 {
			w.log.Info("consoles and agents' logs expired", "pieces", n)
		}
		return err
	case millrace.FindLostHosts:
		return w.findLostHosts(ctx)
	case millrace.WatchVMs:
		_, err := w.store.WatchVMs(ctx)
		return err
	case millrace.PollRepositories:
		return w.pollRepositories(ctx)
	case millrace.SweepDeliveries:
		return w.sweepDeliveries(ctx)
	case millrace.GiveUpJobs:
		_, err := w.store.GiveUpJobs(ctx)
		return err
	case millrace.SweepRunners:
		return w.sweepRunners(ctx)
	case millrace.ProbeIncidents:
		return w.probeIncidents(ctx)
	default:
		return fmt.Errorf("there is no task %q", task.Kind())
	}
}

// worker has River call [Workers.Do].
type worker[T river.JobArgs] struct {
	river.WorkerDefaults[T]
	w *Workers
}

// Work does a task.
func (t worker[T]) Work(ctx context.Context, job *river.Job[T]) error { return t.w.Do(ctx, job.Args) }

func addWorker[T river.JobArgs](tasks *river.Workers, w *Workers) {
	river.AddWorker(tasks, worker[T]{w: w})
}

// retireVM removes a VM's registration at GitHub, and only then lets the VM be destroyed.
func (w *Workers) retireVM(ctx context.Context, t millrace.RetireVM) error {
	r, err := w.store.Retiring(ctx, t.OrgID, t.VMID)
	if millrace.CodeOf(err) == millrace.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if r.VM.RunnerID != 0 {
		err := w.github.DeleteRunner(ctx, r.Target, r.VM.RunnerID)
		if millrace.CodeOf(err) == millrace.Conflict {
			return w.store.KeepBusy(ctx, t.OrgID, t.VMID)
		}
		if err != nil {
			return err
		}
	}
	return w.store.Unregistered(ctx, t.OrgID, t.VMID)
}

// traceRun asks GitHub whether a run's jobs come from a fork: until it says so none of them is placed.
func (w *Workers) traceRun(ctx context.Context, t millrace.TraceRun) error {
	at, ok, err := w.store.Untraced(ctx, t)
	if err != nil || !ok {
		return err
	}
	fork, err := w.github.FromFork(ctx, at, t.RunID) // GitHub may deny for a moment what it has just told: it is asked again
	if err != nil {
		return err
	}
	return w.store.Traced(ctx, t, fork)
}

// checkRunnerGroup opens the incident that the runner group excludes a job's repository, if it does.
func (w *Workers) checkRunnerGroup(ctx context.Context, t millrace.CheckRunnerGroup) error {
	at, repository, err := w.store.JobRepository(ctx, t.OrgID, t.JobID)
	if err == nil {
		var admits bool
		if admits, err = w.github.GroupAdmits(ctx, at, repository); err == nil && !admits {
			return w.store.OpenIncident(ctx, at.InstallationID, repository.ID, repository.FullName, millrace.Condition{Code: millrace.WaitRunnerGroup})
		}
	}
	switch millrace.CodeOf(err) {
	case millrace.NotFound, millrace.Forbidden: // it can't be told; the next VM that waits in vain asks again
		return nil
	default:
		return err
	}
}

func (w *Workers) findLostHosts(ctx context.Context) error {
	n, err := w.store.MarkLost(ctx)
	if n > 0 {
		w.log.Warn("VMs of silent hosts are lost", "vms", n)
	}
	if err != nil {
		return err
	}
	n, err = w.store.RemoveVanished(ctx)
	if n > 0 {
		w.log.Info("ephemeral hosts that vanished are removed", "hosts", n)
	}
	return err
}

// retryPolicy tries again after 1 s, 2 s, 4 s … 60 s: what fails is nearly always a far side that is back soon.
type retryPolicy struct{}

// NextRetry is when a task that failed is tried again.
func (retryPolicy) NextRetry(job *rivertype.JobRow) time.Time {
	return time.Now().Add(min(time.Second<<min(len(job.Errors), 6), time.Minute))
}

// logErrors logs each failed try once.
type logErrors struct{ log *slog.Logger }

// HandleError logs a task's error.
func (l logErrors) HandleError(_ context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	l.log.Warn("a task failed and is tried again", "kind", job.Kind, "try", job.Attempt, "error", err)
	return nil
}

// HandlePanic logs a task's panic.
func (l logErrors) HandlePanic(_ context.Context, job *rivertype.JobRow, panicVal any, trace string) *river.ErrorHandlerResult {
	l.log.Error("a task panicked", "kind", job.Kind, "try", job.Attempt, "panic", panicVal, "trace", trace)
	return nil
}
