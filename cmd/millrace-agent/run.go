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

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// drivers are what --driver may say.
var drivers = map[string]qemu.Accel{"auto": qemu.AccelAuto, "qemu": qemu.AccelAuto, "qemu/kvm": qemu.AccelKVM, "qemu/tcg": qemu.AccelTCG}

func (o *options) run() *cobra.Command {
	var driver string
	var reboots bool
	var nets networks
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run VMs as the control plane orders them, until stopped",
		Long: `Run VMs as the control plane orders them, until stopped.

VMs don't end with the agent, whatever ends it: the next one goes on with them. To empty a host, drain it in the
control plane, or run millrace-agent stop-vms once the agent is stopped.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			accel, ok := drivers[driver]
			if !ok {
				return fmt.Errorf("--driver is auto, qemu, qemu/kvm or qemu/tcg, not %q", driver)
			}
			if err := nets.check(); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			id, err := agent.LoadIdentity(o.dir)
			if err != nil {
				return err
			}
			unlock, err := agent.Lock(o.dir)
			if err != nil {
				return err
			}
			defer unlock()
			seal, err := id.SealKey()
			if err != nil {
				return err
			}
			facts, err := agent.Facts(o.dir, o.offer)
			if err != nil {
				return err
			}
			taps, err := nets.open(log)
			if err != nil {
				return err
			}
			if taps != nil {
				defer func() { err = errors.Join(err, taps.Close()) }()
			}
			machines, err := newDriver(o.dir, accel, taps, facts.Emulates, log)
			if err != nil {
				return err
			}
			err = agent.Run(cmd.Context(), agent.Config{
				Server: id.Client(), Host: id.HostID, SealKey: seal, Driver: machines, Dir: o.dir, Facts: facts, Log: log, Reboots: reboots,
				Examine: o.examine(machines),
			})
			if errors.Is(err, agent.EndReboot) {
				return reboot(cmd.Context())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "auto", "what runs VMs: auto (KVM if it works, else emulation), qemu/kvm or qemu/tcg")
	o.githubFlag(cmd)
	cmd.Flags().BoolVar(&reboots, "allow-reboot", false, "let the control plane reboot this machine, when no VM is left")
	nets.flags(cmd.Flags())
	o.offerFlags(cmd)
	return cmd
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
again, and does without them in any case.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			unlock, err := agent.Lock(o.dir)
			if millrace.CodeOf(err) == millrace.Conflict {
				return errors.New("the agent runs: stop it first, or drain the host in the control plane, which ends no job")
			} else if err != nil {
				return err
			}
			defer unlock()
			var emulated []millrace.Arch
			for _, arch := range []millrace.Arch{millrace.AMD64, millrace.ARM64} {
				if _, err := os.Stat(emulationDir(o.dir, arch)); err == nil {
					emulated = append(emulated, arch)
				}
			}
			machines, err := newDriver(o.dir, qemu.AccelAuto, nil, emulated, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			_, err = machines.Adopt(cmd.Context(), nil)
			return err
		},
	}
}

// newDriver is this machine's driver, which also emulates machines of other architectures.
func newDriver(dir string, accel qemu.Accel, n *network.Network, emulates []millrace.Arch, log *slog.Logger) (vm.Driver, error) {
	own, err := newQEMU(qemu.Config{Dir: dir, Arch: millrace.Arch(runtime.GOARCH), Accel: accel, Trial: true, Network: n, Log: log})
	if err != nil || len(emulates) == 0 {
		return own, err
	}
	all := vm.Emulating{Driver: own, Others: map[millrace.Arch]vm.Driver{}}
	for _, arch := range emulates {
		all.Others[arch], err = newQEMU(qemu.Config{Dir: emulationDir(dir, arch), Arch: arch, Accel: qemu.AccelTCG, Trial: true, Network: n, Log: log.With("arch", arch)})
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
	if c.Init, err = guest.Binary(c.Arch, "millrace-init"); err != nil {
		return nil, err
	}
	if c.Runner, err = guest.Binary(c.Arch, "testrunner"); err != nil {
		return nil, err
	}
	return qemu.New(c)
}
