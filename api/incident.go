package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

func (s *Server) incidentRoutes(api huma.API) {
	type list struct {
		InOrg
		Paging
		Open bool `query:"open" doc:"Only incidents that hold now"`
	}
	register(s, api, millrace.IncidentsRead, huma.Operation{
		OperationID: "list-incidents", Method: http.MethodGet, Path: "/incidents", Tags: []string{"incidents"},
		Summary: "List incidents, newest first", Description: "Conditions at GitHub that stop jobs, and what an admin can do about each. Millrace opens and closes them.",
	}, func(ctx context.Context, org tenant, in *list) (*out[client.List[client.Incident]], error) {
		page, err := org.Incidents(ctx, store.IncidentFilter{Open: in.Open, Cursor: in.Cursor, Limit: in.Limit})
		if err != nil {
			return nil, err
		}
		incidents := make([]client.Incident, 0, len(page.Incidents))
		for _, i := range page.Incidents {
			incidents = append(incidents, client.NewIncident(i))
		}
		return &out[client.List[client.Incident]]{client.NewList(incidents, page.Next)}, nil
	})
}
