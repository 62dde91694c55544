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

func (s *Server) tokenRoutes(api huma.API) {
	register(s, api, millrace.TokensWrite, huma.Operation{OperationID: "list-tokens", Method: http.MethodGet, Path: "/tokens", Summary: "List API tokens, newest first", Tags: []string{"tokens"}},
		func(ctx context.Context, org tenant, _ *InOrg) (*out[client.List[client.APIToken]], error) {
			list, err := org.APITokens(ctx, org.by)
			if err != nil {
				return nil, err
			}
			tokens := make([]client.APIToken, 0, len(list))
			for _, t := range list {
				tokens = append(tokens, client.NewAPIToken(t))
			}
			return &out[client.List[client.APIToken]]{client.NewList(tokens, "")}, nil
		})

	register(s, api, "", huma.Operation{OperationID: "show-token", Method: http.MethodGet, Path: "/token", Summary: "Show the API token that asks", Tags: []string{"tokens"}},
		func(_ context.Context, org tenant, _ *InOrg) (*out[client.APIToken], error) {
			return &out[client.APIToken]{client.NewAPIToken(*org.by.Token)}, nil
		})

	type create struct {
		InOrg
		Body client.CreateAPIToken
	}
	register(s, api, millrace.TokensWrite, huma.Operation{OperationID: "create-token", Method: http.MethodPost, Path: "/tokens", Summary: "Make an API token; its secret is in this answer alone", Tags: []string{"tokens"}, DefaultStatus: http.StatusCreated},
		func(ctx context.Context, org tenant, in *create) (*out[client.APIToken], error) {
			t, secret, err := org.CreateAPIToken(ctx, org.by, millrace.NewAPIToken{Name: in.Body.Name, Scopes: in.Body.Scopes, Days: in.Body.Days, OfOrg: in.Body.OfOrg})
			if err != nil {
				return nil, err
			}
			made := client.NewAPIToken(t)
			made.Secret = secret.Reveal()
			return &out[client.APIToken]{made}, nil
		})

	type one struct {
		InOrg
		Token string `path:"token" maxLength:"40" doc:"The token's ID"`
	}
	register(s, api, millrace.TokensWrite, huma.Operation{OperationID: "revoke-token", Method: http.MethodDelete, Path: "/tokens/{token}", Summary: "Revoke an API token, at once", Tags: []string{"tokens"}},
		func(ctx context.Context, org tenant, in *one) (*struct{}, error) {
			id, err := millrace.ParseAPITokenID(in.Token)
			if err != nil {
				return nil, err
			}
			return nil, org.RevokeAPIToken(ctx, org.by, id)
		})
}

func (s *Server) enrollmentTokenRoutes(api huma.API) {
	register(s, api, millrace.HostsWrite, huma.Operation{OperationID: "list-enrollment-tokens", Method: http.MethodGet, Path: "/enrollment-tokens", Summary: "List the enrollment tokens that still work, newest first", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, _ *InOrg) (*out[client.List[client.EnrollmentToken]], error) {
			list, err := org.EnrollmentTokens(ctx)
			if err != nil {
				return nil, err
			}
			tokens := make([]client.EnrollmentToken, 0, len(list))
			for _, t := range list {
				tokens = append(tokens, client.NewEnrollmentToken(t))
			}
			return &out[client.List[client.EnrollmentToken]]{client.NewList(tokens, "")}, nil
		})

	type create struct {
		InOrg
		Body client.CreateEnrollmentToken
	}
	register(s, api, millrace.HostsWrite, huma.Operation{OperationID: "create-enrollment-token", Method: http.MethodPost, Path: "/enrollment-tokens", Summary: "Make an enrollment token; its secret is in this answer alone", Tags: []string{"hosts"}, DefaultStatus: http.StatusCreated},
		func(ctx context.Context, org tenant, in *create) (*out[client.EnrollmentToken], error) {
			t, secret, err := org.CreateEnrollmentToken(ctx, org.by.Actor, store.NewEnrollmentToken{
				Uses: in.Body.Uses, Life: time.Duration(in.Body.Seconds) * time.Second, Labels: in.Body.Labels, CIDR: in.Body.CIDR, Ephemeral: in.Body.Ephemeral,
			})
			if err != nil {
				return nil, err
			}
			made := client.NewEnrollmentToken(t)
			made.Secret = secret.Reveal()
			return &out[client.EnrollmentToken]{made}, nil
		})

	type one struct {
		InOrg
		Token string `path:"token" maxLength:"40" doc:"The token's ID"`
	}
	register(s, api, millrace.HostsWrite, huma.Operation{OperationID: "revoke-enrollment-token", Method: http.MethodDelete, Path: "/enrollment-tokens/{token}", Summary: "Revoke an enrollment token, at once", Tags: []string{"hosts"}},
		func(ctx context.Context, org tenant, in *one) (*struct{}, error) {
			id, err := millrace.ParseEnrollmentTokenID(in.Token)
			if err != nil {
				return nil, err
			}
			return nil, org.RevokeEnrollmentToken(ctx, org.by.Actor, id)
		})
}
