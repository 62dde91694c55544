package sim_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// system is one `millraced dev`, known by its ready file alone.
type system struct {
	URL           string `json:"url"`
	GitHubURL     string `json:"github_url"`
	Org           string `json:"org"`
	Owner         string `json:"owner"`
	APIToken      string `json:"api_token"`
	OtherOrg      string `json:"other_org"`
	OtherAPIToken string `json:"other_api_token"`
	SignInURL     string `json:"sign_in_url"`
	WebhookSecret string `json:"webhook_secret"`
	DatabaseURL   string `json:"database_url"`
	MetricsURL    string `json:"metrics_url"`
	PID           int    `json:"pid"`

	data string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	took time.Duration
}

// build compiles millraced as `go build ./cmd/millraced` would.
func build(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "millraced")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/millraced")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// startDev runs `millraced dev` in data and returns once it says that everything answers.
func startDev(t *testing.T, binary, data string, flags ...string) *system {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	args := append([]string{"dev", "--listen", "127.0.0.1:0", "--data", data, "--ready-file", ready}, flags...)
	s := &system{data: data, cmd: exec.Command(binary, args...), log: new(bytes.Buffer)}
	s.cmd.Stderr = s.log
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.stop(t)
		}
		if t.Failed() {
			t.Logf("millraced's log:\n%s", s.log)
		}
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Ctrl-C stops everything") {
			break
		}
	}
	s.took = time.Since(began)
	go io.Copy(io.Discard, stdout) //nolint:errcheck // ends with the process
	content, err := os.ReadFile(ready)
	if err != nil {
		t.Fatalf("millraced dev did not become ready: %v\n%s", err, s.log)
	}
	if err := json.Unmarshal(content, s); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(ready); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the ready file holds tokens and has mode %v, %v", info.Mode(), err)
	}
	return s
}

// stop sends SIGINT and fails unless the whole process tree is gone soon after.
func (s *system) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- s.cmd.Wait() }()
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("millraced ended with %v after SIGINT", err)
		}
	case <-time.After(40 * time.Second):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines say where it hangs
		<-exited                                  //nolint:errcheck // it failed already
		t.Fatal("millraced did not end within 40 s of SIGINT")
	}
	if left := processesOf(s.data); len(left) > 0 {
		t.Errorf("left running after SIGINT:\n%s", strings.Join(left, "\n"))
	}
}

// processesOf lists the processes whose command line or working directory names dir: Postgres and QEMU are started with
// paths below it.
func processesOf(dir string) (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		if bytes.Contains(cmdline, []byte(dir)) || strings.HasPrefix(cwd, dir) {
			found = append(found, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// call makes a request and decodes the answer into out, which may be nil.
func call(t *testing.T, method, url, token string, in, out any) (status int) {
	t.Helper()
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(content, out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, url, err, content)
		}
	}
	return resp.StatusCode
}

type step struct {
	Name string `json:"name"`
	Run  string `json:"run"`
}

// queue queues a job at the stand-in and returns its GitHub id.
func (s *system) queue(t *testing.T, name, label string, steps ...step) (id int64) {
	t.Helper()
	var answer struct {
		ID int64 `json:"id"`
	}
	status := call(t, http.MethodPost, s.GitHubURL+"/_standin/jobs", "", map[string]any{
		"owner": s.Owner, "repo": "engine", "workflow": "build", "name": name, "labels": []string{label},
		"steps": steps, "actor": "mona", "branch": "main",
	}, &answer)
	if status != http.StatusCreated || answer.ID == 0 {
		t.Fatalf("queueing a job answered %d and id %d", status, answer.ID)
	}
	return answer.ID
}

// standinJob is a job as the stand-in shows it.
type standinJob struct {
	Status     string          `json:"status"`
	Conclusion string          `json:"conclusion"`
	RunnerName string          `json:"runner_name"`
	Log        string          `json:"log"`
	Steps      json.RawMessage `json:"steps"`
}

func (s *system) job(t *testing.T, id int64) (job standinJob) {
	t.Helper()
	if status := call(t, http.MethodGet, fmt.Sprintf("%s/_standin/jobs/%d", s.GitHubURL, id), "", nil, &job); status != http.StatusOK {
		t.Fatalf("the stand-in's job answered %d", status)
	}
	return job
}

// row is a job as the REST API shows it.
type row struct {
	ID         string `json:"id"`
	GitHubID   int64  `json:"github_job_id"`
	Name       string `json:"name"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
	Repository string `json:"repository"`
	Wait       *struct {
		Code, Text string
	} `json:"wait"`
	VM *struct {
		ID     string    `json:"id"`
		State  string    `json:"state"`
		BusyAt time.Time `json:"busy_at"`
		GoneAt time.Time `json:"gone_at"`
		Usage  struct {
			PeakMemory int64 `json:"peak_memory_bytes"`
			CPUMillis  int64 `json:"cpu_ms"`
			DiskWrite  int64 `json:"disk_write_bytes"`
			NetRx      int64 `json:"net_rx_bytes"`
		} `json:"usage"`
	} `json:"vm"`
}

// rows are the org's jobs by GitHub id.
func (s *system) rows(t *testing.T) map[int64]row {
	t.Helper()
	var list struct {
		Data []row `json:"data"`
	}
	if status := call(t, http.MethodGet, s.URL+"/api/v1/orgs/"+s.Org+"/jobs?limit=100", s.APIToken, nil, &list); status != http.StatusOK {
		t.Fatalf("the API's jobs answered %d", status)
	}
	byID := make(map[int64]row, len(list.Data))
	for _, r := range list.Data {
		byID[r.GitHubID] = r
	}
	return byID
}

// within polls ok until it holds, and fails the test when it doesn't in time.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
