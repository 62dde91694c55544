// Package testrunner stands in for GitHub's actions/runner inside a VM. It knows nothing but its JIT config, speaks to
// the stand-in GitHub's broker (github/githubtest/broker.go documents the protocol), runs one job and ends. It prints the
// lines that actions/runner prints.
package testrunner

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

type jitConfig struct {
	ServerURL  string `json:"server_url"`
	RunnerName string `json:"runner_name"`
	Token      string `json:"token"`
}

type job struct {
	ID         int64             `json:"id"`
	RunID      int64             `json:"run_id"`
	Repository string            `json:"repository"`
	Name       string            `json:"name"`
	Steps      []step            `json:"steps"`
	Env        map[string]string `json:"env"`
}

type step struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Run    string `json:"run"`
}

// Shell runs one step's script with an environment and writes what it prints; an error is a failed step.
type Shell func(ctx context.Context, script string, env []string, out io.Writer) error

type runner struct {
	config jitConfig
	client *http.Client
	out    io.Writer
	shell  Shell
	terse  bool // it tells of its job no more than that it ended
}

func newRunner(shell Shell) *runner {
	return &runner{client: &http.Client{Timeout: 40 * time.Second}, shell: shell}
}

var (
	errGone      = errors.New("the registration is gone")
	errCancelled = errors.New("the job was cancelled")
)

// Run is the runner: it connects, waits for one job, runs it and returns the process's exit code: 0 after a job, 7 when
// GitHub serves its version no more, otherwise 1. What it prints goes to out.
func Run(ctx context.Context, jit string, out io.Writer, shell Shell) (code int) {
	return newRunner(shell).main(ctx, jit, out)
}

func (r *runner) main(ctx context.Context, jit string, out io.Writer) (code int) {
	r.out = out
	content, err := base64.StdEncoding.DecodeString(jit)
	if err == nil {
		err = json.Unmarshal(content, &r.config)
	}
	if err != nil {
		fmt.Fprintln(out, "The JIT config can't be read.")
		return 1
	}
	err = r.work(ctx)
	var old *tooOldError
	switch {
	case errors.As(err, &old):
		fmt.Fprintf(out, "An error occured: %s\n", old.Message) //nolint:misspell // so does actions/runner
		return exitTooOld
	case err != nil:
		fmt.Fprintf(out, "The runner ends: %v\n", err)
		return 1
	}
	return 0
}

// exitTooOld is what actions/runner exits with when GitHub serves its version no more (Constants.Runner.ReturnCode,
// RunnerVersionDeprecated).
const exitTooOld = 7

// tooOldError is the broker's refusal of the runner's version.
type tooOldError struct {
	Kind    string `json:"errorKind"`
	Message string `json:"errorMessage"`
}

func (e *tooOldError) Error() string { return e.Message }

func (r *runner) work(ctx context.Context) error {
	if err := r.call(ctx, "session", struct{}{}, nil); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "\n√ Connected to GitHub\n\n%s: Listening for Jobs\n", stamp())
	for {
		var answer struct {
			Job *job `json:"job"`
		}
		if err := r.call(ctx, "poll", struct{}{}, &answer); err != nil {
			return err
		}
		if answer.Job != nil {
			return r.run(ctx, answer.Job)
		}
	}
}

func stamp() string { return time.Now().UTC().Format("2006-01-02 15:04:05Z") }

func (r *runner) run(ctx context.Context, j *job) error {
	fmt.Fprintf(r.out, "%s: Running job: %s\n", stamp(), j.Name)
	log := &logWriter{post: func(chunk []byte) error { return r.tell(ctx, fmt.Sprintf("jobs/%d/log", j.ID), chunk) }, wake: make(chan struct{}, 1)}
	flushed := make(chan struct{})
	go func() { defer close(flushed); log.flushForever() }()
	both := io.MultiWriter(r.out, log)
	running, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); r.watch(running, j, stop) }()
	conclusion, result := "success", "Succeeded"
	for _, s := range j.Steps {
		if conclusion != "success" {
			break
		}
		if err := r.step(running, j, s, both); err != nil {
			conclusion, result = "failure", "Failed"
			if errors.Is(err, errCancelled) || errors.Is(context.Cause(running), errCancelled) {
				err, conclusion, result = errCancelled, "cancelled", "Canceled"
			}
			fmt.Fprintf(both, "Error: %v\n", err)
		}
	}
	stop(nil)
	<-watched
	log.close()
	<-flushed
	if err := r.call(ctx, fmt.Sprintf("jobs/%d/complete", j.ID), map[string]string{"conclusion": conclusion}, nil); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%s: Job %s completed with result: %s\n", stamp(), j.Name, result)
	return nil
}

// watch stops a job that is cancelled, or whose registration is gone, in the middle of a step.
func (r *runner) watch(ctx context.Context, j *job, stop context.CancelCauseFunc) {
	for ctx.Err() == nil && !r.terse {
		err := r.call(ctx, fmt.Sprintf("jobs/%d/watch", j.ID), struct{}{}, nil)
		if errors.Is(err, errCancelled) || errors.Is(err, errGone) {
			stop(err)
		} else if err != nil { // the broker can't be reached; the steps' own calls say so
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
		}
	}
}

func (r *runner) step(ctx context.Context, j *job, s step, out io.Writer) error {
	path := fmt.Sprintf("jobs/%d/steps/%d", j.ID, s.Number)
	if err := r.tell(ctx, path, []byte(`{"status":"in_progress"}`)); err != nil {
		return err
	}
	fmt.Fprintf(out, "##[group]%s\n", s.Name)
	env := []string{
		"CI=true", "GITHUB_ACTIONS=true", "GITHUB_JOB=" + j.Name, "GITHUB_REPOSITORY=" + j.Repository, fmt.Sprintf("GITHUB_RUN_ID=%d", j.RunID),
		"RUNNER_NAME=" + r.config.RunnerName, "RUNNER_OS=Linux",
	}
	for k, v := range j.Env {
		env = append(env, k+"="+v)
	}
	failed := r.shell(ctx, s.Run, env, out)
	conclusion := "success"
	if failed != nil {
		conclusion = "failure"
	}
	if err := r.tell(ctx, path, fmt.Appendf(nil, `{"status":"completed","conclusion":%q}`, conclusion)); err != nil {
		return err
	}
	return failed
}

// tell says how a job goes on.
func (r *runner) tell(ctx context.Context, path string, body []byte) error {
	if r.terse {
		return nil
	}
	return r.send(ctx, path, body, nil)
}

func (r *runner) call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return r.send(ctx, path, body, out)
}

// send makes one call, and makes it again for a while when the broker can't be reached.
func (r *runner) send(ctx context.Context, path string, body []byte, out any) error {
	var last error
	for try := range 6 {
		if try > 0 {
			select {
			case <-time.After(time.Duration(try) * 500 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.config.ServerURL+"/_broker/"+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+r.config.Token)
		resp, err := r.client.Do(req)
		if err != nil {
			last = err
			continue
		}
		content, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
		resp.Body.Close()
		switch {
		case err != nil || resp.StatusCode >= 500:
			last = fmt.Errorf("the broker answered %s", resp.Status)
			continue
		case resp.StatusCode == http.StatusGone:
			return errGone
		case resp.StatusCode == http.StatusConflict:
			return errCancelled
		case resp.StatusCode == http.StatusForbidden:
			refused := &tooOldError{}
			if json.Unmarshal(content, refused) == nil && refused.Kind == "RunnerVersionTooOld" {
				return refused
			}
			return fmt.Errorf("the broker answered %s", resp.Status)
		case resp.StatusCode >= 400:
			return fmt.Errorf("the broker answered %s", resp.Status)
		case out != nil && len(content) > 0:
			return json.Unmarshal(content, out)
		}
		return nil
	}
	return last
}

// logWriter gathers what a job prints and posts it in batches.
type logWriter struct {
	post   func([]byte) error
	wake   chan struct{}
	mu     sync.Mutex
	buf    []byte
	closed bool
}

func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.buf = append(l.buf, p...)
	l.mu.Unlock()
	l.poke()
	return len(p), nil
}

func (l *logWriter) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *logWriter) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
}

const maxChunk = 512 << 10

func (l *logWriter) flushForever() {
	for {
		<-l.wake
		for {
			l.mu.Lock()
			n := min(len(l.buf), maxChunk)
			chunk := bytes.Clone(l.buf[:n])
			l.buf = l.buf[n:]
			ended := l.closed && n == 0
			l.mu.Unlock()
			if ended {
				return
			}
			if n == 0 {
				break
			}
			_ = l.post(chunk) // it was tried several times; the job goes on without this part of its log
		}
	}
}
