package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// problem is an error answer to huma: RFC 9457, whatever went wrong.
type problem struct{ client.Problem }

// Error is the sentence.
func (p *problem) Error() string { return p.Detail }

// GetStatus is the answer's status.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is the media type of problems.
func (p *problem) ContentType(string) string { return client.ProblemType }

// ownErrors makes huma's own refusals (a bad parameter, say) problems of ours. huma keeps this in package variables.
var ownErrors = sync.OnceFunc(func() {
	newError := func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		var details []string
		for _, err := range errs {
			var detail *huma.ErrorDetail
			if errors.As(err, &detail) {
				details = append(details, fmt.Sprintf("%s: %s", detail.Location, detail.Message))
			}
		}
		if len(details) > 0 {
			message = strings.Join(details, "; ")
		}
		id := ""
		if ctx != nil {
			id = requestID(ctx.Context())
		}
		p := client.NewProblem(millrace.Errorf(millrace.CodeForStatus(status), "%s", message), id)
		p.Status, p.Title = status, http.StatusText(status)
		return &problem{p}
	}
	huma.NewErrorWithContext = newError
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return newError(nil, status, message, errs...)
	}
})

// rest adds the REST API to a router.
func (s *Server) rest(r chi.Router) {
	ownErrors()
	config := huma.DefaultConfig("Millrace", "1")
	config.Info.Description = "Jobs, VMs, hosts, usage, incidents, members, tokens and the audit log of one org. Every list answers `{\"data\": […], \"next_cursor\": …}`; every error is a problem (RFC 9457)."
	config.OpenAPIPath = "/openapi"
	config.DocsPath = ""
	config.SchemasPath = ""
	config.CreateHooks = nil // no $schema in answers
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "An API token, `mrat_…`."},
	}
	config.Security = []map[string][]string{{"token": {}}}
	api := humachi.New(r, config)
	org := huma.NewGroup(api, "/api/v1/orgs/{org}")
	org.UseMiddleware(s.authenticate, s.unambiguous)
	s.jobRoutes(org)
	s.vmRoutes(org)
	s.hostRoutes(org)
	s.usageRoutes(org)
	s.incidentRoutes(org)
	s.memberRoutes(org)
	s.tokenRoutes(org)
	s.enrollmentTokenRoutes(org)
	s.auditRoutes(org)
	s.placementRoutes(org)
	s.deviceRoutes(r, api)
	r.Get("/docs/api", s.handle(docsPage(api.OpenAPI())))
	r.Get("/docs/problems/{code}", s.handle(s.problemPage))
}

// InOrg is the path parameter that every operation has. It and [Paging] are exported because huma passes over the fields
// of embedded structs that aren't.
type InOrg struct {
	Org string `path:"org" doc:"The org's short name" example:"calm"`
}

// Paging is the query of every list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"Rows on a page"`
	Cursor string `query:"cursor" maxLength:"100" doc:"Where the page before ended: its next_cursor"`
}

type out[T any] struct{ Body T }

// tenant is an org as its token's caller may use it.
type tenant struct {
	store.Org
	by millrace.Caller
}

type tenantKey struct{}

// authenticate finds the token's org and checks that it is the path's. Another org and none at all are the same 404.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	refuse := func(err error) { s.refuse(ctx, err) }
	scheme, secret, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		secret = ""
	}
	from := millrace.Device{Address: address(ctx.RemoteAddr()), UserAgent: ctx.Header("User-Agent")}
	token, err := s.store.TokenAuth(ctx.Context(), strings.TrimSpace(secret), from)
	if err != nil {
		refuse(err)
		return
	}
	// Only the token's own org is read: another's and none at all take the same time.
	by := huma.WithValue(ctx, tenantKey{}, tenant{s.store.Org(token.OrgID), token.Caller(from.Address, requestID(ctx.Context()))})
	org, err := s.store.Org(token.OrgID).Read(ctx.Context())
	if err != nil {
		refuse(err)
		return
	}
	if org.Slug != ctx.Param("org") {
		elsewhere := millrace.Errorf(millrace.NotFound, "There is no org with this name that this token may see.")
		s.refused(by.Context(), elsewhere)
		refuse(elsewhere)
		return
	}
	next(by)
}

// unambiguous refuses a query that says something twice, or can't be read as a whole: what stands before this server might
// take another half of it than we do.
func (s *Server) unambiguous(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		s.refuse(ctx, millrace.Errorf(millrace.Unprocessable, "The query can't be read: separate parameters by &, and escape what isn't plain."))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if n := len(query[name]); n > 1 {
			s.refuse(ctx, millrace.Errorf(millrace.Unprocessable, "The parameter %.50q is given %d times. Give it once.", name, n))
			return
		}
	}
	next(ctx)
}

func (s *Server) refuse(ctx huma.Context, err error) {
	_, w := humachi.Unwrap(ctx)
	writeProblem(w, s.problem(ctx.Context(), err))
}

// address is the IP address of a peer, without its port.
func address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// register adds one operation for callers with a permission, or for all of an org's when needs is "": its errors become problems, and its tenant is found in the
// context.
func register[I, O any](s *Server, api huma.API, needs millrace.Permission, op huma.Operation, do func(ctx context.Context, org tenant, in *I) (*O, error)) {
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusUnprocessableEntity)
	op.Security = []map[string][]string{{"token": {}}}
	if needs != "" {
		op.Security[0]["token"] = []string{string(needs)}
	}
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		org, ok := ctx.Context().Value(tenantKey{}).(tenant)
		if !ok {
			s.refuse(ctx, errors.New("api: an operation without authentication"))
			return
		}
		if err := org.by.Require(needs); needs != "" && err != nil {
			s.refuse(ctx, err)
			return
		}
		next(ctx)
	})
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		o, err := do(ctx, ctx.Value(tenantKey{}).(tenant), in)
		if err != nil {
			return nil, &problem{s.problem(ctx, err)}
		}
		return o, nil
	})
}
