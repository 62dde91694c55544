package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (s *Server) memberRoutes(api huma.API) {
	register(s, api, millrace.MembersRead, huma.Operation{OperationID: "list-members", Method: http.MethodGet, Path: "/members", Summary: "List members by login", Tags: []string{"members"}},
		func(ctx context.Context, org tenant, _ *InOrg) (*out[client.List[client.Member]], error) {
			list, err := org.Members(ctx)
			if err != nil {
				return nil, err
			}
			members := make([]client.Member, 0, len(list))
			for _, m := range list {
				members = append(members, client.NewMember(m))
			}
			return &out[client.List[client.Member]]{client.NewList(members, "")}, nil
		})

	type change struct {
		InOrg
		User string `path:"user" maxLength:"40" doc:"The user's ID"`
		Body client.ChangeMember
	}
	register(s, api, millrace.MembersWrite, huma.Operation{OperationID: "change-member", Method: http.MethodPatch, Path: "/members/{user}", Summary: "Change a member's role", Tags: []string{"members"}, Errors: []int{http.StatusConflict}},
		func(ctx context.Context, org tenant, in *change) (*out[client.Member], error) {
			id, err := millrace.ParseUserID(in.User)
			if err != nil {
				return nil, err
			}
			role := millrace.Role(in.Body.Role)
			if role == "github" {
				role = ""
			}
			m, err := org.SetRole(ctx, org.by, id, role)
			if err != nil {
				return nil, err
			}
			return &out[client.Member]{client.NewMember(m)}, nil
		})
}
