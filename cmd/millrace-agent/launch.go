package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/vm/launcher"
)

// launcherWithin is how long a launcher may take to be there: systemd starts both at a time.
const launcherWithin = 30 * time.Second

// launch starts VMs for an agent in another process.
func (o *options) launch() *cobra.Command {
	var m machine
	var socket string
	cmd := &cobra.Command{
		Use:   "launch --socket PATH",
		Short: "Start VMs for an agent that has no privileges, within the bounds given here",
		Long: `Start VMs for an agent that has no privileges, within the bounds given here.

The agent is millrace-agent run --launcher PATH: it speaks with the control plane, and this speaks with nobody but it. Whoever
may open the socket may start VMs: its group is this process's. It serves one agent and ends with it, and is to be started
again then; VMs run on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := m.check(); err != nil {
				return err
			}
			giveBackMemory()
			said := launcher.NewLog()
			log := slog.New(slog.NewMultiHandler(slog.NewTextHandler(cmd.ErrOrStderr(), nil), slog.NewTextHandler(said, nil).WithAttrs([]slog.Attr{slog.String("process", "launcher")})))
			unlock, err := agent.Lock(o.dir)
			if err != nil {
				return err
			}
			defer unlock()
			driver, facts, done, err := m.open(o, o.dir, log)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			listener, err := launcher.Listen(socket)
			if err != nil {
				return err
			}
			seen := o.machine(o.dir, prepared(driver))
			seen.Cgroups = func() error { return m.limits }
			return launcher.Serve(cmd.Context(), listener, launcher.Config{
				Driver: driver, Host: launcher.Host{Facts: facts, Dir: o.dir}, Log: log, Said: said, Reboot: reboot,
				Examine: func(ctx context.Context) []millrace.Finding { return agent.ExamineMachine(ctx, seen) },
			})
		},
	}
	m.flags(o, cmd)
	cmd.Flags().StringVar(&socket, "socket", "", "where the agent finds this")
	_ = cmd.MarkFlagRequired("socket")
	return cmd
}

// runLaunched runs an agent whose VMs the launcher at socket starts.
func (o *options) runLaunched(ctx context.Context, c agent.Config, socket string) error {
	within, cancel := context.WithTimeout(ctx, launcherWithin)
	defer cancel()
	c.Own = agent.NewOwnLog()
	d, err := launcher.Dial(within, socket, c.Own)
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	go func() {
		<-d.Lost()
		lose(launcher.ErrLost)
	}()
	host := d.Host()
	c.Driver, c.Facts, c.Disk = d, host.Facts, host.Dir
	seen := o.machine(o.dir, nil)
	c.Examine = func(ctx context.Context) []millrace.Finding {
		here, err := d.Examine(ctx)
		if err != nil {
			c.Log.Error("The launcher can't examine this machine.", "error", err)
		}
		return append(here, agent.ExamineConnections(ctx, seen)...)
	}
	err = agent.Run(ctx, c)
	if err == nil && errors.Is(context.Cause(ctx), launcher.ErrLost) {
		return launcher.ErrLost
	}
	return o.after(ctx, c.Host, err, d.Reboot)
}
