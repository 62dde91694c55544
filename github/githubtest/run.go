package githubtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run is a workflow run: the jobs of all its attempts. A job that is not run again stays the latest of its kind.
type run struct {
	ID         int64
	repo       *repo
	jobs       []*job // as they were queued
	attempt    int
	unfinished int // jobs that are not completed
	closed     time.Time
	updatedAt  time.Time
}

func (r *run) first() *job { return r.jobs[0] }

// runState is a run as it was at a moment: queued until one of the attempt's jobs has started, in_progress until all are
// completed.
type runState struct {
	status, conclusion string
	attempt            int
	started            time.Time // of the attempt
}

// worst first: what the conclusion of a run is if one of its jobs has it.
var conclusions = []string{"failure", "cancelled", "success"}

// at is the run's state at a moment; false before it was made.
func (r *run) at(t time.Time) (s runState, there bool) {
	if t.Before(r.first().queued) {
		return s, false
	}
	for _, j := range r.jobs {
		if !t.Before(j.queued) {
			s.attempt = max(s.attempt, j.Attempt)
		}
	}
	return r.of(s.attempt, t), true
}

// of is the state of one attempt at a moment.
func (r *run) of(attempt int, t time.Time) runState {
	s := runState{status: "queued", attempt: attempt}
	worst, ended, n := len(conclusions)-1, 0, 0
	for _, j := range r.upTo(attempt, t) {
		was := j.at(t)
		if j.Attempt == attempt {
			if n++; s.started.IsZero() {
				s.started = j.CreatedAt
			}
			if was.Status == "in_progress" || was.RunnerID != 0 {
				s.status = "in_progress"
			}
			if was.Status == "completed" {
				ended++
			}
		}
		if at := slices.Index(conclusions, was.Conclusion); at >= 0 {
			worst = min(worst, at)
		}
	}
	if ended == n {
		s.status, s.conclusion = "completed", conclusions[worst]
	}
	return s
}

// upTo are the latest jobs of the run as of an attempt and a moment.
func (r *run) upTo(attempt int, t time.Time) []*job {
	var list []*job
	replaced := map[int64]bool{}
	for _, j := range slices.Backward(r.jobs) {
		if j.Attempt > attempt || t.Before(j.queued) {
			continue
		}
		if j.Next == 0 || !replaced[j.Next] {
			list = append(list, j)
		}
		replaced[j.ID] = true
	}
	slices.Reverse(list)
	return list
}

// maxResults is how many results a search has, over all its pages.
const maxResults = 1000

func (g *GitHub) repoAt(r *http.Request) (*repo, error) {
	rp, ok := g.repos[strings.ToLower(r.PathValue("owner")+"/"+r.PathValue("repo"))]
	if !ok {
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	return rp, nil
}

// runVersion changes with all that the API says of a repository's runs and jobs.
func (g *GitHub) runVersion(r *http.Request) uint64 {
	if rp, err := g.repoAt(r); err == nil {
		return rp.version
	}
	return 0
}

func (g *GitHub) runJSON(o *owner, r *run, s runState) map[string]any {
	j := r.first()
	base := fmt.Sprintf("%srepos/%s", g.APIURL(), r.repo.fullName())
	url := fmt.Sprintf("%s/actions/runs/%d", base, r.ID)
	number, _ := find(r.repo.runs, r.ID)
	workflow := idOf("workflow/" + r.repo.fullName() + "/" + j.Workflow)
	m := map[string]any{
		"id": r.ID, "name": j.Workflow, "node_id": nodeID("WFR", r.ID), "head_branch": j.Branch, "head_sha": j.sha(), "path": ".github/workflows/" + j.Workflow + ".yml",
		"display_title": j.Workflow, "run_number": number + 1, "event": j.event(), "status": s.status, "conclusion": nullable(s.conclusion),
		"workflow_id": workflow, "check_suite_id": r.ID, "url": url, "html_url": fmt.Sprintf("%s/%s/actions/runs/%d", g.cfg.URL, r.repo.fullName(), r.ID),
		"pull_requests": []any{}, "created_at": j.CreatedAt, "updated_at": r.updatedAt.UTC().Truncate(time.Second), "run_attempt": s.attempt,
		"run_started_at": s.started, "actor": g.user(j.Actor), "triggering_actor": g.user(j.Actor), "repository": g.repository(o, j), "head_repository": g.head(o, j),
		"workflow_url": fmt.Sprintf("%s/actions/workflows/%d", base, workflow),
	}
	for _, name := range []string{"jobs", "logs", "artifacts", "cancel", "rerun"} {
		m[name+"_url"] = url + "/" + name
	}
	m["previous_attempt_url"] = nil
	if s.attempt > 1 {
		m["previous_attempt_url"] = fmt.Sprintf("%s/attempts/%d", url, s.attempt-1)
	}
	return m
}

// event is what started the job's run.
func (j *job) event() string {
	if j.Fork {
		return "pull_request"
	}
	return "push"
}

// head is the repository whose code a job runs: its own, or the actor's fork of it.
func (g *GitHub) head(o *owner, j *job) any {
	if !j.Fork {
		return g.repository(o, j)
	}
	full := j.Actor + "/" + j.Repo
	id := idOf("fork/" + full + " of " + j.Owner)
	return map[string]any{
		"id": id, "node_id": nodeID("R", id), "name": j.Repo, "full_name": full, "private": !j.Public, "owner": g.user(j.Actor), "fork": true,
		"html_url": g.cfg.URL + "/" + full, "url": g.APIURL() + "repos/" + full, "description": nil,
	}
}

// search are a repository's runs with a status or conclusion ("" for all), newest first, and how many there are. It looks
// only at runs that can have it.
func (rp *repo) search(status string, at, now time.Time, wanted func(*run) bool) (found []*run, total int) {
	candidates := rp.runs
	if status == "queued" || status == "in_progress" {
		candidates = rp.open
		if at.Before(now) { // a read that lags shows those as open that were completed since
			candidates = slices.Clone(candidates)
			for _, r := range slices.Backward(rp.closed) {
				if !r.closed.After(at) {
					break
				}
				candidates = put(candidates, r)
			}
		}
	}
	for _, r := range slices.Backward(candidates) {
		s, there := r.at(at)
		if there && (status == "" || status == s.status || status == s.conclusion) && wanted(r) {
			if found = append(found, r); len(found) == maxResults {
				break
			}
		}
	}
	return found, len(found)
}

// created reads the search ?created= has: a date or a time, >, >=, < or <= before it, or two with .. between.
func created(text string) (func(*run) bool, error) {
	if text == "" {
		return func(*run) bool { return true }, nil
	}
	when := func(s string) (time.Time, error) {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			return t, nil
		}
		return time.Parse(time.DateOnly, s)
	}
	from, to := time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	var err error
	if low, high, ok := strings.Cut(text, ".."); ok {
		if low != "*" {
			from, err = when(low)
		}
		if high != "*" && err == nil {
			to, err = when(high)
		}
	} else {
		rest := strings.TrimLeft(text, "<>=")
		t, e := when(rest)
		err = e
		switch op := strings.TrimSuffix(text, rest); op {
		case ">=":
			from = t
		case ">":
			from = t.Add(time.Second)
		case "<=":
			to = t
		case "<":
			to = t.Add(-time.Second)
		default:
			from, to = t, t
			if len(rest) == len(time.DateOnly) {
				to = t.Add(24*time.Hour - time.Second)
			}
		}
	}
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "Validation Failed")
	}
	return func(r *run) bool { c := r.first().CreatedAt; return !c.Before(from) && !c.After(to) }, nil
}

func (g *GitHub) listRuns(r *http.Request, o *owner) (int, any, error) {
	rp, err := g.repoAt(r)
	if err != nil {
		return 0, nil, err
	}
	wanted, err := created(r.FormValue("created"))
	if err != nil {
		return 0, nil, err
	}
	at := g.readAt()
	found, total := rp.search(r.FormValue("status"), at, g.cfg.Now(), wanted)
	list := []any{}
	for _, found := range paged(r, found) {
		s, _ := found.at(at)
		list = append(list, g.runJSON(o, found, s))
	}
	return http.StatusOK, listing{total: total, body: map[string]any{"total_count": total, "workflow_runs": list}}, nil
}

// runAt finds the run in the path as it was, and the attempt in the path if there is one.
func (g *GitHub) runAt(r *http.Request) (*run, runState, error) {
	rp, err := g.repoAt(r)
	if err != nil {
		return nil, runState{}, err
	}
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	at := g.readAt()
	if found, ok := g.runs[id]; ok && found.repo == rp {
		if s, there := found.at(at); there {
			if r.PathValue("attempt") == "" {
				return found, s, nil
			}
			if n, err := strconv.Atoi(r.PathValue("attempt")); err == nil && n >= 1 && n <= s.attempt {
				return found, found.of(n, at), nil
			}
		}
	}
	return nil, runState{}, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getRun(r *http.Request, o *owner) (int, any, error) {
	found, s, err := g.runAt(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, g.runJSON(o, found, s), nil
}

// listJobs lists a run's jobs: of ?filter=all attempts, or the latest of each; of one attempt, those that it had.
func (g *GitHub) listJobs(r *http.Request, _ *owner) (int, any, error) {
	found, s, err := g.runAt(r)
	if err != nil {
		return 0, nil, err
	}
	at := g.readAt()
	jobs := found.upTo(s.attempt, at)
	if r.FormValue("filter") == "all" && r.PathValue("attempt") == "" {
		jobs = slices.DeleteFunc(slices.Clone(found.jobs), func(j *job) bool { return at.Before(j.queued) })
	}
	list := []any{}
	for _, j := range paged(r, jobs) {
		list = append(list, g.jobJSON(j.at(at)))
	}
	return http.StatusOK, listing{total: len(jobs), body: map[string]any{"total_count": len(jobs), "jobs": list}}, nil
}

func (g *GitHub) jobAt(r *http.Request) (*job, error) {
	rp, err := g.repoAt(r)
	if err != nil {
		return nil, err
	}
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if j, ok := g.jobs[id]; ok && j.run.repo == rp && j.at(g.readAt()) != nil {
		return j, nil
	}
	return nil, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getJob(r *http.Request, _ *owner) (int, any, error) {
	j, err := g.jobAt(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, g.jobJSON(j.at(g.readAt())), nil
}

func (g *GitHub) rerunJob(r *http.Request, _ *owner) (int, any, error) {
	j, err := g.jobAt(r)
	if err == nil {
		_, err = g.rerun(j)
	}
	return http.StatusCreated, map[string]any{}, err
}

func (g *GitHub) rerunFailed(r *http.Request, _ *owner) (int, any, error) {
	found, _, err := g.runAt(r)
	if err != nil {
		return 0, nil, err
	}
	var failed []*job
	for _, j := range found.upTo(found.attempt, g.cfg.Now()) {
		if j.Conclusion != "success" {
			failed = append(failed, j)
		}
	}
	if len(failed) == 0 {
		return 0, nil, refuse(http.StatusForbidden, saysNotRetried)
	}
	_, err = g.rerun(failed...)
	return http.StatusCreated, map[string]any{}, err
}

func (g *GitHub) cancelRun(r *http.Request, _ *owner) (int, any, error) {
	found, _, err := g.runAt(r)
	if err != nil {
		return 0, nil, err
	}
	if found.unfinished == 0 {
		return 0, nil, refuse(http.StatusConflict, saysNotCancelled)
	}
	for _, j := range slices.Clone(found.jobs) {
		g.cancel(j)
	}
	return http.StatusAccepted, map[string]any{}, nil
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
