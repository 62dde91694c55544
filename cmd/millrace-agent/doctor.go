package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/qemu"
)

func (o *options) doctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at what this machine needs to run jobs, boot a VM, and say what to do",
		Long: `Look at what this machine needs to run jobs, boot a VM, and say what to do. It changes nothing, and fails when jobs can't
run. Commands that it gives are for root's shell on Debian and Ubuntu.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := agent.Examine(cmd.Context(), o.machine(o.dir, bootApart))
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				enc.SetEscapeHTML(false) // of commands with > and &
				if err := enc.Encode(map[string]any{"findings": found}); err != nil {
					return err
				}
			} else {
				printFindings(cmd.OutOrStdout(), found)
			}
			for _, f := range found {
				if f.Level == millrace.LevelFailure {
					return errors.New("this machine can't run jobs yet")
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	o.githubFlag(cmd)
	return cmd
}

func (o *options) githubFlag(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&o.github, "github", agent.GitHubHosts, "GitHub's hosts that jobs need, such as an Enterprise Server's")
}

func printFindings(w io.Writer, found []millrace.Finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%-8s %-22s %s\n", f.Level, f.Check, f.Found)
		if f.Do != "" {
			fmt.Fprintf(w, "%31s → %s\n", "", f.Do)
		}
		if f.Command != "" {
			fmt.Fprintf(w, "%31s $ %s\n", "", f.Command)
		}
	}
}

// bootApart boots a VM in a directory of its own, for the agent's may be in use, and leaves nothing of it.
func bootApart(ctx context.Context) (name string, b vm.Boot, err error) {
	dir, err := os.MkdirTemp("", "millrace-doctor-")
	if err != nil {
		return "", b, err
	}
	defer os.RemoveAll(dir)
	d, err := newDriver(dir, qemu.AccelAuto, nil, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", b, err
	}
	err = d.Prepare(ctx)
	return d.Name(), d.Boot(), err
}

// prepared tells of the VM that d booted.
func prepared(d vm.Driver) func(context.Context) (string, vm.Boot, error) {
	return func(ctx context.Context) (string, vm.Boot, error) {
		err := d.Prepare(ctx) // it is prepared, or couldn't be
		return d.Name(), d.Boot(), err
	}
}

// machine is this machine, for the agent or the launcher whose directory is dir.
func (o *options) machine(dir string, boot func(context.Context) (string, vm.Boot, error)) agent.Machine {
	m := agent.ThisMachine(dir, qemu.DefaultGuest(millrace.Arch(runtime.GOARCH)), boot)
	m.GitHub = o.github
	return m
}
