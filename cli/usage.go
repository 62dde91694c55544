package cli

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) usage() *cobra.Command {
	var by string
	var days int
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show where build time went",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			groupings := []millrace.UsageBy{millrace.ByRepository, millrace.ByUser, millrace.ByDay}
			if !slices.Contains(groupings, millrace.UsageBy(by)) || days < 0 {
				return usageError{errors.New("--by is repository, user or day, and --days at least 0")}
			}
			api, err := c.api()
			if err != nil {
				return err
			}
			q := client.UsageQuery{By: millrace.UsageBy(by)}
			if days > 0 {
				q.From = time.Now().AddDate(0, 0, -days)
			}
			list, err := api.Usage(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, u := range list.Data {
				rows = append(rows, []string{
					u.Key, strconv.Itoa(u.Jobs), strconv.Itoa(u.Failed), ms(u.BuildMS), ms(u.VCPUMS), ms(u.WaitP50MS), ms(u.WaitP95MS),
				})
			}
			return c.table([]string{by, "jobs", "failed", "build", "vcpu", "wait p50", "wait p95"}, rows)
		},
	}
	cmd.Flags().StringVar(&by, "by", string(millrace.ByRepository), "repository, user or day")
	cmd.Flags().IntVar(&days, "days", 0, "the last so many days; 0 is the server's choice")
	return cmd
}
