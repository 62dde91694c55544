package web

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

// Each way to run install.sh fails when that can't be fetched, or fails, and gives it the token: programs look at nothing else.
func TestInstallLines(t *testing.T) {
	t.Parallel()
	e := enrollment{Secret: millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil), URL: "https://millrace.example"}
	token := filepath.Join(t.TempDir(), "token")
	line := regexp.MustCompile(`\{ .*install\.sh.*\| (sudo )?sh`)
	for name, text := range map[string]string{"pasted": e.command(), "cloud-init": e.cloudInit(), "terraform": e.terraform(), "ansible": e.ansible()} {
		command := strings.NewReplacer("/run/millrace-token", token, "${var.millrace_enrollment_token}", e.Secret.Reveal()).Replace(line.FindString(text))
		for does, want := range map[string]string{
			"exit 22":                            "",
			"echo '#!/bin/sh'; exit 18":          "",
			"echo exit 7":                        "",
			"echo echo \\$MILLRACE_ENROLL_TOKEN": e.Secret.Reveal(),
		} {
			bin := t.TempDir()
			for program, does := range map[string]string{"curl": does, "sudo": `exec "$@"`} {
				if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"+does+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(token, []byte(tokenVariable+"="+e.Secret.Reveal()), 0o600); err != nil {
				t.Fatal(err)
			}
			sh := exec.CommandContext(t.Context(), "sh", "-c", command)
			sh.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), tokenVariable + "=" + e.Secret.Reveal()}
			out, err := sh.CombinedOutput()
			if got := strings.TrimSpace(string(out)); got != want || (err == nil) != (want != "") {
				t.Errorf("%s, when curl does %q: %v, %q", name, does, err, got)
			}
			if _, err := os.Stat(token); name == "cloud-init" && err == nil {
				t.Error("cloud-init leaves the token where it was")
			}
		}
	}
	if !strings.Contains(e.ansible(), "creates: /etc/systemd/system/multi-user.target.wants/millrace-agent.service\n") {
		t.Error("Ansible takes something else for a machine that is added")
	}
}
