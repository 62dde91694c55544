package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) members() *cobra.Command {
	cmd := &cobra.Command{Use: "members", Aliases: []string{"member"}, Short: "Members and their roles", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List members by login",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Members(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, m := range list.Data {
				rows = append(rows, memberRow(m))
			}
			return c.table(memberHeader(), rows)
		},
	}, &cobra.Command{
		Use:   "set-role LOGIN ROLE",
		Short: "Give a member a role: owner, admin, member, billing or viewer; github has it follow what GitHub makes them",
		Args:  args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Members(cmd.Context())
			if err != nil {
				return err
			}
			for _, m := range list.Data {
				if !strings.EqualFold(m.Login, a[0]) && m.ID.String() != a[0] {
					continue
				}
				m, err := api.ChangeMember(cmd.Context(), m.ID, client.ChangeMember{Role: a[1]})
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(m)
				}
				return c.table(memberHeader(), [][]string{memberRow(m)})
			}
			return millrace.Errorf(millrace.NotFound, "The org has no member %s.", a[0])
		},
	})
	return cmd
}

func memberHeader() []string {
	return []string{"user", "login", "name", "role", "role from", "joined", "seen"}
}

func memberRow(m client.Member) []string {
	from := "here"
	if m.FollowsGitHub {
		from = "GitHub"
	}
	return []string{m.ID.String(), m.Login, or(m.Name), string(m.Role), from, clock(&m.JoinedAt), clock(m.SeenAt)}
}
