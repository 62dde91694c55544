package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) audit() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Who changed what", Args: args(cobra.NoArgs), RunE: help}
	var q client.AuditQuery
	list := &cobra.Command{
		Use:   "list",
		Short: "List changes, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Audit(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, e := range list.Data {
				who := e.Actor.Name
				if who == "" {
					who = e.Actor.ID
				}
				rows = append(rows, []string{clock(&e.At), strings.TrimSpace(string(e.Actor.Kind) + " " + who), e.Action, or(e.Subject), or(changed(e.Changes)), or(e.Address), or(e.RequestID)})
			}
			if err := c.table([]string{"at", "who", "action", "subject", "changes", "address", "request"}, rows); err != nil {
				return err
			}
			if list.NextCursor != nil {
				fmt.Fprintln(c.Stderr, "There are more: --cursor", plain(*list.NextCursor))
			}
			return nil
		},
	}
	list.Flags().StringVar(&q.Actor, "actor", "", "only by this one: their ID, or their name at that time")
	list.Flags().StringVar(&q.Action, "action", "", "only this action, or all that begin so when it ends with a dot, such as member.")
	list.Flags().StringVar(&q.Subject, "subject", "", "only what was done to this ID")
	list.Flags().StringVar(&q.Cursor, "cursor", "", "where the last page ended")
	list.Flags().IntVar(&q.Limit, "limit", 0, "at most this many")
	cmd.AddCommand(list)
	return cmd
}

// changed is what a change was, in words.
func changed(changes []millrace.Change) string {
	words := make([]string, len(changes))
	for i, ch := range changes {
		words[i] = ch.Field + ": " + or(ch.Before) + " → " + or(ch.After)
	}
	return strings.Join(words, "; ")
}
