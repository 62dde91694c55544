package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (s *Server) placementRoutes(api huma.API) {
	register(s, api, millrace.OrgRead, huma.Operation{OperationID: "get-placement", Method: http.MethodGet, Path: "/placement", Summary: "Show where and when jobs run", Tags: []string{"placement"}},
		func(ctx context.Context, org tenant, _ *InOrg) (*out[client.Placement], error) {
			settings, err := org.PlacementSettings(ctx)
			if err != nil {
				return nil, err
			}
			return &out[client.Placement]{client.NewPlacement(settings)}, nil
		})

	type change struct {
		InOrg
		Body client.ChangePlacement
	}
	register(s, api, millrace.OrgWrite, huma.Operation{
		OperationID: "change-placement", Method: http.MethodPatch, Path: "/placement", Summary: "Change where and when jobs run", Tags: []string{"placement"},
		Description: "What is left out stays. Jobs that wait are looked at at once by what holds then.",
	},
		func(ctx context.Context, org tenant, in *change) (*out[client.Placement], error) {
			to, err := in.Body.Change()
			if err != nil {
				return nil, err
			}
			settings, err := org.ChangePlacement(ctx, org.by, to)
			if err != nil {
				return nil, err
			}
			return &out[client.Placement]{client.NewPlacement(settings)}, nil
		})
}
