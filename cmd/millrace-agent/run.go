package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// drivers are what --driver may say.
var drivers = map[string]qemu.Accel{"auto": qemu.AccelAuto, "qemu": qemu.AccelAuto, "qemu/kvm": qemu.AccelKVM, "qemu/tcg": qemu.AccelTCG}

// machine is what a host's owner says of this machine.
type machine struct {
	driver  string
	reboots bool
	nets    networks
	limits  error // why VMs aren't held by cgroups; nil: they are
}

func (m *machine) flags(o *options, cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.driver, "driver", "auto", "what runs VMs: auto (KVM if it works, else emulation), qemu/kvm or qemu/tcg")
	cmd.Flags().BoolVar(&m.reboots, "allow-reboot", false, "let the control plane reboot this machine, when no VM is left")
	m.nets.flags(cmd.Flags())
	o.offerFlags(cmd)
}

func (m *machine) check() error {
	if _, ok := drivers[m.driver]; !ok {
		return fmt.Errorf("--driver is auto, qemu, qemu/kvm or qemu/tcg, not %q", m.driver)
	}
	return m.nets.check()
}

// open is the machine's driver, with VMs in dir, and its facts.
func (m *machine) open(o *options, dir string, log *slog.Logger) (d vm.Driver, facts millrace.HostFacts, done func() error, err error) {
	if facts, err = agent.Facts(dir, o.offer); err != nil {
		return nil, facts, nil, err
	}
	facts.Reboots = m.reboots
	taps, err := m.nets.open(log)
	if err != nil {
		return nil, facts, nil, err
	}
	var groups *cgroup.Tree
	if groups, m.limits = openCgroups(log); m.limits != nil {
		log.Warn("Cgroups don't hold VMs to all of their part of CPU and memory; millrace-agent doctor says what to do.", "because", m.limits)
	}
	done, facts.Network = func() error { return nil }, millrace.NetworkUser
	if taps != nil {
		done, facts.Network = taps.Close, millrace.NetworkTap
	}
	if d, err = newDriver(dir, drivers[m.driver], taps, groups, facts.Emulates, log); err != nil {
		return nil, facts, nil, errors.Join(err, done())
	}
	return d, facts, done, nil
}

func (o *options) run() *cobra.Command {
	var m machine
	var socket string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run VMs as the control plane orders them, until stopped",
		Long: `Run VMs as the control plane orders them, until stopped.

VMs don't end with the agent, whatever ends it: the next one goes on with them. To empty a host, drain it in the
control plane, or run millrace-agent stop-vms once the agent is stopped.

With --launcher another process starts the VMs, millrace-agent launch, and is told there what it may: this one needs no
privileges then.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := m.check(); err != nil {
				return err
			}
			giveBackMemory()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if _, err := agent.LoadIdentity(o.dir); err != nil { // before a lock is left where nothing is
				return err
			}
			unlock, err := agent.Lock(o.dir)
			if err != nil {
				return err
			}
			defer unlock()
			id, err := agent.LoadIdentity(o.dir) // which another agent may have changed until now
			if err != nil {
				return err
			}
			if id, err = id.Rotate(cmd.Context(), o.dir); err != nil {
				log.Warn("The host keeps its keys for now.", "error", err)
			}
			c := agent.Config{KeysUnsure: err != nil && !client.IsAnswer(err), Server: id.Client(), Host: id.HostID, Dir: o.dir, Log: log}
			if c.SealKeys, err = id.SealKeys(); err != nil {
				return err
			}
			if socket != "" {
				return o.runLaunched(cmd.Context(), c, socket)
			}
			var done func() error
			if c.Driver, c.Facts, done, err = m.open(o, o.dir, log); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			seen := o.machine(o.dir, prepared(c.Driver))
			seen.Cgroups = func() error { return m.limits }
			c.Examine = func(ctx context.Context) []millrace.Finding { return agent.Examine(ctx, seen) }
			err = agent.Run(cmd.Context(), c)
			return o.after(cmd.Context(), c.Host, err, reboot)
		},
	}
	m.flags(o, cmd)
	own := cmd.LocalFlags()
	cmd.Flags().StringVar(&socket, "launcher", "", "the socket of a launcher that starts VMs, see millrace-agent launch")
	own.VisitAll(func(f *pflag.Flag) { cmd.MarkFlagsMutuallyExclusive("launcher", f.Name) })
	o.githubFlag(cmd)
	return cmd
}

// giveBackMemory gives back what the start took, images above all, once that is over: a process with little to do would keep it for
// minutes.
func giveBackMemory() { time.AfterFunc(15*time.Second, debug.FreeOSMemory) }

// after does what the end of host's agent asks for.
func (o *options) after(ctx context.Context, host millrace.HostID, end error, reboot func(context.Context) error) error {
	switch {
	case errors.Is(end, agent.EndReboot):
		return reboot(ctx)
	case errors.Is(end, agent.EndRotate):
		return errors.Join(end, agent.MakeKeys(o.dir))
	case errors.Is(end, agent.EndRemoved):
		return errors.Join(end, agent.Retire(o.dir, host))
	}
	return end
}

// reboot has systemd reboot the machine.
func reboot(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "systemctl", "reboot").CombinedOutput(); err != nil {
		return fmt.Errorf("the machine can't be rebooted: systemctl reboot: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// stopVMs ends what an agent that was stopped left.
func (o *options) stopVMs() *cobra.Command {
	return &cobra.Command{
		Use:   "stop-vms",
		Short: "End the VMs that a stopped agent left, and the jobs in them",
		Long: `End the VMs that a stopped agent left, and the jobs in them. The control plane hears of it when the agent is started
again, and does without them in any case. Where a launcher starts the VMs, --dir is the launcher's:
/var/lib/millrace-launcher, where install.sh installed it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			unlock, err := agent.Lock(o.dir)
			if millrace.CodeOf(err) == millrace.Conflict {
				return errors.New("the agent runs: stop it first, or drain the host in the control plane, which ends no job")
			} else if err != nil {
				return err
			}
			defer unlock()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			err = qemu.StopAll(cmd.Context(), o.dir, log)
			for _, arch := range []millrace.Arch{millrace.AMD64, millrace.ARM64} {
				if dir := emulationDir(o.dir, arch); exists(dir) {
					err = errors.Join(err, qemu.StopAll(cmd.Context(), dir, log))
				}
			}
			return err
		},
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openCgroups divides this process's cgroup among VMs; the error says what limits they are without.
func openCgroups(log *slog.Logger) (*cgroup.Tree, error) {
	root, err := cgroup.Own("/")
	if err != nil {
		return nil, err
	}
	tree, err := cgroup.Open(cgroup.Config{Root: root, Log: log})
	if err != nil {
		return nil, err
	}
	return tree, tree.Lacks()
}

// newDriver is this machine's driver, which also emulates machines of other architectures.
func newDriver(dir string, accel qemu.Accel, n *network.Network, groups *cgroup.Tree, emulates []millrace.Arch, log *slog.Logger) (vm.Driver, error) {
	own, err := newQEMU(qemu.Config{Dir: dir, Arch: millrace.Arch(runtime.GOARCH), Accel: accel, Trial: true, Network: n, Cgroups: groups, Log: log})
	if err != nil || len(emulates) == 0 {
		return own, err
	}
	all := vm.Emulating{Driver: own, Others: map[millrace.Arch]vm.Driver{}}
	for _, arch := range emulates {
		all.Others[arch], err = newQEMU(qemu.Config{
			Dir: emulationDir(dir, arch), Arch: arch, Accel: qemu.AccelTCG, Trial: true, Network: n, Cgroups: groups, Log: log.With("arch", arch),
		})
		if err != nil {
			return nil, fmt.Errorf("emulating %s: %w", arch, err)
		}
	}
	return all, nil
}

// emulationDir is where an agent whose directory is dir keeps machines of an architecture that it emulates.
func emulationDir(dir string, arch millrace.Arch) string {
	return filepath.Join(dir, "emulated-"+string(arch))
}

func newQEMU(c qemu.Config) (_ *qemu.Driver, err error) {
	if c.Programs, err = guest.Programs(c.Arch); err != nil {
		return nil, err
	}
	return qemu.New(c)
}
