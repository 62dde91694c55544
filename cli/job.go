package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (c *cli) jobs() *cobra.Command {
	cmd := &cobra.Command{Use: "jobs", Aliases: []string{"job"}, Short: "Jobs", Args: args(cobra.NoArgs), RunE: help}
	cmd.AddCommand(c.listJobs(), c.showJob())
	return cmd
}

func (c *cli) listJobs() *cobra.Command {
	var q client.JobQuery
	var status []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs, newest first",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.api()
			if err != nil {
				return err
			}
			for _, s := range status {
				q.Status = append(q.Status, millrace.JobStatus(s))
			}
			list, err := api.Jobs(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, j := range list.Data {
				rows = append(rows, []string{j.ID.String(), jobState(j), j.Repository, j.Workflow + " / " + j.Name, or(jobHost(j)), clock(j.QueuedAt), waits(j, time.Now())})
			}
			if err := c.table([]string{"job", "status", "repository", "name", "host", "queued", "waits for"}, rows); err != nil {
				return err
			}
			if list.NextCursor != nil {
				fmt.Fprintln(c.Stderr, "There are more: --cursor", plain(*list.NextCursor))
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&status, "status", nil, "only these: waiting, queued, in_progress, completed")
	cmd.Flags().StringVar(&q.Repository, "repository", "", "only this one, owner/name")
	cmd.Flags().StringVar(&q.Cursor, "cursor", "", "where the last page ended")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "at most this many")
	return cmd
}

func (c *cli) showJob() *cobra.Command {
	return &cobra.Command{
		Use:   "show JOB",
		Short: "Show a job, its way and its VM",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := millrace.ParseJobID(a[0])
			if err != nil {
				return err
			}
			api, err := c.api()
			if err != nil {
				return err
			}
			j, err := api.Job(cmd.Context(), id)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(j)
			}
			rows := jobRows(j, time.Now())
			if j.VM != nil {
				samples, err := api.Samples(cmd.Context(), j.VM.ID)
				if err != nil && millrace.CodeOf(err) != millrace.NotFound { // an older server has none
					return err
				}
				rows = append(rows, peakRows(millrace.Series(samples.Data), j.VM.Size)...)
			}
			return c.table([]string{"field", "value"}, rows)
		},
	}
}

func jobRows(j client.Job, now time.Time) [][]string {
	rows := [][]string{
		{"job", j.ID.String()},
		{"status", jobState(j)},
		{"repository", j.Repository},
		{"name", j.Workflow + " / " + j.Name},
		{"branch", or(j.Branch)},
		{"commit", or(j.SHA)},
		{"actor", or(j.Actor)},
		{"labels", strings.Join(j.Labels, " ")},
		{"url", j.HTMLURL},
	}
	if j.Wait != nil {
		rows = append(rows, []string{"waits", string(j.Wait.Code) + ": " + j.Wait.Text}, []string{"remedy", or(j.Wait.Remedy)})
		if e := j.Wait.Estimate; e != nil {
			rows = append(rows, []string{"starts", e.In(now) + " (" + clock(&e.From) + " to " + clock(&e.To) + "), from: " + e.Basis})
		}
	}
	for _, s := range j.Timeline {
		rows = append(rows, []string{string(s.State), clock(&s.At) + "  +" + ms(s.MS)})
	}
	if v := j.VM; v != nil {
		rows = append(rows,
			[]string{"vm", v.ID.String() + " (" + string(v.State) + ") on " + v.Host},
			[]string{"size", v.Size.String()},
			[]string{"peak memory", fmt.Sprintf("%d MiB", v.Usage.PeakMemory>>20)},
			[]string{"cpu time", ms(v.Usage.CPUMillis)},
		)
		if v.Reason != "" {
			rows = append(rows, []string{"ended", v.Reason})
		}
	}
	return rows
}

// peakRows are what a VM needed at its busiest.
func peakRows(samples millrace.Series, size millrace.Size) [][]string {
	if len(samples) == 0 {
		return nil
	}
	return [][]string{{"peak cpu", fmt.Sprintf("%.1f of %.4g vCPU", float64(samples.Peak().PeakCPU)/1000, float64(size.MilliCPU)/1000)}}
}

// waits is what a job waits for, in short, and how long; "-" when it does not wait.
func waits(j client.Job, now time.Time) string {
	switch {
	case j.Wait == nil:
		return "-"
	case j.Wait.Estimate == nil:
		return string(j.Wait.Code)
	default:
		return string(j.Wait.Code) + ", starts " + j.Wait.Estimate.In(now)
	}
}

// jobState is a job's status, or how it ended.
func jobState(j client.Job) string {
	if j.Conclusion != "" {
		return j.Conclusion
	}
	return string(j.Status)
}

func jobHost(j client.Job) string {
	if j.VM == nil {
		return ""
	}
	return j.VM.Host
}
