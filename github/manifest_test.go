package github_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
)

func TestManifest(t *testing.T) {
	t.Parallel()
	type manifest struct {
		Name, URL   string
		RedirectURL string `json:"redirect_url"`
		Hook        struct {
			URL    string
			Active bool
		} `json:"hook_attributes"`
		Callbacks     []string          `json:"callback_urls"`
		SetupURL      string            `json:"setup_url"`
		SetupOnUpdate bool              `json:"setup_on_update"`
		Public        bool              `json:"public"`
		OAuth         *bool             `json:"request_oauth_on_install"`
		Permissions   map[string]string `json:"default_permissions"`
		Events        []string          `json:"default_events"`
	}
	for _, personal := range []bool{false, true} {
		want := manifest{
			Name: "Millrace", URL: "https://millrace.test", RedirectURL: "http://127.0.0.1:1/created", Callbacks: []string{"https://millrace.test/sign-in/github/callback"},
			SetupURL: "https://millrace.test/github/setup", SetupOnUpdate: true, Public: true, OAuth: new(bool), Permissions: map[string]string{}, Events: millrace.AppEvents,
		}
		want.Hook.URL, want.Hook.Active = "https://millrace.test/webhooks/github", true
		for _, p := range millrace.AppPermissions {
			if !p.Personal || personal {
				want.Permissions[p.Key] = map[string]string{"Read": "read", "Read and write": "write"}[p.Access]
			}
		}
		var got manifest
		content := github.Manifest(github.ManifestConfig{Name: "Millrace", URL: "https://millrace.test/", RedirectURL: "http://127.0.0.1:1/created", PersonalAccounts: personal})
		if err := json.Unmarshal(content, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if (got.Permissions["administration"] != "") != personal {
			t.Errorf("administration is asked for: %v", !personal)
		}
	}
}

// docs/run.md has the same table of permissions, and the same events.
func TestTheAppIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/run.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(doc)) {
		if strings.HasPrefix(line, "| Organization: ") || strings.HasPrefix(line, "| Repository: ") {
			rows++
		}
	}
	for _, p := range millrace.AppPermissions {
		if row := "| " + p.Name + " | " + p.Access + " | " + p.Why + " |\n"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/run.md lacks %s", row)
		}
	}
	if rows != len(millrace.AppPermissions) {
		t.Errorf("docs/run.md has %d permissions, the App %d", rows, len(millrace.AppPermissions))
	}
	for _, e := range millrace.AppEvents {
		if !strings.Contains(string(doc), "`"+e+"`") {
			t.Errorf("docs/run.md lacks the event %s", e)
		}
	}
}

func TestConvertManifest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := map[string]any{
		"id": 7, "slug": "millrace", "html_url": "https://github.test/apps/millrace", "client_id": "Iv1.7", "client_secret": "cs", "webhook_secret": "ws", "pem": string(w.PrivateKeyPEM()),
	}
	answer := func(lacks string, instead any) string {
		body := map[string]any{}
		for k, v := range good {
			body[k] = v
		}
		if lacks != "" {
			body[lacks] = instead
		}
		content, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	convert := func(status int, body, code string) (github.NewApp, error) {
		return github.ConvertManifest(t.Context(), roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodPost || r.URL.String() != "https://github.test/api/v3/app-manifests/"+code+"/conversions" || r.Header.Get("Authorization") != "" {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
			rec := httptest.NewRecorder()
			says(status, body)(rec, r)
			return response(rec, r), nil
		}), "https://github.test/api/v3/", code)
	}
	got, err := convert(201, answer("", nil), "abc123")
	want := github.NewApp{ID: 7, Slug: "millrace", HTMLURL: "https://github.test/apps/millrace", ClientID: "Iv1.7", ClientSecret: "cs", WebhookSecret: "ws", PrivateKeyPEM: millrace.Secret(w.PrivateKeyPEM())}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		status int
		body   string
		want   millrace.Code
	}{
		"used": {404, `{"message":"Not Found"}`, millrace.Gone}, "not valid": {422, `{}`, millrace.Gone}, "GitHub is down": {502, ``, millrace.Unavailable},
		"a rate limit": {429, `{}`, millrace.Unavailable}, "forbidden": {403, `{"message":"Forbidden"}`, millrace.Internal}, "no JSON": {201, `<`, millrace.Unavailable},
		"no id": {201, answer("id", nil), millrace.Unavailable}, "no key": {201, answer("pem", "x"), millrace.Unavailable}, "no secret": {201, answer("client_secret", ""), millrace.Unavailable},
		"no webhook secret": {201, answer("webhook_secret", nil), millrace.Unavailable}, "no page": {201, answer("html_url", "javascript:x"), millrace.Unavailable},
		"lines in the client id": {201, answer("client_id", "x\nMILLRACE_URL=y"), millrace.Unavailable}, "a path in the slug": {201, answer("slug", "../x"), millrace.Unavailable},
	} {
		got, err := convert(tc.status, tc.body, "abc123")
		if millrace.CodeOf(err) != tc.want || got != (github.NewApp{}) {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, tc.want)
		}
	}
	for _, code := range []string{"", "a/b", "../x", strings.Repeat("x", 101)} {
		_, err := convert(201, answer("", nil), code)
		wantCode(t, err, millrace.Gone)
	}
	_, err = github.ConvertManifest(t.Context(), failing{}, "https://github.test/", "abc")
	wantCode(t, err, millrace.Unavailable)
}
