package githubtest

import (
	"encoding/base64"
	"encoding/json"
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
	met     bool // it has connected
	ignored bool // an injected fault: it never gets a job
	crashed bool // an injected fault: it is never heard again

	registered time.Time
	seen       time.Time // its last call; zero: never connected
	gone       time.Time // when it was removed
	past       []moved   // what it was, oldest first
}

// moved is a change of what the API says of a runner.
type moved struct {
	at            time.Time
	session, busy bool
}

// rouse ends the calls that wait for something to happen to the runner.
func (r *runner) rouse() {
	close(r.wake)
	r.wake = make(chan struct{})
}

// online reports whether the runner is connected. A poll lasts 25 s at the most.
func (r *runner) online(now time.Time) bool { return r.session && now.Sub(r.seen) < time.Minute }

// noted is to be called when the runner's session or job changed: it may have become idle, or stopped being so.
func (g *GitHub) noted(r *runner) {
	p := g.pool(r.Owner)
	if r.session && r.job == nil && !r.removed && !r.ignored {
		p.idle = put(p.idle, r)
	} else {
		p.idle = drop(p.idle, r)
	}
	now := moved{g.cfg.Now(), r.session, r.job != nil}
	if n := len(r.past); n == 0 || r.past[n-1].session != now.session || r.past[n-1].busy != now.busy {
		r.past = append(r.past, now)
	}
}

// at is what the API says of the runner as of a moment.
func (r *runner) at(t time.Time) (online, busy, there bool) {
	if t.Before(r.registered) || (r.removed && !t.Before(r.gone)) {
		return false, false, false
	}
	for _, was := range slices.Backward(r.past) {
		if !t.Before(was.at) {
			return was.session && t.Sub(r.seen) < time.Minute, was.busy, true
		}
	}
	return false, false, true
}

// scope are the runners of an organisation or of one repository.
type scope struct {
	list   []*runner // by id
	byName map[string]*runner
	gone   []*runner // those removed lately, which a read that lags still shows
}

func (g *GitHub) scope(login, repo string) *scope {
	key := strings.ToLower(login + "/" + repo)
	s, ok := g.scopes[key]
	if !ok {
		s = &scope{byName: map[string]*runner{}}
		g.scopes[key] = s
	}
	return s
}

// runnerVersion is the version of actions/runner that runners say they have.
const runnerVersion = "2.335.1"

func (g *GitHub) runnerJSON(r *runner, at time.Time) map[string]any {
	online, busy, _ := r.at(at)
	labels := []any{}
	for i, l := range r.Labels {
		labels = append(labels, map[string]any{"id": i + 1, "name": l, "type": "custom"})
	}
	m := map[string]any{
		"id": r.ID, "runner_group_id": 1, "name": r.Name, "os": "unknown", "status": "offline", "busy": busy, "ephemeral": true, "labels": labels,
	}
	if online {
		m["status"] = "online"
	}
	if r.met {
		m["os"], m["version"] = "Linux", runnerVersion
	}
	return m
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
	at := g.scope(o.Login, repo)
	if _, taken := at.byName[in.Name]; taken || g.roll(g.faults.Conflict) {
		return 0, nil, refuse(http.StatusConflict, saysNameTaken, in.Name)
	}
	if len(at.list) >= groupHolds || g.faults.GroupFull.has(o.Login) {
		return 0, nil, refuse(http.StatusUnprocessableEntity, saysGroupFull, in.RunnerGroupID)
	}
	run := g.register(o.Login, repo, in.Name, in.Labels)
	config, err := json.Marshal(g.jitConfig(run))
	if err != nil {
		return 0, nil, err
	}
	if g.roll(g.faults.JITReplyLost) {
		return 0, nil, refuse(http.StatusBadGateway, saysServerError)
	}
	return http.StatusCreated, map[string]any{"runner": g.runnerJSON(run, g.cfg.Now()), "encoded_jit_config": base64.StdEncoding.EncodeToString(config)}, nil
}

func (g *GitHub) register(login, repo, name string, labels []string) *runner {
	run := &runner{
		ID: g.nextID(), Name: name, Owner: strings.ToLower(login), Repo: repo, Labels: labels, token: g.randomHex(24), wake: make(chan struct{}),
		registered: g.cfg.Now(),
	}
	s := g.scope(login, repo)
	s.list, s.byName[name] = put(s.list, run), run
	g.runners[run.ID], g.byToken[run.token] = run, run
	g.registered = put(g.registered, run)
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

func (g *GitHub) listRunners(r *http.Request, o *owner) (int, any, error) {
	s, at := g.scope(o.Login, r.PathValue("repo")), g.readAt()
	found, name := s.list, r.FormValue("name")
	switch {
	case at.Before(g.cfg.Now()):
		found = slices.Clone(found)
		for _, run := range s.gone {
			found = put(found, run)
		}
		found = slices.DeleteFunc(found, func(run *runner) bool {
			_, _, there := run.at(at)
			return !there || (name != "" && run.Name != name)
		})
	case name != "":
		found = nil
		if run, ok := s.byName[name]; ok {
			found = []*runner{run}
		}
	}
	list := []any{}
	for _, run := range paged(r, found) {
		list = append(list, g.runnerJSON(run, at))
	}
	return http.StatusOK, listing{total: len(found), body: map[string]any{"total_count": len(found), "runners": list}}, nil
}

// runnerAt finds the runner in the path, one that is there now.
func (g *GitHub) runnerAt(r *http.Request, o *owner) (*runner, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if run, ok := g.runners[id]; ok && run.Owner == strings.ToLower(o.Login) && run.Repo == strings.ToLower(r.PathValue("repo")) {
		return run, nil
	}
	return nil, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getRunner(r *http.Request, o *owner) (int, any, error) {
	at := g.readAt()
	run, err := g.runnerAt(r, o)
	if err != nil && at.Before(g.cfg.Now()) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		for _, gone := range g.scope(o.Login, r.PathValue("repo")).gone {
			if gone.ID == id {
				run, err = gone, nil
			}
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if _, _, there := run.at(at); !there {
		return 0, nil, refuse(http.StatusNotFound, "Not Found")
	}
	return http.StatusOK, g.runnerJSON(run, at), nil
}

func (g *GitHub) deleteRunner(r *http.Request, o *owner) (int, any, error) {
	run, err := g.runnerAt(r, o)
	if err != nil {
		return 0, nil, err
	}
	if run.job != nil || g.roll(g.faults.Unprocessable) {
		return 0, nil, refuse(http.StatusUnprocessableEntity, saysBusy, run.Name)
	}
	g.remove(run)
	return http.StatusNoContent, nil, nil
}

// remove forgets a registration; its runner's next call answers 410.
func (g *GitHub) remove(run *runner) {
	if run.removed {
		return
	}
	run.removed, run.gone = true, g.cfg.Now()
	close(run.wake)
	g.noted(run)
	delete(g.runners, run.ID)
	delete(g.byToken, run.token)
	g.registered = drop(g.registered, run)
	s := g.scope(run.Owner, run.Repo)
	s.list = drop(s.list, run)
	delete(s.byName, run.Name)
	s.gone = append(s.gone, run)
}

// forgetRemoved ends what reads that lag may still show.
func (g *GitHub) forgetRemoved(now time.Time) {
	for _, s := range g.scopes { // in any order
		s.gone = slices.DeleteFunc(s.gone, func(r *runner) bool { return now.Sub(r.gone) > g.lag() })
	}
}

func (g *GitHub) listGroups(r *http.Request, o *owner) (int, any, error) {
	list := []any{map[string]any{"id": 1, "name": "Default", "visibility": "all", "default": true, "allows_public_repositories": true}}
	if repo := r.FormValue("visible_to_repository"); repo != "" && g.excluded(o.Login, repo) {
		list = []any{}
	}
	return http.StatusOK, listing{total: len(list), body: map[string]any{"total_count": len(list), "runner_groups": list}}, nil
}
