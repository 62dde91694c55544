package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// InVM is the path of an operation on a VM.
type InVM struct {
	InOrg
	VM string `path:"vm" maxLength:"40" doc:"The VM's ID"`
}

func (s *Server) vmRoutes(api huma.API) {
	type list struct {
		InOrg
		Paging
		Live bool   `query:"live" doc:"Only VMs that aren't gone"`
		Host string `query:"host" maxLength:"40" doc:"Only VMs of this host, be it removed"`
		Job  string `query:"job" maxLength:"40" doc:"Only VMs that were meant for this job or ran it"`
	}
	register(s, api, millrace.JobsRead, huma.Operation{OperationID: "list-vms", Method: http.MethodGet, Path: "/vms", Summary: "List VMs, newest first", Tags: []string{"vms"}},
		func(ctx context.Context, org tenant, in *list) (*out[client.List[client.VM]], error) {
			filter := store.VMFilter{Live: in.Live, Cursor: in.Cursor, Limit: in.Limit}
			if in.Host != "" {
				host, err := millrace.ParseHostID(in.Host)
				if err != nil {
					return nil, err
				}
				filter.Host = host
			}
			if in.Job != "" {
				job, err := millrace.ParseJobID(in.Job)
				if err != nil {
					return nil, err
				}
				filter.Job = job
			}
			page, err := org.VMs(ctx, filter)
			if err != nil {
				return nil, err
			}
			vms := make([]client.VM, 0, len(page.VMs))
			for _, row := range page.VMs {
				vms = append(vms, client.NewVM(row.VM, row.HostName))
			}
			return &out[client.List[client.VM]]{client.NewList(vms, page.Next)}, nil
		})

	find := func(ctx context.Context, org tenant, text string) (row store.VMRow, err error) {
		id, err := millrace.ParseVMID(text)
		if err != nil {
			return row, err
		}
		return org.VM(ctx, id)
	}
	register(s, api, millrace.JobsRead, huma.Operation{OperationID: "get-vm", Method: http.MethodGet, Path: "/vms/{vm}", Summary: "Show a VM", Tags: []string{"vms"}},
		func(ctx context.Context, org tenant, in *InVM) (*out[client.VM], error) {
			row, err := find(ctx, org, in.VM)
			if err != nil {
				return nil, err
			}
			return &out[client.VM]{client.NewVM(row.VM, row.HostName)}, nil
		})

	register(s, api, millrace.JobsRead, huma.Operation{
		OperationID: "list-vm-samples", Method: http.MethodGet, Path: "/vms/{vm}/samples", Summary: "Show what a VM used over time", Tags: []string{"vms"},
		Description: "In order of time: every second of a VM's first ten minutes, then every two seconds of twenty, and so on; at most 600. " +
			"A rate is the difference of two samples' counters over that of their times. They are kept for 90 days.",
	},
		func(ctx context.Context, org tenant, in *InVM) (*out[client.List[millrace.Sample]], error) {
			row, err := find(ctx, org, in.VM)
			if err != nil {
				return nil, err
			}
			samples, err := org.Samples(ctx, row.ID)
			if err != nil {
				return nil, err
			}
			return &out[client.List[millrace.Sample]]{client.NewList([]millrace.Sample(samples), "")}, nil
		})

	type readConsole struct {
		InVM
		After int64 `query:"after" minimum:"0" doc:"A position that an answer gave: what was printed since then"`
	}
	type console struct {
		ContentType string `header:"Content-Type"`
		Position    int64  `header:"Millrace-Log-Position" doc:"The end of what is answered, in bytes from the beginning"`
		Body        []byte
	}
	register(s, api, millrace.JobsRead, huma.Operation{
		OperationID: "get-vm-console", Method: http.MethodGet, Path: "/vms/{vm}/console", Summary: "Show the end of what a VM printed", Tags: []string{"vms"},
		Description: "At most the last 1 MiB, as it was printed: it may hold control characters. With after, what came since. It is kept for 30 days.",
	},
		func(ctx context.Context, org tenant, in *readConsole) (*console, error) {
			row, err := find(ctx, org, in.VM)
			if err != nil {
				return nil, err
			}
			s.store.Watch(row.VM)
			data, end, err := org.Console(ctx, row.ID, in.After, 1<<20)
			return &console{"text/plain; charset=utf-8", end, data}, err
		})
}
