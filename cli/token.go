package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) tokens() *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Aliases: []string{"token"}, Short: "API tokens", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(c.listTokens(), c.createToken(), c.revokeToken())
	return cmd
}

func (c *cli) listTokens() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List API tokens, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, t := range list.Data {
				of := "the org"
				if t.UserID != nil {
					of = t.UserID.String()
				}
				rows = append(rows, []string{t.ID.String(), t.Name, t.Hint + "…", of, millrace.JoinScopes(t.Scopes, " "), clock(t.LastUsedAt), clock(&t.ExpiresAt), clock(t.RevokedAt)})
			}
			return c.table([]string{"token", "name", "secret", "of", "scopes", "last used", "expires", "revoked"}, rows)
		},
	}
}

func (c *cli) createToken() *cobra.Command {
	var n client.CreateAPIToken
	var scopes []string
	cmd := &cobra.Command{
		Use:   "create --name NAME --scopes SCOPE,…",
		Short: "Make an API token; its secret is printed, this once",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			n.Scopes = millrace.ParseScopes(strings.Join(scopes, " "))
			t, err := api.CreateToken(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.printSecret(t, t.Secret, t.ID.String(), t.ExpiresAt)
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "what it is for")
	cmd.Flags().StringSliceVar(&scopes, "scopes", nil, "what it may do: "+millrace.JoinScopes(millrace.Scopes(), " "))
	cmd.Flags().IntVar(&n.Days, "days", millrace.DefaultTokenDays, "until it expires")
	cmd.Flags().BoolVar(&n.OfOrg, "of-org", false, "the org's own: it stays when you leave")
	return cmd
}

// printSecret prints a secret that was just made: alone on stdout, so that it can go on through a pipe.
func (c *cli) printSecret(made any, secret, id string, expires time.Time) error {
	if c.json {
		return c.printJSON(made)
	}
	fmt.Fprintf(c.Stderr, "%s, shown only now; it works until %s.\n", plain(id), clock(&expires))
	_, err := fmt.Fprintln(c.Stdout, plain(secret))
	return err
}

func (c *cli) revokeToken() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "End an API token at once; TOKEN is its ID",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := millrace.ParseAPITokenID(a[0])
			if err != nil {
				return err
			}
			api, err := c.api()
			if err != nil {
				return err
			}
			return api.RevokeToken(cmd.Context(), id)
		},
	}
}

func (c *cli) enrollmentTokens() *cobra.Command {
	cmd := &cobra.Command{Use: "enrollment-tokens", Aliases: []string{"enrollment-token"}, Short: "Tokens that turn machines into hosts", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List those that still work, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.EnrollmentTokens(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, t := range list.Data {
				labels, from, ephemeral := "the host's own", "anywhere", "no"
				if t.Labels != nil {
					labels = or(strings.Join(t.Labels, " "))
				}
				if t.CIDR != nil {
					from = *t.CIDR
				}
				if t.Ephemeral {
					ephemeral = "yes"
				}
				rows = append(rows, []string{t.ID.String(), strconv.Itoa(t.UsesLeft), labels, from, ephemeral, clock(&t.CreatedAt), clock(&t.ExpiresAt)})
			}
			return c.table([]string{"token", "uses left", "labels", "from", "ephemeral", "made", "expires"}, rows)
		},
	})
	var n client.CreateEnrollmentToken
	var life time.Duration
	create := &cobra.Command{
		Use:   "create",
		Short: "Make one; its secret is printed, this once, for millrace-agent enroll to read",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			n.Seconds = int(life / time.Second)
			t, err := api.CreateEnrollmentToken(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.printSecret(t, t.Secret, t.ID.String(), t.ExpiresAt)
		},
	}
	create.Flags().IntVar(&n.Uses, "uses", 1, "hosts that it may enroll")
	create.Flags().StringSliceVar(&n.Labels, "label", nil, "of its hosts, and no others; without: the host's owner says")
	create.Flags().StringVar(&n.CIDR, "from", "", "the network where it may be used, such as 192.0.2.0/24; without: anywhere")
	create.Flags().BoolVar(&n.Ephemeral, "ephemeral", false, "its hosts are removed 15 minutes after they were last heard")
	create.Flags().DurationVar(&life, "life", millrace.DefaultEnrollmentLife, "until it expires")
	revoke := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "End one at once; TOKEN is its ID",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := millrace.ParseEnrollmentTokenID(a[0])
			if err != nil {
				return err
			}
			api, err := c.api()
			if err != nil {
				return err
			}
			return api.RevokeEnrollmentToken(cmd.Context(), id)
		},
	}
	cmd.AddCommand(create, revoke)
	return cmd
}
