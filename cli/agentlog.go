package cli

import (
	"bytes"
	"context"
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
		Short: "Show what a host's agent said, at most the last MiB; HOST is its ID or name; its ID once it was removed",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.host(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			var at millrace.LogPosition
			return c.printLog(cmd.Context(), follow, func(ctx context.Context) (text []byte, over bool, err error) {
				text, at, err = api.HostLog(ctx, id, at)
				return text, false, err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it says from now on")
	return cmd
}

// printLog prints what next has of a log, in whole lines: once, or while it is followed until next says that it is over.
func (c *cli) printLog(ctx context.Context, follow bool, next func(context.Context) (text []byte, over bool, err error)) error {
	var rest []byte // of a line that goes on
	show := func(text []byte) error {
		for row := range strings.Lines(millrace.PlainText(text, false)) {
			if _, err := fmt.Fprintln(c.Stdout, plain(strings.TrimSuffix(row, "\n"))); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		text, over, err := next(ctx)
		switch {
		case err != nil && follow && ctx.Err() != nil: // who followed has seen enough
			return show(rest)
		case err != nil:
			return err
		}
		rest = append(rest, text...)
		if !follow || over {
			return show(rest)
		}
		whole := bytes.LastIndexByte(rest, '\n') + 1
		if err := show(rest[:whole]); err != nil {
			return err
		}
		rest = rest[whole:]
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return show(rest)
		}
	}
}
