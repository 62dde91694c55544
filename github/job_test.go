package github_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

// runJSON and jobJSON are runs and jobs with the fields that the product reads, as GitHub's descriptions of
// /rest/actions/workflow-runs and /rest/actions/workflow-jobs have them, and a few that it doesn't.
func runJSON(id int) string {
	return fmt.Sprintf(`{"id":%d,"name":"ci","status":"queued","conclusion":null,"run_attempt":2,"event":"push","workflow_id":9,
		"actor":{"login":"octocat","id":31,"type":"User"},"triggering_actor":{"login":"mona","id":32,"type":"User"},
		"repository":{"id":41,"name":"engine","full_name":"calm/engine","private":true,"owner":{"login":"calm","id":51,"type":"Organization"}},
		"head_repository":{"id":41,"full_name":"calm/engine","private":true}}`, id)
}

func jobJSON(id, run int, status, more string) string {
	return fmt.Sprintf(`{"id":%d,"run_id":%d,"run_attempt":2,"workflow_name":"ci","head_branch":"feature/x","head_sha":"f00","name":"test (1)",
		"html_url":"https://github.test/calm/engine/actions/runs/%[2]d/job/%[1]d","status":%[3]q,"conclusion":null,"created_at":"2026-11-01T08:59:00Z",
		"started_at":"2026-11-01T08:59:00Z","completed_at":null,"steps":[],"labels":["millrace","GPU"],"runner_id":null,"runner_name":null,
		"runner_group_id":null,"runner_group_name":null%[4]s}`, id, run, status, more)
}

func list(name string, total int, items ...string) string {
	return fmt.Sprintf(`{"total_count":%d,%q:[%s]}`, total, name, strings.Join(items, ","))
}

const (
	runsRoute = "GET /repos/calm/engine/actions/runs"
	runRoute  = "GET /repos/calm/engine/actions/runs/{id}"
	jobsRoute = "GET /repos/calm/engine/actions/runs/{id}/jobs"
	jobRoute  = "GET /repos/calm/engine/actions/jobs/{id}"
)

// byQuery answers by a parameter of the query.
func byQuery(name string, answers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h := answers[r.URL.Query().Get(name)]; h != nil {
			h(w, r)
			return
		}
		says(500, `{"message":"not asked for in this test"}`)(w, r)
	}
}

// byRun answers by the run in the path.
func byRun(answers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { answers[r.PathValue("id")](w, r) }
}

func TestOpenJobs(t *testing.T) {
	t.Parallel()
	quota := func(remaining int) []string {
		return []string{"X-RateLimit-Limit: 5000", "X-RateLimit-Remaining: " + strconv.Itoa(remaining), "X-RateLimit-Reset: 1793527200"}
	}
	f := newFar(t, map[string]http.HandlerFunc{
		runsRoute: byQuery("status", map[string]http.HandlerFunc{
			"queued":      says(200, list("workflow_runs", 1, runJSON(1))),
			"in_progress": says(200, list("workflow_runs", 3, runJSON(1), runJSON(2), runJSON(3))), // the first moved on meanwhile
		}),
		jobsRoute: byRun(map[string]http.HandlerFunc{
			"1": says(200, list("jobs", 7,
				jobJSON(11, 1, "queued", ""), jobJSON(12, 1, "waiting", ""),
				jobJSON(13, 1, "in_progress", `,"started_at":"2026-11-01T09:00:00Z","runner_id":7,"runner_name":"vm"`),
				jobJSON(14, 1, "completed", `,"conclusion":"cancelled","completed_at":"2026-11-01T09:01:00Z","runner_id":0`),
				jobJSON(15, 1, "paused", ""), jobJSON(0, 1, "queued", ""), "null"), quota(4990)...),
			"2": says(404, `{"message":"Not Found"}`), // deleted meanwhile
			"3": says(200, list("jobs", 1, jobJSON(31, 3, "queued", `,"runner_id":5,"runner_name":"GitHub Actions 5"`)), quota(4989)...),
		}),
	})
	open, err := f.App.OpenJobs(t.Context(), f.at())
	if err != nil {
		t.Fatal(err)
	}
	queued := millrace.JobEvent{
		Action: "queued", InstallationID: farInstallation, OwnerID: 51, OwnerLogin: "calm", Job: millrace.Job{
			InstallationID: farInstallation, GitHubID: 11, RunID: 1, RunAttempt: 2, RepositoryID: 41, Repository: "calm/engine", Private: true,
			Zone: millrace.ZonePrivate, ZoneKnown: true, Workflow: "ci", Name: "test (1)", Branch: "feature/x", SHA: "f00", ActorID: 32, Actor: "mona",
			Labels: []string{"millrace", "GPU"}, HTMLURL: "https://github.test/calm/engine/actions/runs/1/job/11", Status: millrace.JobQueued,
			QueuedAt: time.Date(2026, 11, 1, 8, 59, 0, 0, time.UTC),
		},
	}
	of := func(id, run int64, action string, status millrace.JobStatus, change func(*millrace.Job)) millrace.JobEvent {
		e := queued
		e.Action, e.Job.GitHubID, e.Job.RunID, e.Job.Status = action, id, run, status
		e.Job.HTMLURL = fmt.Sprintf("https://github.test/calm/engine/actions/runs/%d/job/%d", run, id)
		change(&e.Job)
		return e
	}
	began := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	want := millrace.OpenJobs{
		Jobs: []millrace.JobEvent{
			queued,
			of(12, 1, "waiting", millrace.JobWaiting, func(*millrace.Job) {}),
			of(13, 1, "in_progress", millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID, j.RunnerName, j.StartedAt = 7, "vm", began }),
			of(14, 1, "completed", millrace.JobCompleted, func(j *millrace.Job) {
				j.Conclusion, j.StartedAt, j.CompletedAt = "cancelled", j.QueuedAt, began.Add(time.Minute)
			}),
			of(31, 3, "queued", millrace.JobQueued, func(*millrace.Job) {}),
		},
		Quota: millrace.Quota{Limit: 5000, Remaining: 4989, Reset: time.Unix(1793527200, 0).UTC()},
	}
	if diff := cmp.Diff(want, open); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	asked := []string{
		"GET /repos/calm/engine/actions/runs?status=queued&per_page=100&page=1", "GET /repos/calm/engine/actions/runs?status=in_progress&per_page=100&page=1",
		"GET /repos/calm/engine/actions/runs/1/jobs?filter=latest&per_page=100&page=1", "GET /repos/calm/engine/actions/runs/2/jobs?filter=latest&per_page=100&page=1",
		"GET /repos/calm/engine/actions/runs/3/jobs?filter=latest&per_page=100&page=1",
	}
	if diff := cmp.Diff(asked, f.asked()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// TestAJobIsTheSameHoweverItIsHeardOf: an event and a poll that say the same of a job make the same of it.
func TestAJobIsTheSameHoweverItIsHeardOf(t *testing.T) {
	t.Parallel()
	job := jobJSON(11, 1, "in_progress", `,"name":"a\u0000b","runner_id":7,"runner_name":"vm"`)
	f := newFar(t, map[string]http.HandlerFunc{jobRoute: says(200, job), runRoute: says(200, runJSON(1))})
	body := []byte(`{"action":"in_progress","workflow_job":` + job + `,"installation":{"id":5},"sender":{"login":"mona","id":32},
		"repository":{"id":41,"full_name":"calm/engine","private":true,"forks_count":0,"owner":{"login":"calm","id":51}}}`)
	d, err := f.App.Parse(delivered("s", "workflow_job", body), body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.App.Job(t.Context(), f.at(), 11)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*d.Job, got); diff != "" {
		t.Errorf("(-event +asked):\n%s", diff)
	}
}

// A run whose code is another repository's is a fork's; a webhook leaves that open unless nobody has a fork.
func TestFromFork(t *testing.T) {
	t.Parallel()
	const own, other = `{"id":41,"full_name":"calm/engine","private":true}`, `{"id":42,"full_name":"octocat/engine","private":false}`
	for name, tc := range map[string]struct {
		run  http.HandlerFunc
		fork bool
		want millrace.Code
	}{
		"its own":          {says(200, runJSON(1)), false, ""},
		"a fork's":         {says(200, strings.Replace(runJSON(1), own, other, 1)), true, ""},
		"a deleted fork's": {says(200, strings.Replace(runJSON(1), own, "null", 1)), true, ""},
		"no run":           {says(404, `{"message":"Not Found"}`), false, millrace.NotFound},
		"another run":      {says(200, runJSON(2)), false, millrace.Unavailable},
		"nothing":          {says(200, `{}`), false, millrace.Unavailable},
		"GitHub is down":   {says(503, ``), false, millrace.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFar(t, map[string]http.HandlerFunc{runRoute: tc.run, jobRoute: says(200, jobJSON(11, 1, "queued", ""))})
			fork, err := f.App.FromFork(t.Context(), f.at(), 1)
			wantCode(t, err, tc.want)
			if fork != tc.fork {
				t.Errorf("from a fork: %v", fork)
			}
			if tc.want != "" {
				return
			}
			e, err := f.App.Job(t.Context(), f.at(), 11)
			if want := millrace.ZoneOf(true, tc.fork); err != nil || e.Job.Zone != want || !e.Job.ZoneKnown {
				t.Errorf("the job is in the zone %s, known: %v, want %s, %v", e.Job.Zone, e.Job.ZoneKnown, want, err)
			}
		})
	}
	f := newFar(t, nil)
	for repository, known := range map[string]bool{`"private":true,"forks_count":0`: true, `"private":true,"forks_count":1`: false, `"private":true`: false, `"private":false,"forks_count":0`: false} {
		body := []byte(`{"action":"queued","workflow_job":` + jobJSON(11, 1, "queued", "") + `,"installation":{"id":5},"repository":{"id":41,"full_name":"calm/engine",` + repository + `}}`)
		d, err := f.App.Parse(delivered("s", "workflow_job", body), body)
		if err != nil || d.Job.Job.ZoneKnown != known {
			t.Errorf("%s: known: %v, %v", repository, d.Job.Job.ZoneKnown, err)
		}
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		job, run http.HandlerFunc
		want     millrace.Code
	}{
		"found":             {says(200, jobJSON(11, 1, "queued", "")), says(200, runJSON(1)), ""},
		"no triggering one": {says(200, jobJSON(11, 1, "queued", "")), says(200, strings.Replace(runJSON(1), "triggering_actor", "x", 1)), ""},
		"no job":            {says(404, `{"message":"Not Found"}`), says(200, runJSON(1)), millrace.NotFound},
		"no run":            {says(200, jobJSON(11, 1, "queued", "")), says(404, `{"message":"Not Found"}`), millrace.NotFound},
		"another job":       {says(200, jobJSON(12, 1, "queued", "")), says(200, runJSON(1)), millrace.Unavailable},
		"an unknown status": {says(200, jobJSON(11, 1, "paused", "")), says(200, runJSON(1)), millrace.Unavailable},
		"a run without":     {says(200, jobJSON(11, 1, "queued", "")), says(200, `{}`), millrace.Unavailable},
		"no JSON":           {says(200, `<html>`), says(200, runJSON(1)), millrace.Unavailable},
		"GitHub is down":    {says(503, ``), says(200, runJSON(1)), millrace.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFar(t, map[string]http.HandlerFunc{jobRoute: tc.job, runRoute: tc.run})
			got, err := f.App.Job(t.Context(), f.at(), 11)
			wantCode(t, err, tc.want)
			if tc.want != "" {
				return
			}
			actor := "mona"
			if name != "found" {
				actor = "octocat"
			}
			if got.Job.GitHubID != 11 || got.Job.Actor != actor || got.OwnerID != 51 || got.Job.RepositoryID != 41 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// pagesOf serves n items, 100 to a page; a list of runs has at most 1,000.
func pagesOf(name string, n int, item func(i int) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		var items []string
		for i := (page - 1) * 100; i < min(page*100, n, 1000); i++ {
			items = append(items, item(i))
		}
		io.WriteString(w, list(name, n, items...))
	}
}

func TestOpenJobsReadsAllPages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ runs, jobsOfEach, jobs, calls int }{
		"no run":        {0, 0, 0, 2},
		"one of a run":  {1, 1, 1, 3},
		"a full page":   {1, 100, 100, 3},
		"one more":      {101, 1, 101, 3 + 101},
		"a large one":   {1, 256, 256, 2 + 3},
		"GitHub's most": {1300, 1, 1000, 11 + 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFar(t, map[string]http.HandlerFunc{
				runsRoute: byQuery("status", map[string]http.HandlerFunc{
					"queued": pagesOf("workflow_runs", tc.runs, func(i int) string { return runJSON(i + 1) }), "in_progress": says(200, list("workflow_runs", 0)),
				}),
				jobsRoute: func(w http.ResponseWriter, r *http.Request) {
					run, _ := strconv.Atoi(r.PathValue("id"))
					pagesOf("jobs", tc.jobsOfEach, func(i int) string { return jobJSON(run*1000+i, run, "queued", "") })(w, r)
				},
			})
			open, err := f.App.OpenJobs(t.Context(), f.at())
			if calls := len(f.asked()); err != nil || len(open.Jobs) != tc.jobs || calls != tc.calls {
				t.Errorf("%d jobs in %d calls, want %d in %d: %v", len(open.Jobs), calls, tc.jobs, tc.calls, err)
			}
		})
	}
}

// TestOpenJobsEnds when total_count promises what no page holds.
func TestOpenJobsEnds(t *testing.T) {
	t.Parallel()
	f := newFar(t, map[string]http.HandlerFunc{runsRoute: says(200, list("workflow_runs", 500))})
	if open, err := f.App.OpenJobs(t.Context(), f.at()); err != nil || len(open.Jobs) != 0 {
		t.Errorf("%+v, %v", open, err)
	}
}

func TestOpenJobsGivesWhatItReadBeforeItFailed(t *testing.T) {
	t.Parallel()
	f := newFar(t, map[string]http.HandlerFunc{
		runsRoute: says(200, list("workflow_runs", 2, runJSON(1), runJSON(2))),
		jobsRoute: byRun(map[string]http.HandlerFunc{
			"1": says(200, list("jobs", 1, jobJSON(11, 1, "queued", ""))),
			"2": says(403, `{"message":"API rate limit exceeded"}`, "X-RateLimit-Limit: 5000", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1793524000"),
		}),
	})
	open, err := f.App.OpenJobs(t.Context(), f.at())
	wantCode(t, err, millrace.LimitReached)
	if c := millrace.ConditionOf(err); c == nil || c.Code != millrace.WaitRateLimited {
		t.Errorf("condition %v", c)
	}
	if len(open.Jobs) != 1 || open.Quota != (millrace.Quota{Limit: 5000, Reset: time.Unix(1793524000, 0).UTC()}) {
		t.Errorf("%+v", open)
	}
}

func TestRepositoriesAreOwnerAndName(t *testing.T) {
	t.Parallel()
	f := newFar(t, nil)
	for name, want := range map[string]millrace.Code{
		"": millrace.Invalid, "calm": millrace.Invalid, "calm/": millrace.Invalid, "/engine": millrace.Invalid, "calm/..": millrace.Invalid,
		"./engine": millrace.Invalid, "calm/engine/x": millrace.NotFound, "calm/engine?a=b": millrace.NotFound, "calm/gone": millrace.NotFound,
	} {
		at := millrace.RepositoryTarget{InstallationID: farInstallation, FullName: name}
		_, err := f.App.OpenJobs(t.Context(), at)
		wantCode(t, err, want)
		_, err = f.App.Job(t.Context(), at, 11)
		wantCode(t, err, want)
	}
	for _, call := range f.asked() {
		if !strings.HasPrefix(call, "GET /repos/calm/") || !strings.Contains(call, "/actions/") {
			t.Errorf("a name became %s", call)
		}
	}
}

// TestPollsAreConditional: GitHub is always asked, and what it says has not changed is the same as before.
func TestPollsAreConditional(t *testing.T) {
	t.Parallel()
	etag, remaining := `W/"1"`, 5000
	status := "queued"
	conditionally := func(body func() string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", etag)
			w.Header().Set("X-RateLimit-Limit", "5000")
			if r.Header.Get("If-None-Match") == etag {
				w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(remaining))
				w.WriteHeader(http.StatusNotModified)
				return
			}
			remaining--
			w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(remaining))
			io.WriteString(w, body())
		}
	}
	job := func() string { return jobJSON(11, 1, status, "") }
	f := newFar(t, map[string]http.HandlerFunc{
		runsRoute:                            conditionally(func() string { return list("workflow_runs", 1, runJSON(1)) }),
		jobsRoute:                            conditionally(func() string { return list("jobs", 1, job()) }),
		runRoute:                             conditionally(func() string { return runJSON(1) }),
		jobRoute:                             conditionally(job),
		"GET /orgs/calm/actions/runners":     conditionally(func() string { return `{"total_count":0,"runners":[]}` }),
		"GET /installation/repositories":     conditionally(func() string { return list("repositories", 0) }),
		"GET /repos/calm/other/actions/runs": conditionally(func() string { return list("workflow_runs", 0) }),
	})
	poll := func(installation int64) millrace.OpenJobs {
		t.Helper()
		open, err := f.App.OpenJobs(t.Context(), millrace.RepositoryTarget{InstallationID: installation, FullName: "calm/engine"})
		if err != nil {
			t.Fatal(err)
		}
		return open
	}
	conditional := func() int {
		return len(slices.DeleteFunc(f.asked(), func(call string) bool { return !strings.HasSuffix(call, " "+etag) }))
	}
	first := poll(farInstallation)
	if n := conditional(); n != 0 || first.Quota.Remaining != 4997 {
		t.Fatalf("the first time: %d conditional calls, %+v", n, first.Quota)
	}
	for range 3 {
		again := poll(farInstallation)
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("unchanged (-first +again):\n%s", diff)
		}
		if n := conditional(); n != 3 {
			t.Errorf("%d of 3 calls were conditional", n)
		}
	}
	remaining = 4000 // others use the quota too: the 304's own headers say so
	if got := poll(farInstallation).Quota.Remaining; got != 4000 {
		t.Errorf("the quota is an old one: %d", got)
	}
	poll(6)
	if n := conditional(); n != 3 {
		t.Errorf("another installation was asked with ours, or ours no more: %d", n)
	}
	etag, status = `W/"2"`, "in_progress"
	if got := poll(farInstallation).Jobs[0].Job.Status; got != millrace.JobInProgress {
		t.Errorf("a change was not seen: %s", got)
	}
	for range 2 {
		if _, err := f.App.Job(t.Context(), f.at(), 11); err != nil {
			t.Fatal(err)
		}
	}
	if n := conditional(); n != 2 {
		t.Errorf("%d of the second look's 2 calls were conditional", n)
	}
	for range 2 {
		if _, err := f.App.ListRunners(t.Context(), f.org()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.App.InstallationRepositories(t.Context(), farInstallation); err != nil {
			t.Fatal(err)
		}
	}
	if n := conditional(); n != 0 {
		t.Errorf("%d calls for other things were conditional", n)
	}
}
