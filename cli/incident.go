package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace/client"
)

func (c *cli) incidents() *cobra.Command {
	cmd := &cobra.Command{Use: "incidents", Aliases: []string{"incident"}, Short: "Conditions at GitHub that stop jobs", Args: args(cobra.NoArgs), RunE: help}
	var q client.IncidentQuery
	list := &cobra.Command{
		Use:   "list",
		Short: "List incidents, newest first, and what to do about each",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Incidents(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, i := range list.Data {
				concerns := i.Repository
				if concerns == "" {
					concerns = i.Owner
				}
				rows = append(rows, []string{i.ID.String(), string(i.Code), concerns, clock(&i.OpenedAt), clock(i.ClosedAt), i.Title + ". " + i.Remedy, or(i.Detail)})
			}
			if err := c.table([]string{"incident", "code", "concerns", "since", "until", "what to do", "github said"}, rows); err != nil {
				return err
			}
			if list.NextCursor != nil {
				fmt.Fprintln(c.Stderr, "There are more: --cursor", plain(*list.NextCursor))
			}
			return nil
		},
	}
	list.Flags().BoolVar(&q.Open, "open", false, "only those that hold now")
	list.Flags().StringVar(&q.Cursor, "cursor", "", "where the last page ended")
	list.Flags().IntVar(&q.Limit, "limit", 0, "at most this many")
	cmd.AddCommand(list)
	return cmd
}
