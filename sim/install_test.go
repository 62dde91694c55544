package sim_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// The machine of TestInstall: this one, with directories of its own where the script writes, and no systemd. Its systemctl does what
// the units say: the agent's is a user without privileges.
const (
	machine = `
		set -e
		for dir in /usr/local /var/lib /run /mnt; do mount -t tmpfs none $dir; done
		cp -a /etc /mnt/ && mount --bind /mnt/etc /etc && mkdir -p /etc/systemd
		export PATH=%[1]s:/usr/local/bin:$PATH
		%[2]s`
	systemctl = `#!/bin/sh
		said() { sed -n "s/^$1=//p" /etc/systemd/system/$unit.service; }
		[ "$1" != is-failed ] || exit 1
		[ "$1" = restart ] && shift || exit 0
		for unit; do
			user=$(said User)
			for dir in /var/lib/$(said StateDirectory) /run/$(said RuntimeDirectory); do
				mkdir -p -m 750 $dir && chown ${user:-root}:$(said Group) $dir
			done
			(
				export $(said Environment)
				setsid setpriv --reuid ${user:-root} --regid $(said Group) --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all$(said CapabilityBoundingSet | sed 's/CAP_/,+/' | tr A-Z a-z) \
					$(said ExecStart | sed 's/ [$].*//') >%[1]s/$unit.log 2>&1 </dev/null
				echo $? >%[1]s/$unit.exit
			) >/dev/null 2>&1 &
		done
		`
)

// TestInstall pastes the line of the hosts page on a machine that has nothing of ours: it becomes a host, boots a real VM, and is
// drained and removed from afar.
func TestInstall(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "--uts", "mount", "-t", "tmpfs", "none", "/usr/local").CombinedOutput(); err != nil {
		t.Skipf("a machine of its own takes root and namespaces: %v: %s", err, out)
	}
	system := startDev(t, build(t), t.TempDir(), "--driver", "fake", "--no-demo")
	api := client.REST{URL: system.URL, Org: system.Org, Token: millrace.Secret(system.APIToken), HTTP: client.NewHTTP()}
	token, err := api.CreateEnrollmentToken(t.Context(), client.CreateEnrollmentToken{Labels: []string{"rack-7"}})
	if err != nil {
		t.Fatal(err)
	}
	stubs, log := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"sudo": "#!/bin/sh\nexec \"$@\"\n", "systemctl": fmt.Sprintf(systemctl, log),
	} {
		if err := os.WriteFile(filepath.Join(stubs, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pasted := fmt.Sprintf("{ echo MILLRACE_ENROLL_TOKEN=%s; curl -fsSL %s/install.sh || echo exit 1; } | sudo sh", token.Secret, system.URL)
	agentLog := func() string {
		agent, _ := os.ReadFile(filepath.Join(log, "millrace-agent.log")) // "" before it runs
		launcher, _ := os.ReadFile(filepath.Join(log, "millrace-launcher.log"))
		return string(agent) + "\nand the launcher's:\n" + string(launcher)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", agentLog())
		}
	})
	before, err := api.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--uts", "sh", "-c", fmt.Sprintf(machine, stubs, "echo installed >/proc/sys/kernel/hostname; "+pasted))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("installed in %v:\n%s", time.Since(began).Round(time.Millisecond), out)
	if strings.Contains(string(out), token.Secret) {
		t.Error("the script prints the token")
	}
	host := until(t, "the host to boot a VM", func() (h client.Host, ok bool) {
		list, err := api.Hosts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range list.Data {
			if h.Name == "installed" && h.Facts.BootMS > 0 && h.Status == millrace.StatusOnline {
				return h, true
			}
		}
		return h, false
	})
	t.Logf("a trial VM booted in %d ms with %s", host.Facts.BootMS, host.Facts.Driver)
	if len(before.Data) != 1 || len(host.Facts.Labels) != 1 || host.Facts.Labels[0] != "rack-7" || !strings.HasPrefix(host.Facts.Driver, "qemu/") {
		t.Errorf("%d hosts before; %+v", len(before.Data), host)
	}
	until(t, "what the launcher said", func() (text string, ok bool) {
		log, _, err := api.HostLog(t.Context(), host.ID, millrace.LogPosition{})
		if err != nil {
			t.Fatal(err)
		}
		return string(log), strings.Contains(string(log), `process=launcher`) && strings.Contains(string(log), `msg="The control plane knows this agent."`)
	})
	if h, err := api.ChangeHost(t.Context(), host.ID, client.ChangeHost{Admin: millrace.HostDraining}); err != nil || h.Status != millrace.StatusDraining {
		t.Errorf("drained: %+v, %v", h, err)
	}
	if err := api.RemoveHost(t.Context(), host.ID, false); err != nil {
		t.Fatal(err)
	}
	for unit, want := range map[string]string{"millrace-agent": "78", "millrace-launcher": "0"} { // 78: RestartPreventExitStatus of the unit
		exit := until(t, unit+" to end", func() (string, bool) {
			code, err := os.ReadFile(filepath.Join(log, unit+".exit"))
			return strings.TrimSpace(string(code)), err == nil && len(code) > 0
		})
		if exit != want {
			t.Errorf("%s ended with %s", unit, exit)
		}
	}
}

// until waits for something to become so.
func until[T any](t *testing.T, what string, look func() (T, bool)) T {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(2 * time.Minute)
	for {
		if got, ok := look(); ok {
			return got
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited for %s for two minutes", what)
		}
	}
}
