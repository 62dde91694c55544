package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
)

// followEvery is how often a log that is followed is asked for.
const followEvery = 2 * time.Second

func (c *cli) hostLog() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "log HOST",
		Short: "Show what a host's agent said, at most the last MiB; HOST is its ID or name",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.host(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			var at millrace.LogPosition
			for {
				text, end, err := api.HostLog(cmd.Context(), id, at)
				if err != nil {
					return err
				}
				for row := range strings.Lines(string(text)) {
					if _, err := fmt.Fprintln(c.Stdout, plain(strings.TrimSuffix(row, "\n"))); err != nil {
						return err
					}
				}
				if at = end; !follow {
					return nil
				}
				select {
				case <-time.After(followEvery):
				case <-cmd.Context().Done():
					return nil
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it says from now on")
	return cmd
}
