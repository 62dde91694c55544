package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// signInServer lets everybody sign in at once, and knows which of its tokens still work.
func signInServer(t *testing.T) (url string, tokens map[string]bool) {
	t.Helper()
	tokens = map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = struct{}{}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case r.URL.Path == "/api/v1/device/code":
			if r.FormValue("scope") == "jobs:none" {
				w.WriteHeader(http.StatusBadRequest)
				answer, _ = client.NewOAuthError(millrace.Errorf(millrace.Unprocessable, "no scope"))
				break
			}
			answer = client.DeviceCode{DeviceCode: "mrdc_x", UserCode: "BCDF-GHJK" + evil, VerificationURIComplete: "http://x/device", ExpiresIn: 600}
		case r.URL.Path == "/api/v1/device/token":
			made := "mrat_" + string(rune('a'+len(tokens)))
			tokens[made] = true
			answer = client.DeviceToken{AccessToken: made, ExpiresIn: 3600, Scope: "jobs:read", Org: "calm", Login: "mona"}
		case r.URL.Path == "/api/v1/device/revoke":
			tokens[r.FormValue("token")] = false
		case !tokens[token]:
			w.Header().Set("Content-Type", client.ProblemType)
			w.WriteHeader(http.StatusUnauthorized)
			answer = client.NewProblem(millrace.Errorf(millrace.Unauthenticated, "No such token."), "")
		case r.URL.Path == "/api/v1/orgs/calm/token":
			answer = client.APIToken{Scopes: []millrace.Permission{millrace.JobsRead}}
		case r.URL.Path == "/api/v1/orgs/calm/jobs":
			answer = client.NewList([]client.Job{}, "")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, tokens
}

// home is a user without environment but a home.
func home(t *testing.T) (path string, run func(line string, env ...string) (code int, out, errs string)) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, ".config", "millrace", "sign-ins.json"), func(line string, env ...string) (int, string, string) {
		vars := map[string]string{"HOME": dir}
		for _, e := range env {
			k, v, _ := strings.Cut(e, "=")
			vars[k] = v
		}
		var stdout, stderr bytes.Buffer
		code := Run(t.Context(), Env{Args: strings.Fields(line), Getenv: func(k string) string { return vars[k] }, Stdout: &stdout, Stderr: &stderr})
		return code, stdout.String(), stderr.String()
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	url, tokens := signInServer(t)
	path, run := home(t)
	if code, _, errs := run("auth status"); code != exitAuth || !strings.Contains(errs, "millrace auth login") {
		t.Errorf("not signed in: exit %d, %s", code, errs)
	}
	if code, _, errs := run("auth login"); code != exitUsage || !strings.Contains(errs, "--url") {
		t.Errorf("no server: exit %d, %s", code, errs)
	}
	if code, _, errs := run("auth login --url ftp://x"); code != exitUsage || !strings.Contains(errs, "https://") {
		t.Errorf("no address: exit %d, %s", code, errs)
	}
	if code, _, errs := run("auth login --scopes jobs:none --url " + url); code != exitError || !strings.Contains(errs, "no scope") {
		t.Errorf("no scope: exit %d, %s", code, errs)
	}
	code, out, errs := run("auth login --url " + url + "/")
	if code != exitOK || !strings.Contains(out, "Signed in to calm at "+url+" as mona until") || !strings.Contains(errs, "BCDF-GHJK") || strings.ContainsAny(errs, "\x1b\a\u202e") || strings.Contains(out+errs, "mrat_") {
		t.Fatalf("exit %d, %s, %s", code, out, errs)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if code, _, errs := run("jobs list"); code != exitOK {
		t.Errorf("signed in: exit %d, %s", code, errs)
	}
	if code, out, _ := run("auth status"); code != exitOK || !strings.Contains(out, "\tcalm\tmona\t") || strings.Contains(out, "mrat_") {
		t.Errorf("status: exit %d, %s", code, out)
	}
	// The environment goes first, and one that says half takes the rest from the sign-in.
	if code, _, _ := run("jobs list", "MILLRACE_TOKEN=mrat_wrong"); code != exitAuth {
		t.Errorf("a wrong token in the environment: exit %d", code)
	}
	if code, _, errs := run("jobs list --org other"); code != exitUsage && code != exitAuth {
		t.Errorf("another org: exit %d, %s", code, errs)
	}
	if code, _, errs := run("jobs list --url http://127.0.0.1:1"); code == exitOK || strings.Contains(errs, "refused") {
		t.Errorf("the token went to another server: exit %d, %s", code, errs)
	}
	// Signing in again ends what was there.
	if code, _, errs := run("auth login"); code != exitOK || tokens["mrat_a"] || !tokens["mrat_b"] {
		t.Errorf("again: exit %d, %s, %v", code, errs, tokens)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run("jobs list"); code != exitError || !strings.Contains(errs, "chmod 600") {
		t.Errorf("a file that others can read: exit %d, %s", code, errs)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run("auth logout"); code != exitOK || out != "" || tokens["mrat_b"] {
		t.Errorf("signing out: exit %d, %s, %s", code, out, errs)
	}
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "mrat_") {
		t.Errorf("%s, %v", data, err)
	}
	if code, _, _ := run("auth logout"); code != exitNone {
		t.Errorf("signing out twice: exit %d", code)
	}
	// A token that doesn't work any more is told.
	run("auth login --url " + url)
	tokens["mrat_c"] = false
	if code, out, _ := run("auth status --json"); code != exitAuth || !strings.Contains(out, `"problem": "No such token."`) {
		t.Errorf("exit %d, %s", code, out)
	}
	// What can't be ended is kept.
	if err := os.WriteFile(path, []byte(`[{"url":"http://127.0.0.1:1","org":"calm","token":"mrat_x"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run("auth logout"); code != exitError || !strings.Contains(errs, "is kept here") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if err := os.WriteFile(path, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run("jobs list"); code != exitError || !strings.Contains(errs, "sign in again") {
		t.Errorf("a broken file: exit %d, %s", code, errs)
	}
}

// Everything may be said by the environment, where there is no home.
func TestNoHome(t *testing.T) {
	t.Parallel()
	url, tokens := signInServer(t)
	tokens["mrat_good"] = true
	var stdout, stderr bytes.Buffer
	env := map[string]string{"MILLRACE_URL": url, "MILLRACE_ORG": "calm", "MILLRACE_TOKEN": "mrat_good"}
	for _, line := range []string{"jobs list", "auth status"} {
		if code := Run(t.Context(), Env{Args: strings.Fields(line), Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr}); code != exitOK {
			t.Errorf("%s: exit %d, %s", line, code, stderr.String())
		}
	}
	if code := Run(t.Context(), Env{Args: []string{"auth", "login"}, Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr}); code != exitError || !strings.Contains(stderr.String(), "HOME is not set") {
		t.Errorf("exit %d, %s", code, stderr.String())
	}
}
