package main

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// drivers are what --driver may say.
var drivers = map[string]qemu.Accel{"auto": qemu.AccelAuto, "qemu": qemu.AccelAuto, "qemu/kvm": qemu.AccelKVM, "qemu/tcg": qemu.AccelTCG}

func (o *options) run() *cobra.Command {
	var driver string
	var nets networks
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run VMs as the control plane orders them, until stopped",
		Args:  cobra.NoArgs,
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
			network, err := nets.open(log)
			if err != nil {
				return err
			}
			if network != nil {
				defer func() { err = errors.Join(err, network.Close()) }()
			}
			machines, err := newDriver(o.dir, accel, network, log)
			if err != nil {
				return err
			}
			return agent.Run(cmd.Context(), agent.Config{
				Server: id.Client(), Host: id.HostID, SealKey: seal, Driver: machines, Facts: facts, Log: log,
			})
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "auto", "what runs VMs: auto (KVM if it works, else emulation), qemu/kvm or qemu/tcg")
	nets.flags(cmd.Flags())
	o.offerFlags(cmd)
	return cmd
}

func newDriver(dir string, accel qemu.Accel, n *network.Network, log *slog.Logger) (*qemu.Driver, error) {
	arch := millrace.Arch(runtime.GOARCH)
	pid1, err := guest.Binary(arch, "millrace-init")
	if err != nil {
		return nil, err
	}
	runner, err := guest.Binary(arch, "testrunner")
	if err != nil {
		return nil, err
	}
	return qemu.New(qemu.Config{Dir: dir, Init: pid1, Runner: runner, Accel: accel, Network: n, Log: log})
}
