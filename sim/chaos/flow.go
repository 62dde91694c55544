package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
)

// queuedJob is a job that was queued at the stand-in.
type queuedJob struct {
	id        int64
	cancelled bool // somebody cancelled it, which may have come too late
}

// flow queues jobs and sends the load until ctx ends and what is under way has ended.
func (w *world) flow(ctx context.Context) {
	var flowing sync.WaitGroup
	flowing.Go(func() { w.queueJobs(ctx, &flowing) })
	flowing.Go(func() { w.sendLoad(ctx, &flowing) })
	flowing.Wait()
}

func (w *world) queueJobs(ctx context.Context, more *sync.WaitGroup) {
	chance := rand.New(rand.NewPCG(uint64(w.o.seed), 1))
	every(ctx, w.o.jobs, func(n int) {
		takes := between(chance, 300*time.Millisecond, 4*time.Second)
		if chance.IntN(12) == 0 {
			takes = between(chance, 10*time.Second, 20*time.Second)
		}
		id, err := w.github.Queue(githubtest.QueueRequest{
			Owner: "chaos", Repo: fmt.Sprintf("repo-%d", chance.IntN(5)), Name: fmt.Sprintf("job %d", n), Labels: []string{"millrace"},
			Steps: []githubtest.QueueStep{{Name: "sleep", Run: step(takes)}},
		})
		if err != nil {
			panic(err) // the request is our own
		}
		job := queuedJob{id: id, cancelled: chance.IntN(15) == 0}
		after := between(chance, 0, 5*time.Second)
		w.mu.Lock()
		w.jobs = append(w.jobs, job)
		w.mu.Unlock()
		if job.cancelled {
			more.Go(func() {
				time.Sleep(after)
				w.github.Cancel(id)
			})
		}
	})
}

func (w *world) queued() []queuedJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.jobs)
}

// sendLoad sends a delivery of a completed job at a time, each once, as GitHub would.
func (w *world) sendLoad(ctx context.Context, more *sync.WaitGroup) {
	slots := make(chan struct{}, 64)
	every(ctx, w.o.load, func(n int) {
		select {
		case slots <- struct{}{}:
		default:
			return // both servers hang
		}
		more.Go(func() {
			defer func() { <-slots }()
			body := w.github.SampleEvent("load", int64(1_000_000_000+n), "millrace", "completed")
			req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, w.witness.front+"/webhooks/github", bytes.NewReader(body))
			if err != nil {
				return
			}
			githubtest.SetHeaders(req.Header, w.github.WebhookSecret(), "workflow_job", fmt.Sprintf("00000000-0000-4000-8000-%012d", n), body)
			resp, err := w.witness.client.Do(req)
			if err != nil {
				return // the witness knows
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	})
}

// every does something so often per second until ctx ends.
func every(ctx context.Context, rate float64, do func(n int)) {
	if rate <= 0 {
		return
	}
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			do(n)
		case <-ctx.Done():
			return
		}
	}
}

func between(chance *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(chance.Int64N(int64(to-from)))
}
