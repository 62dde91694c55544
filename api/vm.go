package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

func (s *Server) vmRoutes(api huma.API) {
	type list struct {
		InOrg
		Paging
		Live bool   `query:"live" doc:"Only VMs that aren't gone"`
		Host string `query:"host" maxLength:"40" doc:"Only VMs of this host"`
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

	type one struct {
		InOrg
		VM string `path:"vm" maxLength:"40" doc:"The VM's ID"`
	}
	find := func(ctx context.Context, org tenant, text string) (row store.VMRow, err error) {
		id, err := millrace.ParseVMID(text)
		if err != nil {
			return row, err
		}
		return org.VM(ctx, id)
	}
	register(s, api, millrace.JobsRead, huma.Operation{OperationID: "get-vm", Method: http.MethodGet, Path: "/vms/{vm}", Summary: "Show a VM", Tags: []string{"vms"}},
		func(ctx context.Context, org tenant, in *one) (*out[client.VM], error) {
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
		func(ctx context.Context, org tenant, in *one) (*out[client.List[millrace.Sample]], error) {
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

	type console struct {
		ContentType string `header:"Content-Type"`
		Body        []byte
	}
	register(s, api, millrace.JobsRead, huma.Operation{
		OperationID: "get-vm-console", Method: http.MethodGet, Path: "/vms/{vm}/console", Summary: "Show the end of what a VM printed", Tags: []string{"vms"},
		Description: "At most the last 1 MiB, as it was printed: it may hold control characters.",
	},
		func(ctx context.Context, org tenant, in *one) (*console, error) {
			row, err := find(ctx, org, in.VM)
			if err != nil {
				return nil, err
			}
			s.store.Watch(row.VM)
			data, _, err := org.Console(ctx, row.ID, 1<<20)
			return &console{"text/plain; charset=utf-8", data}, err
		})
}
