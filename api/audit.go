package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

func (s *Server) auditRoutes(api huma.API) {
	type list struct {
		InOrg
		Paging
		Kind    string    `query:"actor_kind" enum:"user,token,host,system" doc:"Who made the change"`
		Actor   string    `query:"actor" maxLength:"100" doc:"Their ID, or their name as it was at that time"`
		Action  string    `query:"action" maxLength:"100" doc:"An action, or all that begin so when it ends with a dot" example:"member."`
		Subject string    `query:"subject" maxLength:"100" doc:"The ID of what it was done to"`
		From    time.Time `query:"from" doc:"At this time or after"`
		To      time.Time `query:"to" doc:"Before this time"`
	}
	register(s, api, millrace.AuditRead, huma.Operation{OperationID: "list-audit", Method: http.MethodGet, Path: "/audit", Summary: "List changes, newest first", Tags: []string{"audit"}},
		func(ctx context.Context, org tenant, in *list) (*out[client.List[client.AuditEntry]], error) {
			page, err := org.Audit(ctx, store.AuditFilter{
				ActorKind: millrace.ActorKind(in.Kind), Actor: in.Actor, Action: in.Action, Subject: in.Subject, From: in.From, To: in.To, Cursor: in.Cursor, Limit: in.Limit,
			})
			if err != nil {
				return nil, err
			}
			entries := make([]client.AuditEntry, 0, len(page.Entries))
			for _, e := range page.Entries {
				entries = append(entries, client.NewAuditEntry(e))
			}
			return &out[client.List[client.AuditEntry]]{client.NewList(entries, page.Next)}, nil
		})
}
