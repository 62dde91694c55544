package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/millrace-ci/millrace"
)

// Shapes of https://docs.github.com/en/rest/actions/self-hosted-runners; go-github v53 lacks the runner that comes with
// a JIT config and the filter by name.
type (
	jitRequest struct {
		Name          string   `json:"name"`
		RunnerGroupID int64    `json:"runner_group_id"`
		Labels        []string `json:"labels"`
		WorkFolder    string   `json:"work_folder"`
	}
	jitResponse struct {
		Runner  runner `json:"runner"`
		Encoded string `json:"encoded_jit_config"`
	}
	runner struct {
		ID     int64  `json:"id"`
		Name   string `json:"name"`
		Status string `json:"status"`
		Busy   bool   `json:"busy"`
	}
	// https://docs.github.com/en/rest/actions/self-hosted-runner-groups
	runnerGroup struct {
		ID     int64 `json:"id"`
		Public *bool `json:"allows_public_repositories"`
	}
)

// defaultGroup is the runner group that every owner has.
const defaultGroup = 1

// runnersPath is the runners of an organisation or of one repository.
func runnersPath(at millrace.RunnerTarget) string {
	if at.Repository == "" {
		return "orgs/" + url.PathEscape(at.Owner) + "/actions/runners"
	}
	return "repos/" + url.PathEscape(at.Owner) + "/" + url.PathEscape(at.Repository) + "/actions/runners"
}

// CreateJIT registers an ephemeral runner that may run one job (POST …/runners/generate-jitconfig).
func (a *App) CreateJIT(ctx context.Context, at millrace.RunnerTarget, name string, labels []string) (millrace.JITConfig, error) {
	var out jitResponse
	_, err := a.do(ctx, at.InstallationID, http.MethodPost, runnersPath(at)+"/generate-jitconfig",
		jitRequest{Name: name, RunnerGroupID: defaultGroup, Labels: labels, WorkFolder: "_work"}, &out)
	if err != nil {
		return millrace.JITConfig{}, fmt.Errorf("registering runner %s: %w", name, err)
	}
	if out.Runner.ID == 0 || out.Encoded == "" {
		return millrace.JITConfig{}, millrace.Errorf(millrace.Unavailable, "GitHub answered without a runner or its configuration.")
	}
	return millrace.JITConfig{RunnerID: out.Runner.ID, Encoded: millrace.Secret(out.Encoded)}, nil
}

// FindRunner finds a runner by its exact name (GET …/runners?name=).
func (a *App) FindRunner(ctx context.Context, at millrace.RunnerTarget, name string) (millrace.Runner, error) {
	var out struct {
		Runners []runner `json:"runners"`
	}
	if _, err := a.do(ctx, at.InstallationID, http.MethodGet, runnersPath(at)+"?per_page=100&name="+url.QueryEscape(name), nil, &out); err != nil {
		return millrace.Runner{}, fmt.Errorf("finding runner %s: %w", name, err)
	}
	for _, r := range out.Runners {
		if r.Name == name {
			return millrace.Runner{ID: r.ID, Name: r.Name, Online: r.Status == "online", Busy: r.Busy}, nil
		}
	}
	return millrace.Runner{}, millrace.Errorf(millrace.NotFound, "GitHub has no runner named %s.", name)
}

// ListRunners lists all runners there (GET …/runners).
func (a *App) ListRunners(ctx context.Context, at millrace.RunnerTarget) (list []millrace.Runner, err error) {
	const perPage = 100
	for page := 1; ; page++ {
		var out struct {
			Runners []runner `json:"runners"`
		}
		if _, err := a.do(ctx, at.InstallationID, http.MethodGet, fmt.Sprintf("%s?per_page=%d&page=%d", runnersPath(at), perPage, page), nil, &out); err != nil {
			return nil, fmt.Errorf("listing runners: %w", err)
		}
		for _, r := range out.Runners {
			list = append(list, millrace.Runner{ID: r.ID, Name: r.Name, Online: r.Status == "online", Busy: r.Busy})
		}
		if len(out.Runners) < perPage {
			return list, nil
		}
	}
}

// DeleteRunner removes a registration (DELETE …/runners/{id}): 204 and 404 alone mean that it is gone, 422 that it runs
// a job.
func (a *App) DeleteRunner(ctx context.Context, at millrace.RunnerTarget, id int64) error {
	got, err := a.do(ctx, at.InstallationID, http.MethodDelete, fmt.Sprintf("%s/%d", runnersPath(at), id), nil, nil)
	switch {
	case got.status == http.StatusNoContent, got.status == http.StatusNotFound:
		return nil
	case got.status == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Conflict, "Runner %d runs a job.", id), err)
	case err == nil:
		return millrace.Errorf(millrace.Unavailable, "GitHub answered %d and did not say that runner %d is gone.", got.status, id)
	}
	return fmt.Errorf("removing runner %d: %w", id, err)
}

// GroupAdmits reports whether our runners' group may be used by a repository (GET …/runner-groups?visible_to_repository=, its
// name without the owner). GitHub does not document whether that leaves out groups that admit no public repository, which is
// the default: so it is looked at, too. Runners of a repository of its own are in no group that could exclude it.
func (a *App) GroupAdmits(ctx context.Context, at millrace.RunnerTarget, r millrace.Repository) (admits bool, err error) {
	if at.Repository != "" {
		return true, nil
	}
	_, name, _ := strings.Cut(r.FullName, "/")
	_, err = a.pages(ctx, at.InstallationID, "orgs/"+url.PathEscape(at.Owner)+"/actions/runner-groups", "visible_to_repository="+url.QueryEscape(name)+"&", maxPages, func(l listing) int {
		for _, g := range l.Groups {
			if g.ID == defaultGroup && (r.Private || g.Public == nil || *g.Public) {
				admits = true
			}
		}
		return len(l.Groups)
	})
	if err != nil {
		return false, fmt.Errorf("listing the runner groups of %s: %w", r.FullName, err)
	}
	return admits, nil
}
