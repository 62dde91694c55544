package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// InHost is the path of an operation on a host.
type InHost struct {
	InOrg
	Host string `path:"host" maxLength:"40" doc:"The host's ID"`
}

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

	register(s, api, millrace.HostsRead, huma.Operation{OperationID: "get-host", Method: http.MethodGet, Path: "/hosts/{host}", Summary: "Show a host", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, in *InHost) (*out[client.Host], error) {
			id, err := millrace.ParseHostID(in.Host)
			if err != nil {
				return nil, err
			}
			return s.showHost(ctx, org, id)
		})

	type change struct {
		InHost
		Body client.ChangeHost
	}
	register(s, api, millrace.HostsWrite, huma.Operation{OperationID: "change-host", Method: http.MethodPatch, Path: "/hosts/{host}", Summary: "Drain, disable or enable a host", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, in *change) (*out[client.Host], error) {
			id, err := millrace.ParseHostID(in.Host)
			if err != nil {
				return nil, err
			}
			if err := org.SetHostAdmin(ctx, org.by, id, in.Body.Admin); err != nil {
				return nil, err
			}
			return s.showHost(ctx, org, id)
		})

	type remove struct {
		InHost
		Force bool `query:"force" doc:"Even when it has VMs: their jobs fail"`
	}
	register(s, api, millrace.HostsWrite, huma.Operation{OperationID: "remove-host", Method: http.MethodDelete, Path: "/hosts/{host}", Summary: "Remove a host: its agent ends, and nothing of it is believed any more", Tags: []string{"hosts"}, Errors: []int{http.StatusConflict}},
		func(ctx context.Context, org tenant, in *remove) (*struct{}, error) {
			id, err := millrace.ParseHostID(in.Host)
			if err != nil {
				return nil, err
			}
			return nil, org.RemoveHost(ctx, org.by, id, in.Force)
		})

	type readLog struct {
		InHost
		After string `query:"after" maxLength:"40" doc:"A position that an answer gave: what was said since then"`
	}
	type log struct {
		ContentType string `header:"Content-Type"`
		Position    string `header:"Millrace-Log-Position" doc:"The end of what is answered"`
		Body        []byte
	}
	register(s, api, millrace.HostsRead, huma.Operation{
		OperationID: "get-host-log", Method: http.MethodGet, Path: "/hosts/{host}/log", Summary: "Show the end of what a host's agent said", Tags: []string{"hosts"},
		Description: "At most the last 1 MiB of text, whatever process of the agent said it; with after, what came since. A host that was removed has its log for as long as it is kept, 30 days.",
	},
		func(ctx context.Context, org tenant, in *readLog) (*log, error) {
			id, err := millrace.ParseHostID(in.Host)
			if err != nil {
				return nil, err
			}
			var after millrace.LogPosition
			if in.After != "" {
				if after, err = millrace.ParseLogPosition(in.After); err != nil {
					return nil, err
				}
			}
			if _, err := org.AnyHost(ctx, id); err != nil {
				return nil, err
			}
			data, end, err := org.AgentLog(ctx, id, after, 1<<20)
			return &log{"text/plain; charset=utf-8", end.String(), data}, err
		})

	for _, act := range []struct {
		name, summary string
		do            func(tenant, context.Context, millrace.HostID) error
	}{
		{"restart", "Have a host's agent start anew; its VMs run on", func(org tenant, ctx context.Context, id millrace.HostID) error {
			return org.RestartAgent(ctx, org.by, id)
		}},
		{"rotate-keys", "Have a host's agent make new keys; its VMs run on", func(org tenant, ctx context.Context, id millrace.HostID) error {
			return org.RotateKeys(ctx, org.by, id)
		}},
		{"reboot", "Drain a host and reboot its machine once it has no VM, where its owner allows that", func(org tenant, ctx context.Context, id millrace.HostID) error {
			return org.RebootHost(ctx, org.by, id)
		}},
	} {
		register(s, api, millrace.HostsWrite, huma.Operation{OperationID: act.name + "-host", Method: http.MethodPost, Path: "/hosts/{host}/" + act.name, Summary: act.summary, Tags: []string{"hosts"}},
			func(ctx context.Context, org tenant, in *InHost) (*out[client.Host], error) {
				id, err := millrace.ParseHostID(in.Host)
				if err != nil {
					return nil, err
				}
				if err := act.do(org, ctx, id); err != nil {
					return nil, err
				}
				return s.showHost(ctx, org, id)
			})
	}
}

func (s *Server) showHost(ctx context.Context, org tenant, id millrace.HostID) (*out[client.Host], error) {
	row, err := org.Host(ctx, id)
	if err != nil {
		return nil, err
	}
	return &out[client.Host]{client.NewHost(row.Host, row.VMs, row.Committed, s.now())}, nil
}
