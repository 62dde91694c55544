package githubtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// Payloads have every field that GitHub's have, so that sizes are real: 7 to 9 KB
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_job).

// event is the body of a workflow_job delivery about a job in its present state.
func (g *GitHub) event(j *job, action string) []byte {
	o := g.owners[strings.ToLower(j.Owner)]
	e := map[string]any{
		"action": action, "workflow_job": g.jobJSON(j), "installation": map[string]any{"id": o.Installation, "node_id": nodeID("I", o.Installation)},
	}
	// The rest is most of it, and made already: encoding/json would go through it once more.
	body, _ := bytes.CutSuffix(mustJSON(e), []byte("}"))
	id, login := g.userID(j.Actor)
	body = append(append(body, `,"sender":`...), g.render("user", id, login, g.userJSON)...)
	if o.Type == millrace.Organization {
		body = append(append(body, `,"organization":`...), g.render("organization", o.ID, o.Login, g.organizationJSON)...)
	}
	return slices.Concat(body, []byte(`,"repository":`), g.repository(o, j), []byte("}"))
}

// account is somebody as payloads show them.
type account struct {
	kind  string
	id    int64
	login string
}

// render makes an account's JSON once.
func (g *GitHub) render(kind string, id int64, login string, show func(int64, string) map[string]any) json.RawMessage {
	key := account{kind, id, login}
	if g.rendered[key] == nil {
		g.rendered[key] = mustJSON(show(id, login))
	}
	return g.rendered[key]
}

func (g *GitHub) organizationJSON(id int64, login string) map[string]any {
	org := map[string]any{"login": login, "id": id, "node_id": nodeID("O", id), "description": "", "avatar_url": g.avatar(id)}
	base := g.APIURL() + "orgs/" + login
	org["url"] = base
	for _, name := range []string{"repos", "events", "hooks", "issues"} {
		org[name+"_url"] = base + "/" + name
	}
	org["members_url"], org["public_members_url"] = base+"/members{/member}", base+"/public_members{/member}"
	return org
}

func mustJSON(v any) []byte {
	content, err := json.Marshal(v)
	if err != nil {
		panic("githubtest: " + err.Error()) // the payload is ours
	}
	return content
}

func (g *GitHub) jobJSON(j *job) map[string]any {
	base := fmt.Sprintf("%srepos/%s/%s", g.APIURL(), j.Owner, j.Repo)
	steps := []any{}
	for i, s := range j.Steps {
		if j.Status == "queued" {
			break // GitHub tells them once it runs
		}
		steps = append(steps, map[string]any{
			"name": s.Name, "status": s.Status, "conclusion": nullable(s.Conclusion), "number": i + 1, "started_at": moment(s.StartedAt), "completed_at": moment(s.EndedAt),
		})
	}
	m := map[string]any{
		"id": j.ID, "run_id": j.RunID, "workflow_name": j.Workflow, "head_branch": j.Branch, "run_url": fmt.Sprintf("%s/actions/runs/%d", base, j.RunID),
		"run_attempt": j.Attempt, "node_id": nodeID("CR", j.ID), "head_sha": j.sha(), "url": fmt.Sprintf("%s/actions/jobs/%d", base, j.ID),
		"html_url": g.jobURL(j), "status": j.Status, "conclusion": nullable(j.Conclusion), "created_at": j.CreatedAt.Format(time.RFC3339),
		"started_at": j.CreatedAt.Format(time.RFC3339), "completed_at": moment(j.CompletedAt), "name": j.Name, "steps": steps,
		"check_run_url": fmt.Sprintf("%s/check-runs/%d", base, j.ID), "labels": j.Labels,
		"runner_id": nil, "runner_name": nil, "runner_group_id": nil, "runner_group_name": nil,
	}
	if !j.StartedAt.IsZero() {
		m["started_at"] = j.StartedAt.Format(time.RFC3339)
	}
	if j.RunnerID != 0 {
		m["runner_id"], m["runner_name"], m["runner_group_id"], m["runner_group_name"] = j.RunnerID, j.RunnerName, 1, "Default"
	}
	return m
}

func (g *GitHub) jobURL(j *job) string {
	return fmt.Sprintf("%s/%s/%s/actions/runs/%d/job/%d", g.cfg.URL, j.Owner, j.Repo, j.RunID, j.ID)
}

func (g *GitHub) account(o *owner) map[string]any {
	m := g.user(o.Login)
	m["id"], m["node_id"], m["type"], m["avatar_url"] = o.ID, nodeID("O", o.ID), string(o.Type), g.avatar(o.ID)
	return m
}

func (g *GitHub) user(login string) map[string]any { return g.userJSON(g.userID(login)) }

// userID is whose login it is, and how they write it.
func (g *GitHub) userID(login string) (int64, string) {
	if p, ok := g.logins[strings.ToLower(login)]; ok {
		return p.ID, p.Login
	}
	return idOf("user/" + login), login
}

func (g *GitHub) userJSON(id int64, login string) map[string]any {
	api, html := g.APIURL()+"users/"+login, g.cfg.URL+"/"+login
	m := map[string]any{
		"login": login, "id": id, "node_id": nodeID("U", id), "avatar_url": g.avatar(id), "gravatar_id": "", "url": api, "html_url": html,
		"type": "User", "site_admin": false, "following_url": api + "/following{/other_user}", "gists_url": api + "/gists{/gist_id}",
		"starred_url": api + "/starred{/owner}{/repo}", "events_url": api + "/events{/privacy}",
	}
	for _, name := range []string{"followers", "subscriptions", "repos", "received_events"} {
		m[name+"_url"] = api + "/" + name
	}
	m["organizations_url"] = api + "/orgs"
	return m
}

func (g *GitHub) avatar(id int64) string { return fmt.Sprintf("%s/u/%d?v=4", g.cfg.URL, id) }

// repository is a repository as a job sees it. It is the largest part of a payload and hardly ever changes: it is made
// once.
func (g *GitHub) repository(o *owner, j *job) json.RawMessage {
	return g.repositoryJSON(o, g.repo(j.Owner, j.Repo), j.Public)
}

func (g *GitHub) repositoryJSON(o *owner, r *repo, public bool) json.RawMessage {
	if made, ok := r.rendered[[2]bool{public, r.forked}]; ok {
		return made
	}
	id, full := r.ID, r.fullName()
	api, html := g.APIURL()+"repos/"+full, g.cfg.URL+"/"+full
	created := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC).Format(time.RFC3339)
	forks := 0
	if r.forked {
		forks = 1
	}
	m := map[string]any{
		"id": id, "node_id": nodeID("R", id), "name": r.Name, "full_name": full, "private": !public, "owner": g.account(o), "html_url": html,
		"description": "A repository of the stand-in GitHub", "fork": false, "url": api, "created_at": created, "updated_at": created, "pushed_at": created,
		"git_url": "git://" + strings.TrimPrefix(html, "http://") + ".git", "ssh_url": "git@github.test:" + full + ".git", "clone_url": html + ".git",
		"svn_url": html, "homepage": nil, "size": 1024, "stargazers_count": 3, "watchers_count": 3, "language": "Go", "has_issues": true,
		"has_projects": true, "has_downloads": true, "has_wiki": false, "has_pages": false, "has_discussions": false, "forks_count": forks,
		"mirror_url": nil, "archived": false, "disabled": false, "open_issues_count": 2, "license": nil, "allow_forking": true, "is_template": false,
		"web_commit_signoff_required": false, "topics": []string{}, "visibility": map[bool]string{true: "public", false: "private"}[public],
		"forks": forks, "open_issues": 2, "watchers": 3, "default_branch": "main", "custom_properties": map[string]any{},
	}
	for name, path := range map[string]string{
		"forks": "forks", "keys": "keys{/key_id}", "collaborators": "collaborators{/collaborator}", "teams": "teams", "hooks": "hooks",
		"issue_events": "issues/events{/number}", "events": "events", "assignees": "assignees{/user}", "branches": "branches{/branch}", "tags": "tags",
		"blobs": "git/blobs{/sha}", "git_tags": "git/tags{/sha}", "git_refs": "git/refs{/sha}", "trees": "git/trees{/sha}", "statuses": "statuses/{sha}",
		"languages": "languages", "stargazers": "stargazers", "contributors": "contributors", "subscribers": "subscribers",
		"subscription": "subscription", "commits": "commits{/sha}", "git_commits": "git/commits{/sha}", "comments": "comments{/number}",
		"issue_comment": "issues/comments{/number}", "contents": "contents/{+path}", "compare": "compare/{base}...{head}", "merges": "merges",
		"archive": "{archive_format}{/ref}", "downloads": "downloads", "issues": "issues{/number}", "pulls": "pulls{/number}",
		"milestones": "milestones{/number}", "notifications": "notifications{?since,all,participating}", "labels": "labels{/name}",
		"releases": "releases{/id}", "deployments": "deployments",
	} {
		m[name+"_url"] = api + "/" + path
	}
	r.rendered[[2]bool{public, r.forked}] = mustJSON(m)
	return r.rendered[[2]bool{public, r.forked}]
}

func nodeID(kind string, id int64) string { return fmt.Sprintf("%s_kgDO%012x", kind, id) }

func moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format(time.RFC3339)
}
