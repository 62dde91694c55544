package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) auth() *cobra.Command {
	cmd := &cobra.Command{Use: "auth", Short: "Sign in and out", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(c.login(), c.authStatus(), c.logout())
	return cmd
}

// loginScopes are what a sign-in asks for when nothing else is said: what shows something.
func loginScopes() []string {
	var list []string
	for _, p := range millrace.Scopes() {
		if strings.HasSuffix(string(p), ":read") {
			list = append(list, string(p))
		}
	}
	return list
}

func (c *cli) login() *cobra.Command {
	var scopes []string
	cmd := &cobra.Command{
		Use:   "login --url URL",
		Short: "Sign in with a browser, on this machine or any other",
		Long: `Sign in with a browser, on this machine or any other. The command shows a code; you type it at the server's page and say for
which org. What you get is an API token of yours, listed there, kept in a file that only you can read, and ended by auth logout.

It may read by default. To change something too, ask for more, such as --scopes ` + strings.Join(append(loginScopes()[:2], string(millrace.HostsWrite)), ",") + `;
the scopes are ` + millrace.JoinScopes(millrace.Scopes(), " ") + `.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			saved, err := c.readSignIns()
			if err != nil {
				return err
			}
			if saved.path == "" {
				return errors.New("no place to keep the sign-in: HOME is not set")
			}
			if c.url == "" {
				last, ok := saved.find("", "")
				if !ok {
					return usageError{errors.New("which server? Say --url https://YOUR-SERVER or set MILLRACE_URL")}
				}
				c.url = last.URL
			}
			if u, err := url.Parse(c.url); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				return usageError{fmt.Errorf("%q is no server's address, which begins with https://", c.url)}
			}
			server := client.Server{URL: trimmed(c.url), HTTP: client.NewHTTP()}
			begun, err := server.BeginSignIn(cmd.Context(), clientName(), millrace.ParseScopes(strings.Join(scopes, " ")))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.Stderr, "Open %s\nand check that it shows the code %s, which works for %s.\nWaiting …\n",
				plain(begun.VerificationURIComplete), plain(begun.UserCode), time.Duration(begun.ExpiresIn)*time.Second)
			token, err := begun.Wait(cmd.Context())
			if err != nil {
				return err
			}
			in := signIn{
				URL: server.URL, Org: token.Org, Login: token.Login, Token: millrace.Secret(token.AccessToken), Scopes: millrace.ParseScopes(token.Scope),
				ExpiresAt: time.Now().Add(time.Duration(token.ExpiresIn) * time.Second).UTC().Truncate(time.Second),
			}
			before, had := saved.find(in.URL, in.Org)
			if err := saved.put(in); err != nil {
				return errors.Join(err, server.Revoke(cmd.Context(), in.Token))
			}
			if had { // its token would stay for nothing
				if err := server.Revoke(cmd.Context(), before.Token); err != nil {
					fmt.Fprintln(c.Stderr, "The token of the sign-in before could not be ended:", plain(err.Error()))
				}
			}
			if c.json {
				return c.printJSON(statusOf(in, nil))
			}
			_, err = fmt.Fprintf(c.Stdout, "Signed in to %s at %s as %s until %s.\n", plain(in.Org), plain(in.URL), plain(in.Login), clock(&in.ExpiresAt))
			return err
		},
	}
	cmd.Flags().StringSliceVar(&scopes, "scopes", loginScopes(), "what the token may do")
	return cmd
}

// clientName is what the server calls this sign-in.
func clientName() string {
	host, err := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == ' ' {
			return -1
		}
		return r
	}, host)
	if err != nil || host == "" {
		return "millrace CLI"
	}
	if runes := []rune(host); len(runes) > 60 {
		host = string(runes[:60])
	}
	return "millrace CLI on " + host
}

// authStatus is one sign-in as auth status tells of it: the token isn't shown.
type authStatus struct {
	URL       string                `json:"url"`
	Org       string                `json:"org"`
	Login     string                `json:"login"`
	Scopes    []millrace.Permission `json:"scopes"`
	ExpiresAt time.Time             `json:"expires_at"`
	Problem   string                `json:"problem"` // "": it works
}

func statusOf(in signIn, err error) authStatus {
	s := authStatus{URL: in.URL, Org: in.Org, Login: in.Login, Scopes: in.Scopes, ExpiresAt: in.ExpiresAt}
	if err != nil {
		s.Problem = err.Error()
	}
	return s
}

func (c *cli) authStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show where you are signed in, and whether it still works",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			saved, err := c.readSignIns()
			if err != nil {
				return err
			}
			list := slices.Clone(saved.list)
			if c.Getenv("MILLRACE_TOKEN") != "" { // what the environment says goes first
				in, err := c.signedIn()
				if err != nil {
					return err
				}
				in.Login = "MILLRACE_TOKEN"
				list = []signIn{in}
			}
			if len(list) == 0 {
				return millrace.Errorf(millrace.Unauthenticated, "You aren't signed in: run millrace auth login --url https://YOUR-SERVER.")
			}
			var broken error
			states := []authStatus{}
			for _, in := range slices.Backward(list) {
				token, err := client.REST{URL: in.URL, Org: in.Org, Token: in.Token, HTTP: client.NewHTTP()}.OwnToken(cmd.Context())
				if err == nil {
					in.Scopes, in.ExpiresAt = token.Scopes, token.ExpiresAt
				} else {
					broken = err
				}
				states = append(states, statusOf(in, err))
			}
			if c.json {
				return errors.Join(c.printJSON(states), broken)
			}
			var rows [][]string
			for _, s := range states {
				rows = append(rows, []string{s.URL, s.Org, s.Login, clock(&s.ExpiresAt), millrace.JoinScopes(s.Scopes, " "), or(s.Problem)})
			}
			if err := c.table([]string{"server", "org", "as", "until", "scopes", "problem"}, rows); err != nil {
				return err
			}
			return broken
		},
	}
}

func (c *cli) logout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "End a sign-in, here and at the server; --url and --org say which",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			saved, err := c.readSignIns()
			if err != nil {
				return err
			}
			in, ok := saved.find(c.url, c.org)
			if !ok {
				return millrace.Errorf(millrace.NotFound, "You aren't signed in there; millrace auth status shows where you are.")
			}
			server := client.Server{URL: in.URL, HTTP: client.NewHTTP()}
			if err := server.Revoke(cmd.Context(), in.Token); err != nil {
				return fmt.Errorf("the token could not be ended at %s, and is kept here: %w", in.URL, err)
			}
			if err := saved.drop(in); err != nil {
				return err
			}
			fmt.Fprintf(c.Stderr, "Signed out of %s at %s.\n", plain(in.Org), plain(in.URL))
			return nil
		},
	}
}
