package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func (s *Server) usageRoutes(api huma.API) {
	type query struct {
		InOrg
		By   string    `query:"by" enum:"repository,user,day" default:"repository" doc:"What is summed up"`
		From time.Time `query:"from" doc:"Jobs completed from then on; 28 days ago unless given"`
		To   time.Time `query:"to" doc:"Jobs completed before then; now unless given"`
	}
	register(s, api, millrace.UsageRead, huma.Operation{OperationID: "get-usage", Method: http.MethodGet, Path: "/usage", Summary: "Sum up completed jobs", Tags: []string{"usage"}},
		func(ctx context.Context, org tenant, in *query) (*out[client.List[client.Usage]], error) {
			if in.To.IsZero() {
				in.To = s.now().Add(time.Minute) // GitHub's clock may be a little ahead of ours
			}
			if in.From.IsZero() {
				in.From = in.To.AddDate(0, 0, -28)
			}
			if !in.From.Before(in.To) {
				return nil, millrace.Errorf(millrace.Unprocessable, "from must lie before to.")
			}
			rows, err := org.Usage(ctx, millrace.UsageBy(in.By), in.From, in.To)
			if err != nil {
				return nil, err
			}
			list := make([]client.Usage, 0, len(rows))
			for _, row := range rows {
				list = append(list, client.NewUsage(row))
			}
			return &out[client.List[client.Usage]]{client.NewList(list, "")}, nil
		})
}
