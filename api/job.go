package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

func (s *Server) jobRoutes(api huma.API) {
	type list struct {
		InOrg
		Paging
		Status     string `query:"status" maxLength:"100" doc:"Statuses, separated by commas: waiting, queued, in_progress, completed"`
		Repository string `query:"repository" maxLength:"300" doc:"A repository's full name, owner/name"`
	}
	register(s, api, millrace.JobsRead, huma.Operation{OperationID: "list-jobs", Method: http.MethodGet, Path: "/jobs", Summary: "List jobs, newest first", Tags: []string{"jobs"}},
		func(ctx context.Context, org tenant, in *list) (*out[client.List[client.Job]], error) {
			filter := store.JobFilter{Repository: in.Repository, Cursor: in.Cursor, Limit: in.Limit}
			for word := range strings.SplitSeq(in.Status, ",") {
				if word == "" {
					continue
				}
				if !slices.Contains(millrace.JobStatuses, millrace.JobStatus(word)) {
					return nil, millrace.Errorf(millrace.Unprocessable, "%q is no status; a job is waiting, queued, in_progress or completed.", word)
				}
				filter.Status = append(filter.Status, millrace.JobStatus(word))
			}
			page, err := org.Jobs(ctx, filter)
			if err != nil {
				return nil, err
			}
			jobs := make([]client.Job, 0, len(page.Jobs))
			for _, row := range page.Jobs {
				jobs = append(jobs, client.NewJob(row.Job, row.VM, row.HostName))
			}
			return &out[client.List[client.Job]]{client.NewList(jobs, page.Next)}, nil
		})

	type one struct {
		InOrg
		Job string `path:"job" maxLength:"40" doc:"The job's ID" example:"job_01jd2w8k5p7m9q3r5t7v9x1z3b"`
	}
	register(s, api, millrace.JobsRead, huma.Operation{OperationID: "get-job", Method: http.MethodGet, Path: "/jobs/{job}", Summary: "Show a job", Tags: []string{"jobs"}},
		func(ctx context.Context, org tenant, in *one) (*out[client.Job], error) {
			id, err := millrace.ParseJobID(in.Job)
			if err != nil {
				return nil, err
			}
			row, err := org.Job(ctx, id)
			if err != nil {
				return nil, err
			}
			return &out[client.Job]{client.NewJob(row.Job, row.VM, row.HostName)}, nil
		})
}
