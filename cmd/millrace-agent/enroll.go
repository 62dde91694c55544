package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
)

func (o *options) enroll() *cobra.Command {
	var url string
	var ifNeeded bool
	cmd := &cobra.Command{
		Use:   "enroll --url URL",
		Short: "Make this machine a host of your org",
		Long: `Make this machine a host of your org.

The enrollment token (mret_…, from your org's Hosts page) is read from the environment variable
MILLRACE_ENROLL_TOKEN or from standard input; never from a flag, as others can read a process's arguments.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := o.token()
			if err != nil {
				return err
			}
			url = strings.TrimSuffix(url, "/")
			// Whoever has another server's token wants another host than this machine is: to leave it alone would be no success, and to
			// take it away from the other would end its jobs.
			if id, err := agent.LoadIdentity(o.dir); ifNeeded && err == nil && id.URL == url {
				fmt.Fprintf(cmd.OutOrStdout(), "This machine is %s of org %s already; the token is not used. To move it to another org, remove that host first.\n", id.HostID, id.Org)
				return nil
			}
			if err := os.MkdirAll(o.dir, 0o700); err != nil {
				return err
			}
			facts, err := agent.Facts(o.dir, o.offer)
			if err != nil {
				return err
			}
			id, err := agent.Enroll(cmd.Context(), agent.EnrollConfig{
				URL: url, Token: token, Name: o.name, Dir: o.dir, Facts: facts,
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "This machine is %s of org %s.\n", id.HostID, id.Org)
			if !ifNeeded { // else a script goes on
				fmt.Fprintf(cmd.OutOrStdout(), "Start it with: millrace-agent run --dir %s\n", o.dir)
			}
			return nil
		},
	}
	hostname, _ := os.Hostname()
	cmd.Flags().StringVar(&url, "url", "", "the control plane's address")
	cmd.Flags().StringVar(&o.name, "name", hostname, "the host's name in your org")
	cmd.Flags().BoolVar(&ifNeeded, "if-needed", false, "leave a machine alone that is a host of this control plane already")
	_ = cmd.MarkFlagRequired("url")
	o.offerFlags(cmd)
	return cmd
}

// token reads the enrollment token from the environment, else the first line of standard input.
func (o *options) token() (millrace.Secret, error) {
	if s := o.getenv("MILLRACE_ENROLL_TOKEN"); s != "" {
		return millrace.Secret(strings.TrimSpace(s)), nil
	}
	missing := errors.New("no enrollment token; set MILLRACE_ENROLL_TOKEN, or write the token to standard input")
	if f, ok := o.stdin.(*os.File); ok {
		if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
			return "", missing
		}
	}
	line, err := bufio.NewReader(io.LimitReader(o.stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", missing
	}
	return millrace.Secret(line), nil
}
