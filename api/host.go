package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (s *Server) hostRoutes(api huma.API) {
	register(s, api, millrace.HostsRead, huma.Operation{OperationID: "list-hosts", Method: http.MethodGet, Path: "/hosts", Summary: "List hosts by name", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, _ *InOrg) (*out[client.List[client.Host]], error) {
			rows, err := org.Hosts(ctx)
			if err != nil {
				return nil, err
			}
			hosts := make([]client.Host, 0, len(rows))
			for _, row := range rows {
				hosts = append(hosts, client.NewHost(row.Host, row.VMs, row.Committed, s.now()))
			}
			return &out[client.List[client.Host]]{client.NewList(hosts, "")}, nil
		})

	type one struct {
		InOrg
		Host string `path:"host" maxLength:"40" doc:"The host's ID"`
	}
	register(s, api, millrace.HostsRead, huma.Operation{OperationID: "get-host", Method: http.MethodGet, Path: "/hosts/{host}", Summary: "Show a host", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, in *one) (*out[client.Host], error) {
			id, err := millrace.ParseHostID(in.Host)
			if err != nil {
				return nil, err
			}
			row, err := org.Host(ctx, id)
			if err != nil {
				return nil, err
			}
			return &out[client.Host]{client.NewHost(row.Host, row.VMs, row.Committed, s.now())}, nil
		})
}
