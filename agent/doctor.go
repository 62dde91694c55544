package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/network"
)

// Machine is where [Examine] looks. Its zero value finds nothing; [ThisMachine] is the one it runs on.
type Machine struct {
	Root     string   // of the file system: dev, proc and sys are looked at below it
	Dir      string   // the agent's
	GuestDir string   // the guest kernel's
	GitHub   []string // hosts that jobs need, or addresses
	LookPath func(string) (string, error)
	HTTP     *http.Client
	Networks func() error             // why VMs can't have taps, see [network.Check]
	Rivals   func() ([]string, error) // see [network.Rivals]
	Cgroups  func() error             // why VMs can't be held to their size by cgroups, see [cgroup.Check]
	Now      func() time.Time
	// Boot boots a VM, or tells of the one that was booted; name is the driver's.
	Boot func(ctx context.Context) (name string, b vm.Boot, err error)
}

// GitHubHosts are what runners of github.com speak to, of the names that GitHub gives in full (its documentation,
// "Communicating with self-hosted runners"): for their work, to download actions, and to upload logs.
var GitHubHosts = []string{"github.com", "api.github.com", "codeload.github.com", "results-receiver.actions.githubusercontent.com"}

// ThisMachine is the real one; boot is how a VM is booted on it.
func ThisMachine(dir, guestDir string, boot func(context.Context) (string, vm.Boot, error)) Machine {
	return Machine{
		Root: "/", Dir: dir, GuestDir: guestDir, GitHub: GitHubHosts, LookPath: exec.LookPath, HTTP: client.NewHTTP(), Networks: network.Check, Rivals: network.Rivals,
		Cgroups: func() error { return cgroup.Check("/") }, Now: time.Now, Boot: boot,
	}
}

// Examine looks at everything that a host needs. It changes nothing but what Boot keeps. What isn't found out when ctx ends
// is a warning.
func Examine(ctx context.Context, m Machine) []millrace.Finding {
	var here, beyond []millrace.Finding
	var slow sync.WaitGroup
	slow.Go(func() { here = ExamineMachine(ctx, m) })
	slow.Go(func() { beyond = ExamineConnections(ctx, m) })
	slow.Wait()
	return append(here, beyond...)
}

// ExamineMachine is [Examine] of the machine itself.
func ExamineMachine(ctx context.Context, m Machine) []millrace.Finding {
	return []millrace.Finding{
		m.boot(ctx), m.kvm(), m.nested(), m.qemu(), m.guestKernel(), m.kernel(), m.networks(), m.cgroups(), m.smt(), m.ksm(), m.swap(), m.vulnerabilities(), m.memory(), m.disk(),
	}
}

// ExamineConnections is [Examine] of what the machine is to the control plane, and of what answers it there and at GitHub.
func ExamineConnections(ctx context.Context, m Machine) []millrace.Finding {
	var server, github []millrace.Finding
	var slow sync.WaitGroup
	slow.Go(func() { github = m.github(ctx) })
	id, err := LoadIdentity(m.Dir)
	identity := fine("identity", "%s of org %s at %s", id.HostID, id.Org, id.URL)
	if err != nil {
		identity = fail("identity", err.Error(), "Enroll this machine with an enrollment token from your org's Hosts page.", "millrace-agent enroll --url URL")
	} else {
		slow.Go(func() { server = m.server(ctx, id.URL) })
	}
	slow.Wait()
	return append(append([]millrace.Finding{identity}, server...), github...)
}

func fine(check, format string, args ...any) millrace.Finding {
	return millrace.Finding{Check: check, Level: millrace.LevelOK, Found: fmt.Sprintf(format, args...)}
}

// warn and fail are findings with what to do, and the command that does it; "" where none can.
func warn(check, found, do, command string) millrace.Finding {
	return millrace.Finding{Check: check, Level: millrace.LevelWarning, Found: found, Do: do, Command: command}
}

func fail(check, found, do, command string) millrace.Finding {
	return millrace.Finding{Check: check, Level: millrace.LevelFailure, Found: found, Do: do, Command: command}
}

// unknown is what ctx's end left open.
func unknown(check string) millrace.Finding {
	return warn(check, "This was not found out in the time there was.", "Run doctor, which takes its time.", "millrace-agent doctor")
}

// boot says whether a VM really boots, and how. Only that tells: on some machines /dev/kvm opens, and a guest's kernel hangs.
func (m Machine) boot(ctx context.Context) millrace.Finding {
	const check = "boot"
	name, b, err := m.Boot(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return unknown(check)
	case err != nil:
		return fail(check, "No VM boots here: "+strings.TrimSuffix(err.Error(), ".")+".", "See the findings about kvm, qemu and the guest kernel.", "")
	}
	took := b.Took.Round(time.Millisecond)
	if !strings.HasSuffix(name, "/tcg") {
		return fine(check, "a VM booted in %s with %s", took, name)
	}
	return warn(check, fmt.Sprintf("A VM booted in %s, but by emulation, in which jobs take many times longer: %s.", took, strings.TrimSuffix(b.Why, ".")),
		"Use bare metal, or a machine or cloud instance type that has KVM; emulation is fine for trying things out.", "")
}

// read is a file's content below Root without space around it; "" when it can't be read.
func (m Machine) read(name string) string {
	content, _ := os.ReadFile(filepath.Join(m.Root, name))
	return strings.TrimSpace(string(content))
}

func (m Machine) exists(name string) bool { return exists(filepath.Join(m.Root, name)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
