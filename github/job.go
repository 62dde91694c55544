package github

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Shapes of https://docs.github.com/en/rest/actions/workflow-runs, /workflow-jobs and /rest/apps/installations; a job names
// neither its repository nor who started it, its run does. go-github v53 lacks the triggering actor.
type (
	run struct {
		ID              int64              `json:"id"`
		Repository      *github.Repository `json:"repository"`
		HeadRepository  *github.Repository `json:"head_repository"`  // whose code it is; null when that fork was deleted
		TriggeringActor *github.User       `json:"triggering_actor"` // of this attempt
		Actor           *github.User       `json:"actor"`            // of the first
	}
	listing struct {
		TotalCount   int                   `json:"total_count"`
		Runs         []run                 `json:"workflow_runs"`
		Jobs         []*github.WorkflowJob `json:"jobs"`
		Repositories []*github.Repository  `json:"repositories"`
		Groups       []runnerGroup         `json:"runner_groups"`
	}
)

const (
	perPage = 100 // GitHub's most
	// maxRunPages: GitHub gives the newest 1,000 of a list of runs that is filtered.
	maxRunPages = 10
	// maxPages ends a list that never does.
	maxPages = 1000
)

// pages reads a list page by page until total_count are seen: a page may be short without being the last. The answer is the
// last one, that of the call which failed too.
func (a *App) pages(ctx context.Context, installation int64, path, filter string, most int, take func(listing) int) (got answer, err error) {
	for page, seen := 1, 0; page <= most; page++ {
		var l listing
		got, err = a.do(ctx, installation, http.MethodGet, fmt.Sprintf("%s?%sper_page=%d&page=%d", path, filter, perPage, page), nil, &l)
		if err != nil {
			return got, err
		}
		n := take(l)
		if seen += n; n == 0 || seen >= l.TotalCount {
			break
		}
	}
	return got, nil
}

// OpenJobs reads the jobs of the repository's runs that are queued or in progress, one call for each run, most of which cost
// nothing (see conditional). When a call fails, the jobs that were read come with the error: they are true, and the next time
// they are had for nothing.
func (a *App) OpenJobs(ctx context.Context, at millrace.RepositoryTarget) (open millrace.OpenJobs, err error) {
	path, err := repositoryPath(at)
	if err != nil {
		return open, err
	}
	path += "/actions/runs"
	var runs []run
	known := map[int64]bool{}
	for _, status := range []string{"queued", "in_progress"} { // in this order: a run that moves on meanwhile is in both
		got, err := a.pages(ctx, at.InstallationID, path, "status="+status+"&", maxRunPages, func(l listing) int {
			for _, r := range l.Runs {
				if !known[r.ID] {
					known[r.ID] = true
					runs = append(runs, r)
				}
			}
			return len(l.Runs)
		})
		open.Quota = cmp.Or(got.quota(), open.Quota)
		if err != nil {
			return open, fmt.Errorf("listing %s runs of %s: %w", status, at.FullName, err)
		}
	}
	for _, r := range runs {
		got, err := a.pages(ctx, at.InstallationID, fmt.Sprintf("%s/%d/jobs", path, r.ID), "filter=latest&", maxPages, func(l listing) int {
			for _, j := range l.Jobs {
				// What lacks what a job must have, or has a status that we don't know, must not hide its neighbours.
				if event, ok := r.event(at.InstallationID, j); ok {
					open.Jobs = append(open.Jobs, *event)
				}
			}
			return len(l.Jobs)
		})
		open.Quota = cmp.Or(got.quota(), open.Quota)
		if err != nil && (got.status != http.StatusNotFound || millrace.ConditionOf(err) != nil) { // 404: the run was deleted meanwhile
			return open, fmt.Errorf("listing the jobs of run %d of %s: %w", r.ID, at.FullName, err)
		}
	}
	return open, nil
}

// event is what a job of this run is.
func (r run) event(installation int64, j *github.WorkflowJob) (*millrace.JobEvent, bool) {
	event, ok := jobEvent(installation, r.Repository, cmp.Or(r.TriggeringActor, r.Actor), j)
	if ok {
		event.Job.Zone, event.Job.ZoneKnown = millrace.ZoneOf(event.Job.Private, r.fromFork()), true
	}
	return event, ok
}

// fromFork reports whether the run is of another repository's code: of a fork's, in which anybody may have written it. That
// goes for every event of its pull requests, pull_request_target too: its workflow is the base's, and what it checks out need
// not be.
func (r run) fromFork() bool { return r.HeadRepository.GetID() != r.Repository.GetID() }

// FromFork reads a run (GET …/actions/runs/{id}).
func (a *App) FromFork(ctx context.Context, at millrace.RepositoryTarget, id int64) (bool, error) {
	path, err := repositoryPath(at)
	if err != nil {
		return false, err
	}
	var r run
	if _, err := a.do(ctx, at.InstallationID, http.MethodGet, fmt.Sprintf("%s/actions/runs/%d", path, id), nil, &r); err != nil {
		return false, fmt.Errorf("reading run %d of %s: %w", id, at.FullName, err)
	}
	if r.ID != id || r.Repository.GetID() <= 0 {
		return false, millrace.Errorf(millrace.Unavailable, "GitHub's answer is not run %d.", id)
	}
	return r.fromFork(), nil
}

// Job reads one job (GET …/actions/jobs/{id}) and its run.
func (a *App) Job(ctx context.Context, at millrace.RepositoryTarget, id int64) (millrace.JobEvent, error) {
	path, err := repositoryPath(at)
	if err != nil {
		return millrace.JobEvent{}, err
	}
	var j github.WorkflowJob
	if _, err := a.do(ctx, at.InstallationID, http.MethodGet, fmt.Sprintf("%s/actions/jobs/%d", path, id), nil, &j); err != nil {
		return millrace.JobEvent{}, fmt.Errorf("reading job %d of %s: %w", id, at.FullName, err)
	}
	var r run
	if _, err := a.do(ctx, at.InstallationID, http.MethodGet, fmt.Sprintf("%s/actions/runs/%d", path, j.GetRunID()), nil, &r); err != nil {
		return millrace.JobEvent{}, fmt.Errorf("reading run %d of %s: %w", j.GetRunID(), at.FullName, err)
	}
	event, ok := r.event(at.InstallationID, &j)
	if !ok || j.GetID() != id {
		return millrace.JobEvent{}, millrace.Errorf(millrace.Unavailable, "GitHub's answer is not job %d.", id)
	}
	return *event, nil
}
