package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store/storetest"
)

// form posts a form to a path below /api/v1/device/.
func (w *world) form(path, body string) answer {
	w.t.Helper()
	r := w.request(http.MethodPost, "/api/v1/device/"+path, []byte(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.send(r)
}

// The whole of a program's sign-in through the client: begun, agreed to, used, ended.
func TestDeviceSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := client.Server{URL: w.url, HTTP: client.NewHTTP()}
	begin := func() client.SignIn {
		t.Helper()
		in, err := server.BeginSignIn(t.Context(), "millrace CLI on rack-1", []millrace.Permission{millrace.JobsRead, millrace.UsageRead})
		if err != nil {
			t.Fatal(err)
		}
		if in.ExpiresIn != 600 || in.Interval != 5 || !strings.HasSuffix(in.VerificationURIComplete, "/device?code="+in.UserCode) {
			t.Errorf("%+v", in.DeviceCode)
		}
		in.Interval = 0 // the test polls once, when all is decided
		return in
	}
	decide := func(in client.SignIn, org millrace.OrgID) {
		t.Helper()
		if _, err := w.st.DeviceAuthorization(t.Context(), w.calm.Owner.ID, in.UserCode); err != nil {
			t.Fatal(err)
		}
		if err := w.st.DecideDevice(t.Context(), w.calm.Owner.ID, in.UserCode, org, 7); err != nil {
			t.Fatal(err)
		}
	}
	in := begin()
	decide(in, w.calm.ID)
	got, err := in.Wait(t.Context())
	if err != nil || got.Org != "calm" || got.Login != "calm-admin" || got.TokenType != "bearer" || got.ExpiresIn != 7*24*3600 || got.Scope != "jobs:read usage:read" {
		t.Fatalf("%+v, %v", got, err)
	}
	rest := client.REST{URL: w.url, Org: got.Org, Token: millrace.Secret(got.AccessToken), HTTP: client.NewHTTP()}
	if _, err := rest.Jobs(t.Context(), client.JobQuery{}); err != nil {
		t.Error(err)
	}
	if own, err := rest.OwnToken(t.Context()); err != nil || own.Name != "millrace CLI on rack-1" || own.Secret != "" {
		t.Errorf("%+v, %v", own, err)
	}
	if err := server.Revoke(t.Context(), rest.Token); err != nil {
		t.Error(err)
	}
	if _, err := rest.OwnToken(t.Context()); millrace.CodeOf(err) != millrace.Unauthenticated {
		t.Errorf("a token that was revoked: %v", err)
	}
	if err := server.Revoke(t.Context(), rest.Token); err != nil {
		t.Errorf("again: %v", err)
	}

	refused := begin()
	decide(refused, 0)
	if _, err := refused.Wait(t.Context()); millrace.CodeOf(err) != millrace.Forbidden {
		t.Errorf("refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := begin().Wait(ctx); err == nil {
		t.Error("it waits for ever")
	}
}

// What isn't a sign-in's form is refused, as OAuth says it.
func TestDeviceForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	grant := "&grant_type=" + url.QueryEscape(client.DeviceGrant)
	unknown := millrace.NewSecret(millrace.DeviceCodePrefix, nil).Reveal()
	for _, tt := range []struct{ path, body, code string }{
		{"code", "", "invalid_request"},
		{"code", "client_id=x", "invalid_request"},
		{"code", "client_id=x&scope=", "invalid_request"},
		{"code", "client_id=&scope=jobs:read", "invalid_request"},
		{"code", "client_id=x%1bx&scope=jobs:read", "invalid_request"},
		{"code", "client_id=x&scope=org:delete", "invalid_request"},
		{"code", "client_id=x&scope=jobs:read&scope=hosts:write", "invalid_request"}, // RFC 6749 §3.2
		{"code", "client_id=x&client_id=y&scope=jobs:read", "invalid_request"},
		{"code", "client_id=%zz&scope=jobs:read", "invalid_request"},
		{"code", "client_id=x&scope=" + strings.Repeat("jobs:read+", 2000), "invalid_request"},
		{"token", "client_id=x&device_code=" + unknown + grant, "invalid_request"},
		{"token", "client_id=x&device_code=x" + grant, "invalid_request"},
		{"token", "client_id=x&device_code=" + unknown + "&grant_type=password", "invalid_request"},
		{"revoke", "", "invalid_request"},
		{"revoke", "token=" + storetest.MustCreateToken(t, w.st, w.calm) + "&token=x", "invalid_request"},
	} {
		a := w.form(tt.path, tt.body)
		var e client.OAuthError
		if err := json.Unmarshal(a.body, &e); err != nil || a.status != http.StatusBadRequest || e.Code != tt.code || e.Description == "" {
			t.Errorf("%s %.60s: %d %s", tt.path, tt.body, a.status, a.body)
		}
	}
	if a := w.ask(http.MethodPost, "/api/v1/device/code", "", `{"client_id":"x","scope":"jobs:read"}`); a.status != http.StatusBadRequest {
		t.Errorf("JSON: %d", a.status)
	}
	if a := w.form("revoke", "token=mrat_none"); a.status != http.StatusOK {
		t.Errorf("no token at all: %d", a.status)
	}
	// Asking again at once is asking too soon.
	var begun client.DeviceCode
	if err := json.Unmarshal(w.form("code", "client_id=x&scope=jobs:read").body, &begun); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"authorization_pending", "slow_down"} {
		if a := w.form("token", "client_id=x&device_code="+begun.DeviceCode+grant); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), want) {
			t.Errorf("want %s: %d %s", want, a.status, a.body)
		}
	}
	for range millrace.DevicesWaiting - 1 {
		w.form("code", "client_id=x&scope=jobs:read")
	}
	if a := w.form("code", "client_id=x&scope=jobs:read"); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "slow_down") {
		t.Errorf("too many: %d %s", a.status, a.body)
	}
}
