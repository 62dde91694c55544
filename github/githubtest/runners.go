package githubtest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// runner is a registered just-in-time runner: it may run one job and vanishes after it.
type runner struct {
	ID      int64
	Name    string
	Owner   string // login in lower case
	Repo    string // lower case; "" when it is the organisation's
	Labels  []string
	token   string
	session bool
	wake    chan struct{} // closed when it is given a job, its job is cancelled or it is removed
	job     *job
	removed bool

	registered time.Time
	seen       time.Time // its last call; zero: never connected
}

// rouse ends the calls that wait for something to happen to the runner.
func (r *runner) rouse() {
	close(r.wake)
	r.wake = make(chan struct{})
}

// online reports whether the runner is connected. A poll lasts 25 s at the most.
func (r *runner) online(now time.Time) bool { return r.session && now.Sub(r.seen) < time.Minute }

func (g *GitHub) runnerJSON(r *runner) map[string]any {
	status := "offline"
	if r.online(g.cfg.Now()) {
		status = "online"
	}
	labels := []any{}
	for i, l := range r.Labels {
		labels = append(labels, map[string]any{"id": i + 1, "name": l, "type": "custom"})
	}
	os := "unknown" // until the runner first connects
	if !r.seen.IsZero() {
		os = "Linux"
	}
	return map[string]any{
		"id": r.ID, "runner_group_id": 1, "name": r.Name, "os": os, "status": status, "busy": r.job != nil, "ephemeral": true, "labels": labels,
	}
}

func (g *GitHub) generateJIT(r *http.Request, o *owner) (int, any, error) {
	var in struct {
		Name          string   `json:"name"`
		RunnerGroupID int64    `json:"runner_group_id"`
		Labels        []string `json:"labels"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&in); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "Problems parsing JSON")
	}
	switch {
	case in.Name == "" || len(in.Name) > 64 || in.RunnerGroupID == 0:
		return 0, nil, refuse(http.StatusUnprocessableEntity, "Invalid request.")
	case len(in.Labels) < 1 || len(in.Labels) > 100:
		return 0, nil, refuse(http.StatusUnprocessableEntity, "Invalid request. 1 to 100 labels are required.")
	}
	repo := strings.ToLower(r.PathValue("repo"))
	for _, other := range g.runners {
		if other.Owner == strings.ToLower(o.Login) && other.Repo == repo && other.Name == in.Name {
			return 0, nil, refuse(http.StatusConflict, "Already exists - A runner with the name %s already exists.", in.Name)
		}
	}
	run := g.register(o.Login, repo, in.Name, in.Labels)
	config, err := json.Marshal(g.jitConfig(run))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"runner": g.runnerJSON(run), "encoded_jit_config": base64.StdEncoding.EncodeToString(config)}, nil
}

func (g *GitHub) register(login, repo, name string, labels []string) *runner {
	run := &runner{
		ID: g.nextID(), Name: name, Owner: strings.ToLower(login), Repo: repo, Labels: labels, token: randomHex(24), wake: make(chan struct{}),
		registered: g.cfg.Now(),
	}
	g.runners[run.ID] = run
	return run
}

func (g *GitHub) jitConfig(run *runner) JITConfig {
	return JITConfig{ServerURL: g.cfg.RunnerURL, RunnerID: run.ID, RunnerName: run.Name, Token: run.token}
}

// RegisterRunner registers a runner of an organisation without the REST API, for tests of runners.
func (g *GitHub) RegisterRunner(login, name string, labels []string) JITConfig {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.jitConfig(g.register(login, "", name, labels))
}

// scope are the runners at an endpoint's owner or repository, in order of their ids.
func (g *GitHub) scope(r *http.Request, o *owner) []*runner {
	var list []*runner
	for _, id := range slices.Sorted(maps.Keys(g.runners)) {
		run := g.runners[id]
		if run.Owner == strings.ToLower(o.Login) && run.Repo == strings.ToLower(r.PathValue("repo")) {
			list = append(list, run)
		}
	}
	return list
}

func (g *GitHub) listRunners(r *http.Request, o *owner) (int, any, error) {
	list := []any{}
	for _, run := range g.scope(r, o) {
		if name := r.FormValue("name"); name == "" || name == run.Name {
			list = append(list, g.runnerJSON(run))
		}
	}
	return http.StatusOK, listing{len(list), map[string]any{"total_count": len(list), "runners": paged(r, list)}}, nil
}

func (g *GitHub) runnerAt(r *http.Request, o *owner) (*runner, error) {
	for _, run := range g.scope(r, o) {
		if strconv.FormatInt(run.ID, 10) == r.PathValue("id") {
			return run, nil
		}
	}
	return nil, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getRunner(r *http.Request, o *owner) (int, any, error) {
	run, err := g.runnerAt(r, o)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, g.runnerJSON(run), nil
}

func (g *GitHub) deleteRunner(r *http.Request, o *owner) (int, any, error) {
	run, err := g.runnerAt(r, o)
	if err != nil {
		return 0, nil, err
	}
	if run.job != nil {
		return 0, nil, refuse(http.StatusUnprocessableEntity, "Bad request - Runner \"%s\" is still running a job\"", run.Name)
	}
	g.remove(run)
	return http.StatusNoContent, nil, nil
}

// remove forgets a registration; its runner's next call answers 410.
func (g *GitHub) remove(run *runner) {
	if !run.removed {
		run.removed = true
		close(run.wake)
		delete(g.runners, run.ID)
	}
}

func (g *GitHub) listGroups(*http.Request, *owner) (int, any, error) {
	return http.StatusOK, map[string]any{"total_count": 1, "runner_groups": []any{
		map[string]any{"id": 1, "name": "Default", "visibility": "all", "default": true, "allows_public_repositories": true},
	}}, nil
}

func (g *GitHub) repoJobs(r *http.Request) []*job {
	var list []*job
	for _, j := range g.jobs {
		if strings.EqualFold(j.Owner, r.PathValue("owner")) && strings.EqualFold(j.Repo, r.PathValue("repo")) {
			list = append(list, j)
		}
	}
	slices.SortFunc(list, func(a, b *job) int { return cmp.Compare(b.ID, a.ID) })
	return list
}

func (g *GitHub) listRuns(r *http.Request, o *owner) (int, any, error) {
	list := []any{}
	for _, j := range g.repoJobs(r) { // each job of the stand-in is a run of its own
		if status := r.FormValue("status"); status == "" || status == j.Status || status == j.Conclusion {
			list = append(list, map[string]any{
				"id": j.RunID, "name": j.Workflow, "head_branch": j.Branch, "head_sha": j.sha(), "event": "push", "status": j.Status,
				"conclusion": nullable(j.Conclusion), "run_attempt": 1, "created_at": j.CreatedAt, "repository": g.repository(o, j),
			})
		}
	}
	return http.StatusOK, listing{len(list), map[string]any{"total_count": len(list), "workflow_runs": paged(r, list)}}, nil
}

func (g *GitHub) listJobs(r *http.Request, _ *owner) (int, any, error) {
	list := []any{}
	for _, j := range g.repoJobs(r) {
		if strconv.FormatInt(j.RunID, 10) == r.PathValue("id") {
			list = append(list, g.jobJSON(j))
		}
	}
	if len(list) == 0 {
		return 0, nil, refuse(http.StatusNotFound, "Not Found")
	}
	return http.StatusOK, listing{len(list), map[string]any{"total_count": len(list), "jobs": paged(r, list)}}, nil
}

func (g *GitHub) getJob(r *http.Request, _ *owner) (int, any, error) {
	for _, j := range g.repoJobs(r) {
		if strconv.FormatInt(j.ID, 10) == r.PathValue("id") {
			return http.StatusOK, g.jobJSON(j), nil
		}
	}
	return 0, nil, refuse(http.StatusNotFound, "Not Found")
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
