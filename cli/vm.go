package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) vms() *cobra.Command {
	cmd := &cobra.Command{Use: "vms", Aliases: []string{"vm"}, Short: "VMs, and what they print", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(c.listVMs(), c.showVM(), c.vmConsole())
	return cmd
}

func (c *cli) listVMs() *cobra.Command {
	var q client.VMQuery
	var host, job string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List VMs, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			if host != "" {
				if _, q.Host, err = c.host(cmd.Context(), host); err != nil {
					return err
				}
			}
			if job != "" {
				if q.Job, err = millrace.ParseJobID(job); err != nil {
					return err
				}
			}
			list, err := api.VMs(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, v := range list.Data {
				rows = append(rows, []string{v.ID.String(), string(v.State), v.Host, vmJob(v).String(), v.Size.String(), clock(v.PlacedAt), or(v.Reason)})
			}
			if err := c.table([]string{"vm", "state", "host", "job", "size", "placed", "ended because"}, rows); err != nil {
				return err
			}
			if list.NextCursor != nil {
				fmt.Fprintln(c.Stderr, "There are more: --cursor", plain(*list.NextCursor))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "only of this one, by its ID or name; one that was removed, by its ID")
	cmd.Flags().StringVar(&job, "job", "", "only those that were meant for this one or ran it, by its ID")
	cmd.Flags().BoolVar(&q.Live, "live", false, "only those that aren't gone")
	cmd.Flags().StringVar(&q.Cursor, "cursor", "", "where the last page ended")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "at most this many")
	return cmd
}

// vmJob is the job that a VM ran, else the one that it is meant for.
func vmJob(v client.VM) millrace.JobID {
	if v.RanJob.IsZero() {
		return v.ForJob
	}
	return v.RanJob
}

func (c *cli) showVM() *cobra.Command {
	return &cobra.Command{
		Use:   "show VM",
		Short: "Show a VM",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.vm(a[0])
			if err != nil {
				return err
			}
			v, err := api.VM(cmd.Context(), id)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(v)
			}
			samples, err := api.Samples(cmd.Context(), id)
			if err != nil && millrace.CodeOf(err) != millrace.NotFound { // an older server has none
				return err
			}
			return c.table([]string{"field", "value"}, append(vmRows(v), peakRows(millrace.Series(samples.Data), v.Size)...))
		},
	}
}

// vm is the API and the VM with this ID.
func (c *cli) vm(text string) (api client.REST, id millrace.VMID, err error) {
	if id, err = millrace.ParseVMID(text); err != nil {
		return api, id, err
	}
	api, err = c.api()
	return api, id, err
}

func vmRows(v client.VM) [][]string {
	exit := "-"
	if v.ExitCode != nil {
		exit = strconv.Itoa(*v.ExitCode)
	}
	return [][]string{
		{"vm", v.ID.String()},
		{"state", string(v.State)},
		{"host", v.Host + " (" + v.HostID.String() + ")"},
		{"meant for", v.ForJob.String()},
		{"ran", or(v.RanJob.String())},
		{"runner", or(v.RunnerName)},
		{"zone", string(v.Zone)},
		{"arch", string(v.Arch)},
		{"size", v.Size.String()},
		{"placed", clock(v.PlacedAt)},
		{"booting", clock(v.BootingAt)},
		{"online", clock(v.OnlineAt)},
		{"busy", clock(v.BusyAt)},
		{"stopping", clock(v.StoppingAt)},
		{"gone", clock(v.GoneAt)},
		{"ended because", or(v.Reason)},
		{"exit code", exit},
		{"peak memory", fmt.Sprintf("%d MiB", v.Usage.PeakMemory>>20)},
		{"cpu time", ms(v.Usage.CPUMillis)},
	}
}

func (c *cli) vmConsole() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "console VM",
		Short: "Show what a VM printed, at most the last MiB",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			api, id, err := c.vm(a[0])
			if err != nil {
				return err
			}
			var at int64
			gone := false
			return c.printLog(cmd.Context(), follow, func(ctx context.Context) (text []byte, over bool, err error) {
				if text, at, err = api.Console(ctx, id, at); err != nil || !follow || len(text) > 0 {
					return text, false, err
				}
				if gone { // and what it printed last had time to arrive
					return nil, true, nil
				}
				v, err := api.VM(ctx, id)
				gone = !v.State.Live()
				return nil, false, err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it prints from now on, until it is gone")
	return cmd
}
