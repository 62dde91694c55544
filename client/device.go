package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// The sign-in of the CLI and of other programs that have no browser of their own, as RFC 8628 has it: forms in, JSON out, and
// OAuth's errors (RFC 6749 §5.2) instead of problems, so that any OAuth library can use it.
//
//	POST /api/v1/device/code     client_id, scope                        → DeviceCode
//	POST /api/v1/device/token    client_id, device_code, grant_type      → DeviceToken
//	POST /api/v1/device/revoke   token (RFC 7009)                        → 200, whatever the token was

// DeviceGrant is the grant type of [Server.Token] (RFC 8628 §3.4).
const DeviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// DeviceCode begins a sign-in: a person types UserCode at VerificationURI.
type DeviceCode struct {
	DeviceCode              string `json:"device_code"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete"`
	ExpiresIn               int    `json:"expires_in" doc:"Seconds"`
	Interval                int    `json:"interval" doc:"Seconds to wait between two polls"`
}

// DeviceToken is what a sign-in gives: an API token of the person who agreed.
type DeviceToken struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type" enum:"bearer"`
	ExpiresIn   int    `json:"expires_in" doc:"Seconds"`
	Scope       string `json:"scope" doc:"Its scopes, with spaces between: those of the requested that the person has"`
	Org         string `json:"org" doc:"The short name of the org that it is for"`
	Login       string `json:"login" doc:"Whose it is"`
}

// OAuthError is a refusal (RFC 6749 §5.2, RFC 8628 §3.5).
type OAuthError struct {
	Code        string `json:"error" example:"authorization_pending"`
	Description string `json:"error_description"`
}

// Server is what a server does for whoever isn't signed in yet.
type Server struct {
	URL  string
	HTTP *http.Client // [NewHTTP], or a test's; not nil
}

// SignIn is a sign-in that waits for a person.
type SignIn struct {
	DeviceCode
	server Server
	client string
}

// BeginSignIn begins a sign-in; client is what the program calls itself. LimitReached: too many wait.
func (s Server) BeginSignIn(ctx context.Context, client string, scopes []millrace.Permission) (in SignIn, err error) {
	in = SignIn{server: s, client: client}
	return in, s.form(ctx, "code", url.Values{"client_id": {client}, "scope": {millrace.JoinScopes(scopes, " ")}}, &in.DeviceCode)
}

// Wait asks until the person has decided. Forbidden: they refused. Gone: the code has expired.
func (in SignIn) Wait(ctx context.Context) (token DeviceToken, err error) {
	wait := max(time.Duration(in.Interval)*time.Second, time.Millisecond)
	for {
		select {
		case <-ctx.Done():
			return token, context.Cause(ctx)
		case <-time.After(wait):
		}
		err = in.server.form(ctx, "token", url.Values{"client_id": {in.client}, "device_code": {in.DeviceCode.DeviceCode}, "grant_type": {DeviceGrant}}, &token)
		switch millrace.CodeOf(err) {
		case millrace.Conflict:
		case millrace.LimitReached: // RFC 8628 §3.5: five seconds more, from now on
			wait += millrace.DeviceInterval
		case millrace.Unavailable: // it may come back before the code expires
		default:
			return token, err
		}
	}
}

// Revoke ends a token. One that ended already is no error.
func (s Server) Revoke(ctx context.Context, token millrace.Secret) error {
	return s.form(ctx, "revoke", url.Values{"token": {token.Reveal()}}, nil)
}

// form posts a form to /api/v1/device/<path>.
func (s Server) form(ctx context.Context, path string, form url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(s.URL, "/")+"/api/v1/device/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := s.HTTP.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxRESTBody))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return oauthErrorOf(res.StatusCode, res.Header.Get("Content-Type"), body)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}

// oauthCodes are what errors of ours are to OAuth, and back.
var oauthCodes = map[millrace.Code]string{
	millrace.Conflict:     "authorization_pending",
	millrace.LimitReached: "slow_down",
	millrace.Forbidden:    "access_denied",
	millrace.Gone:         "expired_token",
	millrace.Invalid:      "invalid_request",
	millrace.Unavailable:  "temporarily_unavailable",
}

// NewOAuthError is an error as OAuth has it; ok is false when OAuth has no such error.
func NewOAuthError(err error) (e OAuthError, ok bool) {
	code := millrace.CodeOf(err)
	if code == millrace.Unprocessable {
		code = millrace.Invalid
	}
	e.Code, ok = oauthCodes[code]
	e.Description = millrace.MessageOf(err)
	return e, ok
}

func oauthErrorOf(status int, contentType string, body []byte) error {
	var e OAuthError
	if json.Unmarshal(body, &e) == nil {
		for code, name := range oauthCodes {
			if e.Code == name {
				return millrace.Errorf(code, "%s", e.Description)
			}
		}
	}
	return errorOf(status, contentType, body)
}
