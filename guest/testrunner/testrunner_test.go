package testrunner_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/guest/testrunner"
)

// register queues a job at a stand-in GitHub and returns the JIT config of a runner for it.
func register(t *testing.T, steps ...githubtest.QueueStep) (gh *githubtest.GitHub, job int64, jit string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	gh, err := githubtest.New(githubtest.Config{URL: "http://" + server.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = gh
	server.Start()
	t.Cleanup(func() { gh.Close(); server.Close() })
	gh.AddOwner("calm", millrace.Organization)
	job, err = gh.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "app", Labels: []string{"millrace"}, Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(gh.RegisterRunner("calm", "r-1", []string{"millrace"}))
	if err != nil {
		t.Fatal(err)
	}
	return gh, job, base64.StdEncoding.EncodeToString(config)
}

func TestRun(t *testing.T) {
	t.Parallel()
	gh, id, jit := register(t, githubtest.QueueStep{Name: "one", Run: "first"}, githubtest.QueueStep{Name: "two", Run: "fail"}, githubtest.QueueStep{Name: "three", Run: "never"})
	var out bytes.Buffer
	var ran []string
	code := testrunner.Run(t.Context(), jit, &out, func(_ context.Context, script string, env []string, out io.Writer) error {
		ran = append(ran, script)
		fmt.Fprintf(out, "printed by %s\n", script)
		if !strings.Contains(strings.Join(env, " "), "GITHUB_REPOSITORY=calm/app") {
			t.Errorf("the environment is %v", env)
		}
		if script == "fail" {
			return errors.New("exit status 1")
		}
		return nil
	})
	job, _ := gh.Job(id)
	if diff := cmp.Diff([]string{"first", "fail"}, ran); diff != "" || code != 0 || job.Conclusion != "failure" || job.RunnerName != "r-1" {
		t.Errorf("ran %v, exit code %d, job %+v", ran, code, job)
	}
	for _, want := range []string{"Listening for Jobs", "Running job: build", "printed by first", "completed with result: Failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the console doesn't say %q:\n%s", want, out.String())
		}
	}
	if !strings.Contains(job.Log, "printed by fail") || strings.Contains(job.Log, "Listening") {
		t.Errorf("the job's log:\n%s", job.Log)
	}
	if gh.Runners() != 0 {
		t.Error("the registration outlived its job")
	}
}

func TestRunRefused(t *testing.T) {
	t.Parallel()
	_, _, jit := register(t)
	for name, config := range map[string]string{
		"not base64":    "§",
		"not JSON":      base64.StdEncoding.EncodeToString([]byte("no")),
		"a wrong token": base64.StdEncoding.EncodeToString([]byte(strings.Replace(decoded(t, jit), `"token":"`, `"token":"x`, 1))),
	} {
		if code := testrunner.Run(t.Context(), config, io.Discard, nil); code == 0 {
			t.Errorf("%s: exit code 0", name)
		}
	}
}

// TestRunTooOld: GitHub serves the runner's version no more, which it says with its exit code as actions/runner does.
func TestRunTooOld(t *testing.T) {
	t.Parallel()
	gh, id, jit := register(t)
	if err := gh.SetFaults(githubtest.Faults{RunnerVersionTooOld: githubtest.Owners{"calm"}}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := testrunner.Run(t.Context(), jit, &out, nil); code != 7 || !strings.Contains(out.String(), "is deprecated and cannot receive messages") {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	if job, _ := gh.Job(id); job.Status != "queued" {
		t.Errorf("%+v", job)
	}
}

// TestRunCrashes: a runner that takes its job and is heard no more leaves it in progress.
func TestRunCrashes(t *testing.T) {
	t.Parallel()
	gh, id, jit := register(t)
	if err := gh.SetFaults(githubtest.Faults{CrashAfterAssign: 1}); err != nil {
		t.Fatal(err)
	}
	if code := testrunner.Run(t.Context(), jit, io.Discard, nil); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if job, _ := gh.Job(id); job.Status != "in_progress" || gh.Runners() != 1 {
		t.Errorf("%+v", job)
	}
}

// TestRunCancelled: a job is cancelled in the middle of a step that says nothing.
func TestRunCancelled(t *testing.T) {
	t.Parallel()
	gh, id, jit := register(t, githubtest.QueueStep{Name: "one", Run: "first"}, githubtest.QueueStep{Name: "two", Run: "never"})
	var out bytes.Buffer
	testrunner.Run(t.Context(), jit, &out, func(ctx context.Context, script string, _ []string, _ io.Writer) error {
		if script != "first" {
			t.Errorf("step %s ran", script)
		}
		w := httptest.NewRecorder()
		gh.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("/_standin/jobs/%d/cancel", id), http.NoBody))
		<-ctx.Done()
		return ctx.Err()
	})
	if job, _ := gh.Job(id); job.Conclusion != "cancelled" || !strings.Contains(out.String(), "completed with result: Canceled") {
		t.Errorf("job %+v\n%s", job, out.String())
	}
}

func decoded(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
