// Package cli is the command line of people and scripts: it reads and changes one org through the REST API. Tables on
// a terminal, tab-separated values in a pipe, the API's own JSON with --json. What a server says is data: control
// characters in it never reach the terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// Exit codes. They are part of the outside contract.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
	exitNone  = 3 // not found
	exitAuth  = 4 // no token, a wrong one, or one without the right
)

// Env is the world that a command runs in.
type Env struct {
	Args   []string // without the program's name
	Getenv func(string) string
	Stdout io.Writer
	Stderr io.Writer
	// Terminal says that Stdout is one: people read it, not programs.
	Terminal bool
	Version  string
}

// OS is the process's own world.
func OS(version string) Env {
	info, err := os.Stdout.Stat()
	return Env{
		Args:     os.Args[1:],
		Getenv:   os.Getenv,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
		Version:  version,
	}
}

// cli is what all commands share.
type cli struct {
	Env
	url, org string
	json     bool
	saved    *signIns // nil: not read yet
}

// usageError is a mistake in how a command was called.
type usageError struct{ error }

// Run runs one command and returns the exit code.
func Run(ctx context.Context, env Env) int {
	c := &cli{Env: env}
	root := c.root()
	root.SetArgs(env.Args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(env.Stderr, "millrace:", plain(err.Error()))
	if _, ok := err.(usageError); ok { //nolint:errorlint // only our own, unwrapped
		fmt.Fprintln(env.Stderr, "See millrace --help.")
		return exitUsage
	}
	switch millrace.CodeOf(err) {
	case millrace.NotFound:
		return exitNone
	case millrace.Unauthenticated, millrace.Forbidden:
		return exitAuth
	default:
		return exitError
	}
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "millrace",
		Short: "Your org's jobs, VMs, hosts, usage, members and tokens",
		Long: `Your org's jobs, VMs, hosts, usage, members and tokens.

Sign in with millrace auth login --url https://YOUR-SERVER. Programs that have no person beside them take what they need from
the environment, which goes before what was signed in:
  MILLRACE_URL     the server's address (or --url)
  MILLRACE_ORG     your org's short name (or --org)
  MILLRACE_TOKEN   an API token (mrat_…); never a flag, as others can read a process's arguments

Exit codes:
  0  done
  1  something went wrong
  2  the command was called wrongly
  3  not found
  4  no token, a wrong one, or one without the right`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          args(cobra.NoArgs),
		RunE:          help,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&c.url, "url", c.Getenv("MILLRACE_URL"), "the server's address")
	flags.StringVar(&c.org, "org", c.Getenv("MILLRACE_ORG"), "your org's short name")
	flags.BoolVar(&c.json, "json", false, "print the API's answer")
	root.AddCommand(c.auth(), c.jobs(), c.vms(), c.incidents(), c.hosts(), c.enrollmentTokens(), c.usage(), c.members(), c.tokens(), c.audit(), c.version())
	return root
}

// help is what a command without a subcommand does; cobra hands it what it doesn't know, too.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// args makes what check refuses a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// api is the org's REST client, or what it lacks.
func (c *cli) api() (client.REST, error) {
	in, err := c.signedIn()
	if err != nil {
		return client.REST{}, err
	}
	return client.REST{URL: in.URL, Org: in.Org, Token: in.Token, HTTP: client.NewHTTP()}, nil
}

// signedIn is which org of which server a command is for, and with which token: by flags and the environment, else as whoever
// signed in last.
func (c *cli) signedIn() (in signIn, err error) {
	in = signIn{URL: c.url, Org: c.org, Token: millrace.Secret(c.Getenv("MILLRACE_TOKEN"))}
	if in.URL == "" || in.Org == "" || in.Token == "" {
		saved, err := c.readSignIns()
		if err != nil {
			return in, err
		}
		if s, ok := saved.find(in.URL, in.Org); ok {
			in.URL, in.Org = s.URL, s.Org
			if in.Token == "" {
				in.Token = s.Token
			}
		}
	}
	switch {
	case in.URL == "":
		return in, usageError{errors.New("which server? Sign in with millrace auth login --url https://YOUR-SERVER, or set MILLRACE_URL")}
	case in.Org == "":
		return in, usageError{errors.New("which org? Sign in with millrace auth login, or set MILLRACE_ORG or --org")}
	case in.Token == "":
		return in, millrace.Errorf(millrace.Unauthenticated, "You aren't signed in to %s there: run millrace auth login, or set MILLRACE_TOKEN to an API token of the org.", in.Org)
	}
	return in, nil
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if c.json {
				return c.printJSON(map[string]string{"version": c.Version})
			}
			_, err := fmt.Fprintln(c.Stdout, c.Version)
			return err
		},
	}
}
