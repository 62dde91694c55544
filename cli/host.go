package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) hosts() *cobra.Command {
	cmd := &cobra.Command{Use: "hosts", Aliases: []string{"host"}, Short: "Hosts", Args: args(cobra.NoArgs), RunE: help}
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
					h.Committed.String(), h.Facts.Bounds(), clock(h.SeenAt), or(h.Refuses),
				})
			}
			return c.table([]string{"host", "name", "status", "arch", "vms", "committed", "offer", "seen", "refuses"}, rows)
		},
	})
	admin := func(to millrace.HostAdmin) func(context.Context, client.REST, millrace.HostID) (client.Host, error) {
		return func(ctx context.Context, api client.REST, id millrace.HostID) (client.Host, error) {
			return api.ChangeHost(ctx, id, client.ChangeHost{Admin: to})
		}
	}
	cmd.AddCommand(
		c.onHost("show", "Show a host", func(ctx context.Context, api client.REST, id millrace.HostID) (client.Host, error) {
			return api.Host(ctx, id)
		}),
		c.onHost("drain", "Let a host finish what runs, and give it no more", admin(millrace.HostDraining)),
		c.onHost("enable", "Give a host jobs again", admin(millrace.HostEnabled)),
		c.onHost("disable", "Give a host no more jobs, whatever becomes of it", admin(millrace.HostDisabled)),
		c.onHost("restart", "Have a host's agent start anew; its VMs run on", func(ctx context.Context, api client.REST, id millrace.HostID) (client.Host, error) {
			return api.RestartHost(ctx, id)
		}),
		c.onHost("rotate-keys", "Have a host's agent make new keys; its VMs run on", func(ctx context.Context, api client.REST, id millrace.HostID) (client.Host, error) {
			return api.RotateHostKeys(ctx, id)
		}),
		c.onHost("reboot", "Drain a host, and reboot it once it has no VM, where its owner allows that", func(ctx context.Context, api client.REST, id millrace.HostID) (client.Host, error) {
			return api.RebootHost(ctx, id)
		}),
		c.hostLog(),
		c.removeHost(),
	)
	return cmd
}

// onHost is a command that does something to a host and shows it.
func (c *cli) onHost(verb, short string, do func(context.Context, client.REST, millrace.HostID) (client.Host, error)) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " HOST",
		Short: short + "; HOST is its ID or name",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.host(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			h, err := do(cmd.Context(), api, id)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(h)
			}
			return c.table([]string{"field", "value"}, hostRows(h))
		},
	}
}

// host is the API and the host with this ID or name.
func (c *cli) host(ctx context.Context, name string) (client.REST, millrace.HostID, error) {
	api, err := c.api()
	if err != nil {
		return api, millrace.HostID{}, err
	}
	if id, err := millrace.ParseHostID(name); err == nil {
		return api, id, nil
	}
	list, err := api.Hosts(ctx)
	if err != nil {
		return api, millrace.HostID{}, err
	}
	for _, h := range list.Data {
		if h.Name == name {
			return api, h.ID, nil
		}
	}
	return api, millrace.HostID{}, millrace.Errorf(millrace.NotFound, "The org has no host %s. One that was removed goes by its ID: millrace audit list --action host.removed has it.", name)
}

func hostRows(h client.Host) [][]string {
	pending := []string{}
	for word, is := range map[string]bool{"restart": h.Restart, "reboot": h.Reboot, "rotate-keys": h.Rotate} {
		if is {
			pending = append(pending, word)
		}
	}
	boot := "-"
	if h.Facts.BootMS > 0 {
		boot = ms(int64(h.Facts.BootMS))
	}
	return [][]string{
		{"host", h.ID.String()},
		{"name", h.Name},
		{"status", string(h.Status)},
		{"refuses", or(h.Refuses)},
		{"pending", or(strings.Join(pending, " "))},
		{"vms", strconv.Itoa(h.VMs)},
		{"committed", h.Committed.String()},
		{"offer", h.Facts.Bounds()},
		{"labels", or(strings.Join(h.Facts.Labels, " "))},
		{"arch", h.Facts.Arches()},
		{"cpu", or(h.Facts.CPUModel)},
		{"kernel", or(h.Facts.Kernel)},
		{"driver", or(h.Facts.Driver)},
		{"network", or(string(h.Facts.Network))},
		{"trial boot", boot},
		{"agent", or(h.Facts.Version)},
		{"seen", clock(h.SeenAt)},
		{"since", clock(&h.CreatedAt)},
	}
}

func (c *cli) removeHost() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove HOST",
		Short: "Remove a host; HOST is its ID or name",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.host(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return api.RemoveHost(cmd.Context(), id, force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even when it has VMs: their jobs fail")
	return cmd
}
