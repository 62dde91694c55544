package api

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// maxForm bounds the forms of sign-ins, in bytes.
const maxForm = 16 << 10

// deviceRoutes are the sign-in of programs (RFC 8628) and its end (RFC 7009). They take forms and answer as OAuth says.
func (s *Server) deviceRoutes(r chi.Router, api huma.API) {
	for _, o := range []struct {
		path, id, summary string
		fields            []string
		answer            any
		do                func(*http.Request, url.Values) (any, error)
	}{
		{"/api/v1/device/code", "begin-device-sign-in", "Begin the sign-in of a program without a browser (RFC 8628)", []string{"client_id", "scope"}, client.DeviceCode{}, s.deviceCode},
		{"/api/v1/device/token", "poll-device-sign-in", "Ask for the token of a sign-in that was begun (RFC 8628)", []string{"client_id", "device_code", "grant_type"}, client.DeviceToken{}, s.deviceToken},
		{"/api/v1/device/revoke", "revoke-own-token", "End an API token of a person's by showing it (RFC 7009)", []string{"token"}, struct{}{}, s.revokeOwnToken},
	} {
		r.Post(o.path, s.form(o.fields, o.do))
		registry := api.OpenAPI().Components.Schemas
		form := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{}, Required: o.fields}
		for _, f := range o.fields {
			form.Properties[f] = &huma.Schema{Type: huma.TypeString}
		}
		content := func(v any) map[string]*huma.MediaType {
			return map[string]*huma.MediaType{"application/json": {Schema: huma.SchemaFromType(registry, reflect.TypeOf(v))}}
		}
		api.OpenAPI().AddOperation(&huma.Operation{
			OperationID: o.id, Method: http.MethodPost, Path: o.path, Summary: o.summary, Tags: []string{"sign-in"}, Security: []map[string][]string{},
			RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/x-www-form-urlencoded": {Schema: form}}},
			Responses: map[string]*huma.Response{
				"200": {Description: "OK", Content: content(o.answer)},
				"400": {Description: "Not yet, or refused", Content: content(client.OAuthError{})},
			},
		})
	}
}

// form answers a form that has each of these fields once.
func (s *Server) form(fields []string, do func(*http.Request, url.Values) (any, error)) http.HandlerFunc {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		answer, err := func() (any, error) {
			if err := r.ParseForm(); err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
				return nil, millrace.Errorf(millrace.Invalid, "The body must be a form (application/x-www-form-urlencoded) of at most %d bytes.", maxForm)
			}
			for _, f := range fields {
				if len(r.PostForm[f]) != 1 {
					return nil, millrace.Errorf(millrace.Invalid, "The form must have %s, once.", f)
				}
			}
			return do(r, r.PostForm)
		}()
		if e, ok := client.NewOAuthError(err); err != nil && ok {
			writeJSON(w, http.StatusBadRequest, e)
			return nil
		}
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, answer)
		return nil
	})
}

func (s *Server) deviceCode(r *http.Request, form url.Values) (any, error) {
	d, secret, err := s.store.CreateDeviceAuthorization(r.Context(), form.Get("client_id"), millrace.ParseScopes(form.Get("scope")), peer(r))
	if err != nil {
		return nil, err
	}
	return client.DeviceCode{
		DeviceCode: secret.Reveal(), UserCode: d.UserCode, VerificationURI: s.url + millrace.DevicePath,
		VerificationURIComplete: s.url + millrace.DevicePath + "?" + url.Values{"code": {d.UserCode}}.Encode(),
		ExpiresIn:               int(millrace.DeviceLength / time.Second), Interval: int(millrace.DeviceInterval / time.Second),
	}, nil
}

func (s *Server) deviceToken(r *http.Request, form url.Values) (any, error) {
	if form.Get("grant_type") != client.DeviceGrant {
		return nil, millrace.Errorf(millrace.Invalid, "The grant_type must be %s.", client.DeviceGrant)
	}
	token, org, secret, err := s.store.RedeemDevice(r.Context(), form.Get("device_code"), peer(r), requestID(r.Context()))
	if err != nil {
		return nil, err
	}
	return client.DeviceToken{
		AccessToken: secret.Reveal(), TokenType: "bearer", ExpiresIn: int(token.ExpiresAt.Sub(token.CreatedAt) / time.Second),
		Scope: millrace.JoinScopes(token.Scopes, " "), Org: org.Slug, Login: token.Login,
	}, nil
}

// revokeOwnToken ends the token that is shown. One that is none isn't told (RFC 7009 §2.2).
func (s *Server) revokeOwnToken(r *http.Request, form url.Values) (any, error) {
	token, err := s.store.TokenAuth(r.Context(), form.Get("token"), peer(r))
	switch {
	case millrace.CodeOf(err) == millrace.Unauthenticated:
		return struct{}{}, nil
	case err != nil:
		return nil, err
	case token.UserID.IsZero():
		return nil, millrace.Errorf(millrace.Invalid, "A token of the org's own is revoked by whoever may make such tokens.")
	}
	by := token.Caller(peer(r).Address, requestID(r.Context()))
	return struct{}{}, s.store.Org(token.OrgID).RevokeAPIToken(r.Context(), by, token.ID)
}

// peer is where a request comes from.
func peer(r *http.Request) millrace.Device {
	return millrace.Device{Address: address(r.RemoteAddr), UserAgent: r.UserAgent()}
}
