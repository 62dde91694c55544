package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
)

func run(t *testing.T, stdin, env string, line ...string) (string, error) {
	t.Helper()
	root := command(strings.NewReader(stdin), func(k string) string { return map[string]string{"MILLRACE_ENROLL_TOKEN": env}[k] })
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(line)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	token := millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal()
	var got client.EnrollRequest
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		_ = json.NewEncoder(w).Encode(client.EnrollResponse{HostID: millrace.HostID{15: 1}, Org: "calm"})
	}))
	defer srv.Close()
	for name, from := range map[string][2]string{"stdin": {token + "\n", ""}, "environment": {"", token}} {
		dir := t.TempDir()
		out, err := run(t, from[0], from[1], "enroll", "--url", srv.URL, "--dir", dir, "--name", "h1", "--label", "gpu", "--cpu-overcommit", "2", "--memory-reserve", "1gb")
		if err != nil || !strings.Contains(out, "org calm") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if got.Token != token || got.Name != "h1" || len(got.Facts.Labels) != 1 || got.Facts.Offer != (millrace.Size{MilliCPU: got.Facts.VCPUs * 2000, MemoryMB: got.Facts.MemoryMB - 1024}) {
			t.Errorf("%s: asked %+v", name, got)
		}
		if id, err := agent.LoadIdentity(dir); err != nil || id.Org != "calm" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

// A machine whose host was removed is enrolled with the line from the page, and one that is a host is left alone: unless it is
// another control plane's, of which no token would make it this one's.
func TestEnrollIfNeeded(t *testing.T) {
	t.Parallel()
	token, dir := millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal(), t.TempDir()
	var hosts byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hosts++
		_ = json.NewEncoder(w).Encode(client.EnrollResponse{HostID: millrace.HostID{15: hosts}, Org: "calm"})
	}))
	defer srv.Close()
	enroll := func(url string) (string, error) {
		return run(t, "", token, "enroll", "--if-needed", "--url", url, "--dir", dir)
	}
	for range 2 {
		if out, err := enroll(srv.URL + "/"); err != nil || hosts != 1 {
			t.Errorf("%q, %v: %d hosts", out, err, hosts)
		}
	}
	if out, err := enroll("http://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "at "+srv.URL+" already; remove") {
		t.Errorf("another control plane's: %q, %v", out, err)
	}
	err := (&options{dir: dir}).after(t.Context(), millrace.HostID{15: 1}, agent.EndRemoved, nil)
	if !errors.Is(err, agent.EndRemoved) || exitCode(err) != exitConfig {
		t.Errorf("removed: %v", err)
	}
	if _, err := run(t, "", "", "run", "--dir", dir, "--launcher", dir+"/none"); exitCode(err) != exitConfig { // as after a reboot; systemd is not to try for ever
		t.Errorf("not enrolled any more: %v", err)
	}
	if out, err := enroll(srv.URL); err != nil || hosts != 2 {
		t.Errorf("anew: %q, %v: %d hosts", out, err, hosts)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"enroll --url http://127.0.0.1:1":          "MILLRACE_ENROLL_TOKEN",
		"enroll":                                   "url",
		"enroll --url http://127.0.0.1:1 mret_x":   "unknown command",
		"enroll --url http://x --token mret_x":     "unknown flag",
		"run":                                      "run millrace-agent enroll",
		"run --driver bogus":                       "--driver is",
		"run --network bogus":                      "--network is",
		"run --egress moon":                        "--egress is",
		"run --egress none --network user":         "takes taps",
		"run --launcher /s --driver qemu":          "launcher",
		"run --launcher /s --cpu-overcommit 64":    "launcher",
		"launch":                                   "socket",
		"run --allow 10.0.0.1":                     "invalid argument",
		"run --dir /nonexistent/dir":               "not enrolled",
		"enroll --url http://x --cpu-overcommit x": "invalid argument",
		"run --memory-reserve 4tb":                 "memory such as 4gb",
	} {
		fields := strings.Fields(line)
		if !strings.Contains(line, "--dir") {
			fields = append(fields, "--dir", t.TempDir())
		}
		if _, err := run(t, "", "", fields...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Nobody's jobs are ended under an agent that runs.
func TestStopVMsBesideAnAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := agent.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "", "", "stop-vms", "--dir", dir); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("got %v", err)
	}
	unlock()
	if _, err := run(t, "", "", "stop-vms", "--dir", dir); err != nil {
		t.Error(err)
	}
}

// What is to be stopped needs nothing that VMs are made of: a host has its guest's kernel where its units say, and a shell doesn't know.
func TestStopVMsWithoutAGuest(t *testing.T) {
	t.Setenv("MILLRACE_GUEST_DIR", t.TempDir())
	dir := t.TempDir()
	machines := map[string]*exec.Cmd{}
	for _, id := range []string{"vms/own", "emulated-arm64/vms/others", "emulated-amd64/vms/others"} {
		work := filepath.Join(dir, id)
		if err := os.MkdirAll(work, 0o700); err != nil {
			t.Fatal(err)
		}
		qemu := exec.CommandContext(t.Context(), "qemu-system-"+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH], "-M", "none", "-display", "none", "-S")
		qemu.Dir = work
		if err := qemu.Start(); err != nil {
			t.Fatal(err)
		}
		machines[id] = qemu
	}
	if _, err := run(t, "", "", "stop-vms", "--dir", dir); err != nil {
		t.Error(err)
	}
	for id, qemu := range machines {
		if exists(filepath.Join(dir, id)) {
			t.Errorf("%s is there", id)
			_ = qemu.Process.Kill()
		}
		if err := qemu.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("%s ended by itself: %v", id, err)
		}
	}
}

func TestPrintFindings(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	printFindings(&out, []millrace.Finding{
		{Check: "smt", Level: millrace.LevelOK, Found: "off"},
		{Check: "ksm", Level: millrace.LevelWarning, Found: "It is on.", Do: "Switch it off.", Command: "echo 2 >/sys/kernel/mm/ksm/run"},
	})
	const want = `ok       smt                    off
warning  ksm                    It is on.
                                → Switch it off.
                                $ echo 2 >/sys/kernel/mm/ksm/run
`
	if out.String() != want {
		t.Errorf("%s", &out)
	}
}

func TestDoctorsJSON(t *testing.T) {
	t.Parallel()
	out, err := run(t, "", "", "doctor", "--json", "--dir", t.TempDir(), "--github", "http://127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "can't run jobs yet") { // it isn't enrolled
		t.Errorf("the machine that tests run on: %v", err)
	}
	var got struct {
		Findings []millrace.Finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Findings) < 15 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range got.Findings {
		if f.Level == millrace.LevelFailure && f.Check != "identity" && f.Check != "disk" || f.Check == "boot" && !strings.Contains(strings.ToLower(f.Found), "a vm booted") {
			t.Errorf("%+v", f)
		}
	}
}
