// Package workers holds the background work that keeps the service honest: the placer, a plain loop of this process's
// own; tasks, which River runs once over all processes; and the schedule.
package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// Config is what the workers need.
type Config struct {
	Store  *store.Store
	GitHub millrace.GitHub // as it is; the workers put their own [Gate] before it
	Log    *slog.Logger
	// SingleThreaded has tasks make their calls one after the other, for a loop that drives them with [Workers.Do].
	SingleThreaded bool
}

// Workers are one process's workers.
type Workers struct {
	store   *store.Store
	github  *Gate
	direct  millrace.GitHub // past the gate: to look whether what closed it still holds
	log     *slog.Logger
	abreast int // polls at the same time

	unreadable sync.Map // organisations, by installation, of which it was logged that their members may not be read
}

// New makes workers; [Workers.Run] starts them.
func New(cfg Config) *Workers {
	w := &Workers{store: cfg.Store, github: NewGate(cfg.GitHub, cfg.Store, cfg.Log), direct: cfg.GitHub, log: cfg.Log, abreast: pollsAbreast}
	if cfg.SingleThreaded {
		w.abreast = 1
	}
	return w
}

// Gate is GitHub as everything in this process is to call it.
func (w *Workers) Gate() *Gate { return w.github }

// Scheduled is something that happens by the clock.
type Scheduled struct {
	Every time.Duration
	Here  func(*Workers, context.Context) error // in every process: what is written is in its memory; or
	Task  river.JobArgs                         // a task, once over all processes
}

// Schedule is all that happens by the clock. A missed or doubled tick is harmless.
var Schedule = []Scheduled{
	{Every: 5 * time.Second, Here: func(w *Workers, ctx context.Context) error { return w.store.FlushHeard(ctx) }},
	{Every: 5 * time.Second, Here: func(w *Workers, ctx context.Context) error { return w.store.Learn(ctx) }},
	{Every: 5 * time.Second, Task: millrace.FindLostHosts{}},
	{Every: 10 * time.Second, Task: millrace.ProbeIncidents{}},
	{Every: 15 * time.Second, Task: millrace.WatchVMs{}},
	{Every: 15 * time.Second, Task: millrace.PollRepositories{}},
	{Every: time.Minute, Task: millrace.SweepDeliveries{}},
	{Every: time.Minute, Task: millrace.GiveUpJobs{}},
	{Every: 4 * time.Minute, Task: millrace.SweepMembers{}}, // whoever was taken out of an organisation is out here within five
	{Every: 5 * time.Minute, Task: millrace.SweepRunners{}},
	{Every: 10 * time.Minute, Task: millrace.SweepInstallations{}},
	{Every: 10 * time.Minute, Task: millrace.FindDeletedOrgs{}},
	{Every: time.Hour, Task: millrace.KeepPartitions{}},
	{Every: 24 * time.Hour, Task: millrace.ExpireLogs{}},
}

// Run works until ctx ends, then lets running tasks end, for at most 10 s.
func (w *Workers) Run(ctx context.Context) error {
	client, err := w.newClient()
	if err != nil {
		return err
	}
	start := func() error { return client.Start(context.WithoutCancel(ctx)) }
	if err := store.Await(ctx, w.log, start); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return w.placeForever(running) })
	group.Go(func() error { return w.relayForever(running, client) })
	for _, s := range Schedule {
		if s.Here == nil {
			continue
		}
		group.Go(func() error {
			return w.every(running, s.Every, func(ctx context.Context) error { return s.Here(w, ctx) })
		})
	}
	err = group.Wait()
	// The last heartbeats, so that a restart isn't taken for silence; first, for tasks may use up the time.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(err, w.store.FlushHeard(bounded))
	soft, cancelSoft := context.WithTimeout(bounded, 8*time.Second)
	defer cancelSoft()
	if client.Stop(soft) != nil {
		err = errors.Join(err, client.StopAndCancel(bounded))
	}
	return err
}

func (w *Workers) newClient() (*river.Client[pgx.Tx], error) {
	tasks := river.NewWorkers()
	addWorker[millrace.RetireVM](tasks, w)
	addWorker[millrace.CheckRunnerGroup](tasks, w)
	addWorker[millrace.TraceRun](tasks, w)
	addWorker[millrace.ReadInstallation](tasks, w)
	addWorker[millrace.ReadMembers](tasks, w)
	addWorker[millrace.SweepInstallations](tasks, w)
	addWorker[millrace.SweepMembers](tasks, w)
	addWorker[millrace.EraseOrg](tasks, w)
	addWorker[millrace.FindDeletedOrgs](tasks, w)
	addWorker[millrace.KeepPartitions](tasks, w)
	addWorker[millrace.ExpireLogs](tasks, w)
	addWorker[millrace.FindLostHosts](tasks, w)
	addWorker[millrace.WatchVMs](tasks, w)
	addWorker[millrace.PollRepositories](tasks, w)
	addWorker[millrace.SweepDeliveries](tasks, w)
	addWorker[millrace.GiveUpJobs](tasks, w)
	addWorker[millrace.SweepRunners](tasks, w)
	addWorker[millrace.ProbeIncidents](tasks, w)
	var periodic []*river.PeriodicJob
	for _, s := range Schedule {
		if s.Task != nil {
			periodic = append(periodic, river.NewPeriodicJob(river.PeriodicInterval(s.Every), func() (river.JobArgs, *river.InsertOpts) {
				return s.Task, &river.InsertOpts{UniqueOpts: unique}
			}, &river.PeriodicJobOpts{RunOnStart: true}))
		}
	}
	return river.NewClient(riverpgxv5.New(w.store.SystemPool()), &river.Config{
		Schema:            store.TaskSchema,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 20}},
		Workers:           tasks,
		PeriodicJobs:      periodic,
		FetchCooldown:     50 * time.Millisecond,
		FetchPollInterval: time.Second,
		Logger:            slog.New(quiet{w.log.Handler()}),
		ErrorHandler:      logErrors{w.log},
		RetryPolicy:       retryPolicy{},
		JobTimeout:        time.Minute,
		// A process that was killed leaves its tasks running. River's own 1 h would be an hour without looking for lost hosts,
		// for that task is one at a time.
		RescueStuckJobsAfter: 90 * time.Second,
	})
}

// unique makes a scheduled task one at a time: a tick that meets its like waiting or running is that one; after it ended
// it may be inserted again.
var unique = river.UniqueOpts{
	ByArgs: true,
	ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled,
	},
}

// relayForever moves tasks from the outbox to the queue: at once when one is announced, and every few seconds.
func (w *Workers) relayForever(ctx context.Context, client *river.Client[pgx.Tx]) error {
	poll := time.NewTicker(5 * time.Second)
	defer poll.Stop()
	for {
		announced := w.store.Bus.On(store.TopicTasks())
		n, err := w.store.RelayOutbox(ctx, func(ctx context.Context, tx pgx.Tx, kind string, args []byte) error {
			task, err := DecodeTask(kind, args)
			if err != nil {
				w.log.Error("a task in the outbox is not understood and was dropped", "kind", kind, "error", err)
				return nil
			}
			// Not unique: one that met its like running would be dropped, though that one may have read before this one
			// was asked for. These tasks may be repeated instead.
			_, err = client.InsertTx(ctx, tx, task, &river.InsertOpts{MaxAttempts: asOftenAsItTakes})
			return err
		})
		if err != nil && ctx.Err() == nil {
			w.log.Error("relaying tasks failed; trying again", "error", err)
		}
		if n > 0 && err == nil {
			continue // there may be more
		}
		select {
		case <-announced:
		case <-poll.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// asOftenAsItTakes is a week at a try a minute. No use case asks for its task a second time: one that was given up after
// River's own 25 tries, some 20 minutes of GitHub being away, would leave its VM holding a slot for ever.
const asOftenAsItTakes = 10_000

// DecodeTask reads a task from the outbox: this is the one list of those that use cases may ask for.
func DecodeTask(kind string, args []byte) (river.JobArgs, error) {
	switch kind {
	case millrace.CheckRunnerGroup{}.Kind():
		return decode[millrace.CheckRunnerGroup](args)
	case millrace.TraceRun{}.Kind():
		return decode[millrace.TraceRun](args)
	case millrace.ReadInstallation{}.Kind():
		return decode[millrace.ReadInstallation](args)
	case millrace.ReadMembers{}.Kind():
		return decode[millrace.ReadMembers](args)
	case millrace.EraseOrg{}.Kind():
		return decode[millrace.EraseOrg](args)
	case millrace.RetireVM{}.Kind():
		return decode[millrace.RetireVM](args)
	default:
		return nil, fmt.Errorf("there is no task %q", kind)
	}
}

func decode[T river.JobArgs](args []byte) (river.JobArgs, error) {
	var t T
	err := json.Unmarshal(args, &t)
	return t, err
}

// every does something at a steady pace until ctx ends; an error is logged and tried again at the next tick.
func (w *Workers) every(ctx context.Context, pace time.Duration, do func(context.Context) error) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := do(ctx); err != nil && ctx.Err() == nil {
				w.log.Error("scheduled work failed; trying again", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// quiet passes River's own messages on from warnings upward: the rest is about its housekeeping.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
