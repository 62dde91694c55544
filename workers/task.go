package workers

import (
	"context"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/millrace-ci/millrace"
)

// retireVM removes a VM's registration at GitHub, and only then lets the VM be destroyed.
type retireVM struct {
	river.WorkerDefaults[millrace.RetireVM]
	w *Workers
}

func (t *retireVM) Work(ctx context.Context, job *river.Job[millrace.RetireVM]) error {
	r, err := t.w.store.Retiring(ctx, job.Args.OrgID, job.Args.VMID)
	if millrace.CodeOf(err) == millrace.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if r.VM.RunnerID != 0 {
		err := t.w.runners.DeleteRunner(ctx, r.Target, r.VM.RunnerID)
		if millrace.CodeOf(err) == millrace.Conflict {
			return t.w.store.KeepBusy(ctx, job.Args.OrgID, job.Args.VMID)
		}
		if err != nil {
			return err
		}
	}
	return t.w.store.Unregistered(ctx, job.Args.OrgID, job.Args.VMID)
}

type closeJob struct {
	river.WorkerDefaults[millrace.CloseJob]
	w *Workers
}

func (t *closeJob) Work(ctx context.Context, job *river.Job[millrace.CloseJob]) error {
	return t.w.store.CloseJob(ctx, job.Args.OrgID, job.Args.JobID)
}

type keepPartitions struct {
	river.WorkerDefaults[millrace.KeepPartitions]
	w *Workers
}

func (t *keepPartitions) Work(ctx context.Context, _ *river.Job[millrace.KeepPartitions]) error {
	return t.w.store.KeepPartitions(ctx)
}

type findLostHosts struct {
	river.WorkerDefaults[millrace.FindLostHosts]
	w *Workers
}

func (t *findLostHosts) Work(ctx context.Context, _ *river.Job[millrace.FindLostHosts]) error {
	n, err := t.w.store.MarkLost(ctx)
	if n > 0 {
		t.w.log.Warn("VMs of silent hosts are lost", "vms", n)
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
