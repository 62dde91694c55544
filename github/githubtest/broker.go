package githubtest

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The broker is what runners speak to. Its protocol is the stand-in's own; guest/testrunner is its other end, and knows
// nothing but its JIT config. Every call carries `Authorization: Bearer TOKEN`; 410 says that the
// registration is gone, or never was.
//
//	POST /_broker/session                       → 200    the runner is online
//	                                            → 403 {"errorKind": "RunnerVersionTooOld", "errorMessage"}: it ends with exit code 7
//	POST /_broker/poll                          → 200 {"job": …} when it was given a job, 204 after 25 s without
//	POST /_broker/jobs/{id}/log        raw bytes → 204   appended to the job's log
//	POST /_broker/jobs/{id}/steps/{n}  {"status", "conclusion"} → 204, or 409 when the job was cancelled
//	POST /_broker/jobs/{id}/watch               → 409 once the job is cancelled, 204 after 25 s; a runner that runs a job
//	                                             always has one of these open, which also shows that it lives
//	POST /_broker/jobs/{id}/complete   {"conclusion"}           → 204; the runner vanishes

// JITConfig is what encoded_jit_config holds, as JSON in base64.
type JITConfig struct {
	ServerURL  string `json:"server_url"`
	RunnerID   int64  `json:"runner_id"`
	RunnerName string `json:"runner_name"`
	Token      string `json:"token"`
}

// BrokerJob is the job that a poll answers with.
type BrokerJob struct {
	ID         int64             `json:"id"`
	RunID      int64             `json:"run_id"`
	Repository string            `json:"repository"`
	Name       string            `json:"name"`
	Steps      []BrokerStep      `json:"steps"`
	Env        map[string]string `json:"env"`
}

// BrokerStep is one of its steps, numbered from 1.
type BrokerStep struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Run    string `json:"run"`
}

const pollFor = 25 * time.Second

func (g *GitHub) brokerRoutes() {
	g.broker("POST /_broker/jobs/{id}/watch", g.watch)
	g.broker("POST /_broker/session", func(w http.ResponseWriter, _ *http.Request, run *runner) {
		if err := g.connect(run); err != nil { // in the shape of actions/runner's broker
			writeJSON(w, http.StatusForbidden, map[string]any{
				"source": "actions-broker-listener", "errorKind": "RunnerVersionTooOld", "statusCode": http.StatusForbidden, "errorMessage": err.Error(),
			})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{})
	})
	g.broker("POST /_broker/poll", g.poll)
	g.broker("POST /_broker/jobs/{id}/log", g.ofJob(func(w http.ResponseWriter, r *http.Request, j *job) {
		chunk, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "too long", http.StatusRequestEntityTooLarge)
			return
		}
		j.Log += strings.ToValidUTF8(string(chunk[:min(len(chunk), max(0, maxLog-len(j.Log)))]), "\uFFFD")
		w.WriteHeader(http.StatusNoContent)
	}))
	g.broker("POST /_broker/jobs/{id}/steps/{n}", g.ofJob(func(w http.ResponseWriter, r *http.Request, j *job) {
		var in struct{ Status, Conclusion string }
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 1 || n > len(j.Steps) || json.NewDecoder(r.Body).Decode(&in) != nil {
			http.Error(w, "no such step", http.StatusUnprocessableEntity)
			return
		}
		s := j.Steps[n-1]
		s.Status, s.Conclusion = in.Status, in.Conclusion
		if s.Status == "in_progress" {
			s.StartedAt = g.now()
		} else {
			s.EndedAt = g.now()
		}
		if j.cancelled {
			http.Error(w, ErrCancelled.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	g.broker("POST /_broker/jobs/{id}/complete", g.ofJob(func(w http.ResponseWriter, r *http.Request, j *job) {
		var in struct{ Conclusion string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || (in.Conclusion != "success" && in.Conclusion != "failure" && in.Conclusion != "cancelled") {
			http.Error(w, "a conclusion is success, failure or cancelled", http.StatusUnprocessableEntity)
			return
		}
		g.finish(j, in.Conclusion)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// broker serves one call of a runner; the lock is held while do runs.
func (g *GitHub) broker(pattern string, do func(http.ResponseWriter, *http.Request, *runner)) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		body := r.Body
		content, err := io.ReadAll(http.MaxBytesReader(w, body, 2<<20)) // before the lock: the network may be slow
		if err != nil {
			http.Error(w, "the body could not be read", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(content)))
		g.mu.Lock()
		defer g.mu.Unlock()
		if run, ok := g.byToken[token]; ok && !run.crashed {
			run.seen = g.cfg.Now()
			do(w, r, run)
			g.touch()
			return
		}
		http.Error(w, ErrGone.Error(), http.StatusGone)
	})
}

func (g *GitHub) ofJob(do func(http.ResponseWriter, *http.Request, *job)) func(http.ResponseWriter, *http.Request, *runner) {
	return func(w http.ResponseWriter, r *http.Request, run *runner) {
		if run.job == nil || strconv.FormatInt(run.job.ID, 10) != r.PathValue("id") {
			http.Error(w, "not this runner's job", http.StatusNotFound)
			return
		}
		do(w, r, run.job)
	}
}

// watch waits until the runner's job is cancelled; the lock is held on entry and on return, not while it waits.
func (g *GitHub) watch(w http.ResponseWriter, r *http.Request, run *runner) {
	j := run.job
	if j == nil || strconv.FormatInt(j.ID, 10) != r.PathValue("id") {
		http.Error(w, "not this runner's job", http.StatusNotFound)
		return
	}
	if !j.cancelled {
		wake := run.wake
		g.mu.Unlock()
		timeout := time.NewTimer(pollFor)
		select {
		case <-wake:
		case <-timeout.C:
		case <-r.Context().Done():
		case <-g.ctx.Done():
		}
		timeout.Stop()
		g.mu.Lock()
	}
	switch {
	case run.removed:
		http.Error(w, ErrGone.Error(), http.StatusGone)
	case j.cancelled:
		http.Error(w, ErrCancelled.Error(), http.StatusConflict)
	default:
		run.seen = g.cfg.Now()
		w.WriteHeader(http.StatusNoContent)
	}
}

// poll waits for a job; the lock is held on entry and on return, not while it waits.
func (g *GitHub) poll(w http.ResponseWriter, r *http.Request, run *runner) {
	timeout := time.NewTimer(pollFor)
	defer timeout.Stop()
	g.findJob(run)
	for run.job == nil && !run.removed {
		wake := run.wake
		g.mu.Unlock()
		expired := false
		select {
		case <-wake:
		case <-timeout.C:
			expired = true
		case <-r.Context().Done():
			expired = true
		case <-g.ctx.Done():
			expired = true
		}
		g.mu.Lock()
		run.seen = g.cfg.Now()
		if expired && run.job == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	switch {
	case run.removed:
		http.Error(w, ErrGone.Error(), http.StatusGone)
		return
	case r.Context().Err() != nil:
		return // not picked up: it is queued again after a minute
	}
	if job, ok := g.pickUp(run); ok {
		writeJSON(w, http.StatusOK, map[string]any{"job": job})
		return
	}
	http.Error(w, ErrGone.Error(), http.StatusGone)
}
