package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/vm/qemu"
)

func (o *options) doctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at what this machine needs to run jobs, and say what to do",
		Long:  "Look at what this machine needs to run jobs, and say what to do. It changes nothing, and fails when jobs can't run.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := agent.Examine(cmd.Context(), agent.ThisMachine(o.dir, qemu.DefaultGuest(millrace.Arch(runtime.GOARCH))))
			out := cmd.OutOrStdout()
			if asJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if err := enc.Encode(map[string]any{"findings": found}); err != nil {
					return err
				}
			}
			bad := false
			for _, f := range found {
				bad = bad || f.Health == agent.Bad
				if asJSON {
					continue
				}
				fmt.Fprintf(out, "%-5s %-14s %s\n", f.Health, f.Check, f.Found)
				if f.Do != "" {
					fmt.Fprintf(out, "%20s → %s\n", "", f.Do)
				}
			}
			if bad {
				return errors.New("this machine can't run jobs yet")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}
