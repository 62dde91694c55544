package githubtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The control interface is how people and tests play GitHub's users. It exists in the stand-in only; docs/standin.md
// documents it.
//
//	POST /_standin/jobs              QueueRequest → 201 {id, run_id, html_url}
//	GET  /_standin/jobs/{id}         → {status, conclusion, runner_name, steps, log}
//	POST /_standin/jobs/{id}/cancel  → 202
//	POST /_standin/jobs/{id}/rerun   → 201 {id, run_id, html_url} of the new job
//	POST /_standin/repositories      {owner, name, public} → 201
//	POST /_standin/people            {login} adds a person, {login, rename} renames one → 201 {id, login, name, email}
//	POST /_standin/members           {org, login, role} → 200; without a role it ends the membership
//	POST /_standin/collaborators     {owner, repo, login} → 200; with remove it ends that
//	POST /_standin/installations     {owner, action, person} → 200 {id, owner}; action: install, uninstall, suspend, unsuspend
//	POST /_standin/owners            {login, rename} gives the owner that is called rename this login → 200 {id, login}
//	GET  /_standin/faults            → Faults
//	PUT  /_standin/faults            Faults → 204; {} ends all
//	GET  /_standin/calls             → the REST calls so far
//	GET  /_standin/violations        → those that GitHub's rules forbid
//	GET  /_standin/deliveries        → the webhook deliveries so far, newest first

func (g *GitHub) standinRoutes() {
	g.mux.HandleFunc("POST /_standin/jobs", g.postJob)
	g.mux.HandleFunc("GET /_standin/jobs/{id}", g.withJob(func(j *job) (int, any) {
		steps := []any{}
		for i, s := range j.Steps {
			steps = append(steps, map[string]any{"number": i + 1, "name": s.Name, "status": s.Status, "conclusion": nullable(s.Conclusion)})
		}
		return http.StatusOK, map[string]any{
			"id": j.ID, "run_id": j.RunID, "run_attempt": j.Attempt, "status": j.Status, "conclusion": nullable(j.Conclusion), "runner_id": j.RunnerID, "runner_name": nullable(j.RunnerName),
			"steps": steps, "log": j.Log, "html_url": g.jobURL(j), "labels": j.Labels,
		}
	}))
	g.mux.HandleFunc("POST /_standin/jobs/{id}/cancel", g.withJob(func(j *job) (int, any) {
		g.cancel(j)
		return http.StatusAccepted, map[string]any{}
	}))
	g.mux.HandleFunc("POST /_standin/jobs/{id}/rerun", g.withJob(func(j *job) (int, any) {
		again, err := g.rerun(j)
		var refused refusal
		if errors.As(err, &refused) {
			return refused.status, map[string]string{"message": refused.message}
		}
		return http.StatusCreated, map[string]any{"id": again[0].ID, "run_id": j.RunID, "html_url": g.jobURL(again[0])}
	}))
	g.mux.HandleFunc("POST /_standin/repositories", g.postRepository)
	g.faultRoutes()
	g.mux.HandleFunc("GET /_standin/violations", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"violations": append([]Violation{}, g.Violations()...)})
	})
	g.mux.HandleFunc("GET /_standin/calls", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"calls": g.Calls()})
	})
	g.mux.HandleFunc("GET /_standin/deliveries", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		content, err := json.Marshal(map[string]any{"deliveries": g.hooks.all(10_000)})
		g.mu.Unlock()
		if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(content)
	})
	g.personRoutes()
	g.pageRoutes()
}

// Calls are the REST calls so far.
func (g *GitHub) Calls() []Call {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls)
}

func fail(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

func (g *GitHub) postJob(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB")
		return
	}
	var in QueueRequest
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "the body is not a job: "+strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	id, err := g.Queue(in)
	var refused refusal
	if errors.As(err, &refused) {
		fail(w, refused.status, refused.message)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[id]
	writeJSON(w, http.StatusCreated, map[string]any{"id": id, "run_id": j.RunID, "html_url": g.jobURL(j)})
}

func (g *GitHub) postRepository(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Owner, Name string
		Public      bool
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "the body is not a repository: "+strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	if in.Name == "" || strings.ContainsAny(in.Name, "/ ") {
		fail(w, http.StatusUnprocessableEntity, "name is the repository's name without its owner")
		return
	}
	if err := g.CreateRepository(in.Owner, in.Name, in.Public); err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	writeJSON(w, http.StatusCreated, map[string]any{"full_name": in.Owner + "/" + in.Name})
}

// withJob finds the job in the path; the lock is held while do runs, and not while its answer goes to a slow reader.
func (g *GitHub) withJob(do func(*job) (status int, body any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		status, body := http.StatusNotFound, any(map[string]string{"message": "there is no job with this id"})
		g.mu.Lock()
		if j, ok := g.jobs[id]; ok {
			status, body = do(j)
		}
		g.mu.Unlock()
		writeJSON(w, status, body)
	}
}

// JobState is a job as tests see it.
type JobState struct {
	Status, Conclusion, RunnerName, Log string
	RunID, RunnerID                     int64
	CreatedAt                           time.Time
}

// Job is the state of a job; false when there is none with this id.
func (g *GitHub) Job(id int64) (JobState, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j, ok := g.jobs[id]
	if !ok {
		return JobState{}, false
	}
	return JobState{j.Status, j.Conclusion, j.RunnerName, j.Log, j.RunID, j.RunnerID, j.CreatedAt}, true
}

// Event is a workflow_job delivery's body for a job in its present state, for tests that deliver it themselves.
func (g *GitHub) Event(id int64, action string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.event(g.jobs[id], action)
}

// SampleEvent is a workflow_job delivery's body for a job that the stand-in does not keep, for load that is delivered by
// whoever makes it. owner must have been added.
func (g *GitHub) SampleEvent(owner string, id int64, label, action string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	j := &job{
		ID: id, RunID: id, Attempt: 1, Owner: owner, Repo: "load", Workflow: "ci", Name: "load", Actor: "mona", Branch: "main", Labels: []string{label},
		Status: action, CreatedAt: now,
	}
	if action == "completed" {
		j.Conclusion, j.StartedAt, j.CompletedAt = "success", now, now
	}
	return g.event(j, action)
}

// Runners is how many runners are registered.
func (g *GitHub) Runners() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.runners)
}

// RegisteredRunner is a registered runner as tests see it.
type RegisteredRunner struct {
	ID           int64
	Name, Owner  string
	RegisteredAt time.Time
	Busy         bool
}

// RegisteredRunners are all registered runners, in order of their ids.
func (g *GitHub) RegisteredRunners() []RegisteredRunner {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]RegisteredRunner, 0, len(g.runners))
	for _, id := range slices.Sorted(maps.Keys(g.runners)) {
		list = append(list, g.runners[id].public())
	}
	return list
}

// Runner is a registered runner; false when there is none with this id.
func (g *GitHub) Runner(id int64) (RegisteredRunner, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.runners[id]
	if !ok {
		return RegisteredRunner{}, false
	}
	return r.public(), true
}

func (r *runner) public() RegisteredRunner {
	return RegisteredRunner{r.ID, r.Name, r.Owner, r.registered, r.job != nil}
}

// Registered reports whether a runner is registered.
func (g *GitHub) Registered(id int64) bool {
	_, ok := g.Runner(id)
	return ok
}

// control serves a call of the control interface that takes JSON.
func control[T any](do func(T) (status int, body any, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			fail(w, http.StatusBadRequest, "the body is not what this takes: "+strings.TrimPrefix(err.Error(), "json: "))
			return
		}
		status, body, err := do(in)
		var refused refusal
		if errors.As(err, &refused) {
			fail(w, refused.status, refused.message)
			return
		}
		writeJSON(w, status, body)
	}
}
