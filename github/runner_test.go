package github_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestRunnerRunsOneJobAndVanishes(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	jit, err := w.App.CreateJIT(ctx, w.at(), "millrace-vm-1", []string{"millrace"})
	if err != nil {
		t.Fatal(err)
	}
	find := func() millrace.Runner {
		t.Helper()
		r, err := w.App.FindRunner(ctx, w.at(), "millrace-vm-1")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := find(); r.ID != jit.RunnerID || r.Online || r.Busy {
		t.Fatalf("registered: %+v", r)
	}
	m := w.machine(t, jit.Encoded)
	if m.config.RunnerID != jit.RunnerID || m.config.RunnerName != "millrace-vm-1" {
		t.Fatalf("the JIT config is another runner's: %+v", m.config)
	}
	m.must(t, "session", "{}")
	if r := find(); !r.Online || r.Busy {
		t.Fatalf("connected: %+v", r)
	}

	id, err := w.Queue(githubtest.QueueRequest{
		Owner: "calm", Repo: "engine", Labels: []string{"millrace"}, Steps: []githubtest.QueueStep{{Name: "Test", Run: "make test"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Job githubtest.BrokerJob }
	if err := json.Unmarshal(m.must(t, "poll", "{}"), &answer); err != nil || answer.Job.ID != id || answer.Job.Steps[0].Run != "make test" {
		t.Fatalf("polled %+v, %v", answer.Job, err)
	}
	if r := find(); !r.Busy {
		t.Fatalf("running: %+v", r)
	}
	wantCode(t, w.App.DeleteRunner(ctx, w.at(), jit.RunnerID), millrace.Conflict)

	job := fmt.Sprintf("jobs/%d/", id)
	m.must(t, job+"steps/1", `{"status":"in_progress"}`)
	m.must(t, job+"log?step=1", "ok\n")
	m.must(t, job+"steps/1", `{"status":"completed","conclusion":"success"}`)
	m.must(t, job+"complete", `{"conclusion":"success"}`)
	if j, _ := w.Job(id); j.Status != "completed" || j.Conclusion != "success" || j.RunnerID != jit.RunnerID || j.RunnerName != "millrace-vm-1" || j.Log != "ok\n" {
		t.Errorf("job: %+v", j)
	}
	_, err = w.App.FindRunner(ctx, w.at(), "millrace-vm-1")
	wantCode(t, err, millrace.NotFound)
	wantCode(t, w.App.DeleteRunner(ctx, w.at(), jit.RunnerID), "")
	if status, _ := m.call(t, "poll", "{}"); status != http.StatusGone {
		t.Errorf("the runner's next call: %d, want 410", status)
	}
}

func TestCreateJIT(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	if _, err := w.App.CreateJIT(ctx, w.at(), "vm", []string{"millrace"}); err != nil {
		t.Fatal(err)
	}
	t.Run("a name is taken once in a scope", func(t *testing.T) {
		t.Parallel()
		_, err := w.App.CreateJIT(ctx, w.at(), "vm", []string{"millrace"})
		wantCode(t, err, millrace.Conflict)
		repo := w.at()
		repo.Repository = "engine"
		if _, err := w.App.CreateJIT(ctx, repo, "vm", []string{"millrace"}); err != nil {
			t.Errorf("the repository has its own names: %v", err)
		}
	})
	t.Run("an owner that GitHub doesn't know", func(t *testing.T) {
		t.Parallel()
		at := w.at()
		at.Owner = "nobody"
		_, err := w.App.CreateJIT(ctx, at, "vm", []string{"millrace"})
		wantCode(t, err, millrace.NotFound)
	})
	t.Run("a path in a name stays a name", func(t *testing.T) {
		t.Parallel()
		at := w.at()
		at.Owner = "calm/../other"
		_, err := w.App.CreateJIT(ctx, at, "vm", []string{"millrace"})
		wantCode(t, err, millrace.NotFound)
	})
	t.Run("another installation's owner", func(t *testing.T) {
		t.Parallel()
		other := w.AddOwner("other", millrace.Organization)
		_, err := w.App.CreateJIT(ctx, millrace.RunnerTarget{InstallationID: other.ID, Owner: "calm"}, "vm", []string{"millrace"})
		wantCode(t, err, millrace.NotFound)
	})
	t.Run("a personal account has repository runners only", func(t *testing.T) {
		t.Parallel()
		mona := w.AddOwner("mona", millrace.Personal)
		at := millrace.RunnerTarget{InstallationID: mona.ID, Owner: "mona"}
		_, err := w.App.CreateJIT(ctx, at, "vm", []string{"millrace"})
		wantCode(t, err, millrace.NotFound)
		at.Repository = "dotfiles"
		jit, err := w.App.CreateJIT(ctx, at, "vm", []string{"millrace"})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, w.App.DeleteRunner(ctx, at, jit.RunnerID), "")
		_, err = w.App.FindRunner(ctx, at, "vm")
		wantCode(t, err, millrace.NotFound)
	})
}

// TestRefusals are answers that the stand-in doesn't give.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reset := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	for name, tc := range map[string]struct {
		status int
		header map[string]string
		body   string
		want   millrace.Code
	}{
		"rate limit":           {403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Limit": "5000", "X-RateLimit-Reset": reset}, `{"message":"API rate limit exceeded"}`, millrace.LimitReached},
		"secondary rate limit": {403, map[string]string{"Retry-After": "60"}, `{"message":"slow down","documentation_url":"https://docs.github.com/rest#secondary-rate-limits"}`, millrace.LimitReached},
		"429":                  {429, nil, `{"message":"API rate limit exceeded"}`, millrace.LimitReached},
		"the new link":         {403, map[string]string{"Retry-After": "60"}, `{"message":"slow down","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`, millrace.LimitReached},
		"taken":                {409, nil, `{"message":"Already exists"}`, millrace.Conflict},
		"not acceptable":       {422, nil, `{"message":"Validation Failed"}`, millrace.Unprocessable}, // not Conflict: nothing is there to adopt
		"no permission":        {403, nil, `{"message":"Resource not accessible by integration"}`, millrace.Forbidden},
		"a server error":       {502, nil, `<html>Unicorn!</html>`, millrace.Unavailable},
		"not JSON":             {201, nil, `<html>`, millrace.Unavailable},
		"no runner":            {201, nil, `{"encoded_jit_config":"x"}`, millrace.Unavailable},
		"no configuration":     {201, nil, `{"runner":{"id":7}}`, millrace.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newApp(t, w.GitHub, answering(w.GitHub, func(r *http.Request) (*http.Response, error) {
				rec := httptest.NewRecorder()
				for k, v := range tc.header {
					rec.Header().Set(k, v)
				}
				rec.WriteHeader(tc.status)
				io.WriteString(rec, tc.body)
				return response(rec, r), nil
			}))
			_, err := app.CreateJIT(t.Context(), w.at(), "vm", []string{"millrace"})
			wantCode(t, err, tc.want)
			if strings.Contains(fmt.Sprint(err), "ghs_") {
				t.Errorf("the error shows a token: %v", err)
			}
		})
	}
}

// TestDeleteRunnerIsSure: a VM is destroyed on its word.
func TestDeleteRunnerIsSure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for status, want := range map[int]millrace.Code{
		200: millrace.Unavailable, 202: millrace.Unavailable, 204: "", 401: millrace.Forbidden, 403: millrace.Forbidden, 404: "", 409: millrace.Conflict,
		410: millrace.Unavailable, 422: millrace.Conflict, 500: millrace.Unavailable,
	} {
		app := newApp(t, w.GitHub, answering(w.GitHub, func(r *http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			rec.WriteHeader(status)
			return response(rec, r), nil
		}))
		if got := millrace.CodeOf(app.DeleteRunner(t.Context(), w.at(), 7)); got != want {
			t.Errorf("%d: %q, want %q", status, got, want)
		}
	}
}

// TestAnOwnerThatTookTheAppAway: a token is refused; that says nothing of the runner.
func TestAnOwnerThatTookTheAppAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, status := range []int{401, 403, 404} {
		app := newApp(t, w.GitHub, roundTripper(func(r *http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			rec.WriteHeader(status)
			return response(rec, r), nil
		}))
		wantCode(t, app.DeleteRunner(t.Context(), w.at(), 7), millrace.Forbidden)
	}
}

// TestARevokedTokenIsReplaced: GitHub revokes tokens when an installation is suspended.
func TestARevokedTokenIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var revoked atomic.Value
	revoked.Store("")
	refused := 0
	app := newApp(t, w.GitHub, answering(w.GitHub, func(r *http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		if auth := r.Header.Get("Authorization"); refused == 0 {
			revoked.Store(auth)
			refused++
			rec.WriteHeader(http.StatusUnauthorized)
		} else if auth == revoked.Load() {
			t.Error("the revoked token was used again")
		} else {
			w.ServeHTTP(rec, r)
		}
		return response(rec, r), nil
	}))
	if _, err := app.CreateJIT(t.Context(), w.at(), "vm", []string{"millrace"}); err != nil {
		t.Error(err)
	}
}

func TestInstallationsAreIndependent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all sync.WaitGroup
	for _, login := range []string{"calm", "other", "third"} {
		at := millrace.RunnerTarget{InstallationID: w.AddOwner(login, millrace.Organization).ID, Owner: login}
		for i := range 3 {
			all.Go(func() {
				if _, err := w.App.CreateJIT(t.Context(), at, fmt.Sprintf("vm-%d", i), []string{"millrace"}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

func TestAnAppWithAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	app, err := github.New(github.Config{APIURL: w.APIURL(), AppID: w.AppID(), PrivateKeyPEM: other.PrivateKeyPEM(), Transport: w.client.Transport})
	if err != nil {
		t.Fatal(err)
	}
	_, err = app.FindRunner(t.Context(), w.at(), "vm")
	wantCode(t, err, millrace.Forbidden) // and not NotFound: an App that may not ask doesn't know that a runner is gone
}

func TestNewRefusesAConfigThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]github.Config{
		"no URL":               {},
		"no key":               {APIURL: "https://api.github.com/"},
		"a key that isn't PEM": {APIURL: "https://api.github.com", PrivateKeyPEM: []byte("hello")},
	} {
		if _, err := github.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestInstallationTokens: a token is asked for once, and anew before it expires.
func TestInstallationTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gh, err := githubtest.New(githubtest.Config{URL: "http://github.test"})
		if err != nil {
			t.Fatal(err)
		}
		defer gh.Close()
		owner := gh.AddOwner("calm", millrace.Organization)
		app := newApp(t, gh, answering(gh, nil))
		at := millrace.RunnerTarget{InstallationID: owner.ID, Owner: "calm"}
		tokens := func() (n int) {
			for _, c := range gh.Calls() {
				if strings.HasSuffix(c.Path, "/access_tokens") {
					n++
				}
				if c.Status == http.StatusUnauthorized {
					t.Errorf("%s %s was refused", c.Method, c.Path)
				}
			}
			return n
		}
		for range 3 {
			_, err := app.FindRunner(t.Context(), at, "vm")
			wantCode(t, err, millrace.NotFound)
		}
		if n := tokens(); n != 1 {
			t.Errorf("%d tokens for three calls, want 1", n)
		}
		time.Sleep(time.Hour - 30*time.Second)
		_, err = app.FindRunner(t.Context(), at, "vm")
		wantCode(t, err, millrace.NotFound)
		if n := tokens(); n != 2 {
			t.Errorf("%d tokens half a minute before the first expires, want 2", n)
		}
	})
}

// TestACallEnds: GitHub may hang; no caller does.
func TestACallEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gh, err := githubtest.New(githubtest.Config{URL: "http://github.test"})
		if err != nil {
			t.Fatal(err)
		}
		defer gh.Close()
		at := millrace.RunnerTarget{InstallationID: gh.AddOwner("calm", millrace.Organization).ID, Owner: "calm"}
		hang := func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		began := time.Now()
		_, err = newApp(t, gh, answering(gh, hang)).FindRunner(t.Context(), at, "vm")
		wantCode(t, err, millrace.Unavailable)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		began = time.Now()
		_, err = newApp(t, gh, roundTripper(hang)).FindRunner(t.Context(), at, "vm") // not even a token
		wantCode(t, err, millrace.Unavailable)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("without a token: took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		_, err = newApp(t, gh, answering(gh, hang)).FindRunner(ctx, at, "vm")
		wantCode(t, err, millrace.Unavailable)
		if took := time.Since(began); took != time.Second {
			t.Errorf("the caller's second took %v", took)
		}
	})
}

// TestFindRunnerWantsTheExactName, whatever a server makes of the filter.
func TestFindRunnerWantsTheExactName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var query atomic.Value
	app := newApp(t, w.GitHub, answering(w.GitHub, func(r *http.Request) (*http.Response, error) {
		query.Store(r.URL.Query().Get("name"))
		rec := httptest.NewRecorder()
		io.WriteString(rec, `{"total_count":2,"runners":[{"id":1,"name":"vm-10"},{"id":2,"name":"vm-1","status":"online","busy":true}]}`)
		return response(rec, r), nil
	}))
	r, err := app.FindRunner(t.Context(), w.at(), "vm-1")
	if err != nil || r != (millrace.Runner{ID: 2, Name: "vm-1", Online: true, Busy: true}) {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = app.FindRunner(t.Context(), w.at(), "vm & co")
	wantCode(t, err, millrace.NotFound)
	if query.Load() != "vm & co" {
		t.Errorf("asked for %q", query.Load())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering reaches gh without a network, but for the runners' endpoints when runners is given.
func answering(gh *githubtest.GitHub, runners roundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if runners != nil && strings.Contains(r.URL.Path, "/runners") {
			return runners(r)
		}
		rec := httptest.NewRecorder()
		gh.ServeHTTP(rec, r)
		return response(rec, r), nil
	})
}

func response(rec *httptest.ResponseRecorder, r *http.Request) *http.Response {
	resp := rec.Result()
	resp.Request = r
	return resp
}

func TestGroupAdmits(t *testing.T) {
	t.Parallel()
	const ours, other, private = `{"id":1,"allows_public_repositories":true}`, `{"id":2,"allows_public_repositories":true}`, `{"id":1,"allows_public_repositories":false}`
	for name, c := range map[string]struct {
		groups string
		public bool
		want   bool
	}{
		"our runners' group":              {ours, true, true},
		"none":                            {``, false, false},
		"others only":                     {other, false, false},
		"among others":                    {other + "," + ours, false, true},
		"a group for private ones, one":   {private, false, true},
		"a group for private ones, not":   {private, true, false},
		"a server that knows no such bit": {`{"id":1}`, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			total := strings.Count(c.groups, `"id"`)
			f := newFar(t, map[string]http.HandlerFunc{
				"GET /orgs/calm/actions/runner-groups": says(http.StatusOK, fmt.Sprintf(`{"total_count":%d,"runner_groups":[%s]}`, total, c.groups)),
			})
			got, err := f.App.GroupAdmits(t.Context(), f.org(), millrace.Repository{FullName: "calm/engine", Private: !c.public})
			if err != nil || got != c.want {
				t.Errorf("%v, %v", got, err)
			}
			if calls := f.asked(); len(calls) != 1 || calls[0] != "GET /orgs/calm/actions/runner-groups?visible_to_repository=engine&per_page=100&page=1" {
				t.Errorf("asked %q", calls)
			}
		})
	}
	t.Run("a repository's own runners", func(t *testing.T) {
		t.Parallel()
		f := newFar(t, nil)
		at := f.org()
		at.Repository = "engine"
		if got, err := f.App.GroupAdmits(t.Context(), at, millrace.Repository{FullName: "calm/engine"}); err != nil || !got || len(f.asked()) != 0 {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("the stand-in", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		if err := w.SetFaults(githubtest.Faults{RunnerGroupExcludes: []string{"calm/engine"}}); err != nil {
			t.Fatal(err)
		}
		for repo, want := range map[string]bool{"calm/engine": false, "calm/website": true} {
			if got, err := w.App.GroupAdmits(t.Context(), w.at(), millrace.Repository{FullName: repo}); err != nil || got != want {
				t.Errorf("%s: %v, %v", repo, got, err)
			}
		}
	})
}
