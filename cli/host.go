package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

func (c *cli) hosts() *cobra.Command {
	cmd := &cobra.Command{Use: "hosts", Short: "Hosts", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List hosts",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			list, err := api.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, h := range list.Data {
				rows = append(rows, []string{
					h.ID.String(), h.Name, string(h.Status), string(h.Facts.Arch), strconv.Itoa(h.VMs),
					h.Committed.String(), h.Facts.Offer.String(), clock(h.SeenAt),
				})
			}
			return c.table([]string{"host", "name", "status", "arch", "vms", "committed", "offer", "seen"}, rows)
		},
	})
	return cmd
}
