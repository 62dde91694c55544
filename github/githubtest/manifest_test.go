package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func manifestOf(more string) string {
	return `{"name":"Calm CI","url":"https://millrace.test","hook_attributes":{"url":"https://millrace.test/hook"},"redirect_url":"http://127.0.0.1:1/created?x=1",
		"setup_url":"https://millrace.test/setup","callback_urls":["https://millrace.test/in"],"default_permissions":{"members":"read"},"default_events":["workflow_job"]` + more + `}`
}

func TestAnAppIsMadeFromAManifest(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	b.AddPerson("mona")
	if err := b.SetMember("large", "mona", "member"); err != nil {
		t.Fatal(err)
	}
	if err := b.SetMember("calm", "mona", "admin"); err != nil {
		t.Fatal(err)
	}
	post := func(path, manifest string) int {
		t.Helper()
		return b.do("POST", path+"?state=s%26t", url.Values{"manifest": {manifest}}.Encode()).Code
	}
	post("/settings/apps/new", manifestOf(""))
	b.press(1, "Sign in as mona")
	b.shows("Create GitHub App")
	code := func() string {
		t.Helper()
		u, err := url.Parse(b.press(1, "Create GitHub App"))
		if err != nil || u.Host != "127.0.0.1:1" || u.Query().Get("state") != "s&t" || u.Query().Get("x") != "1" || u.Query().Get("code") == "" {
			t.Fatalf("it leads to %v", u)
		}
		return u.Query().Get("code")
	}
	convert := func(code string, want int) (app struct {
		ID              int64
		Name, Slug, PEM string
		ClientID        string `json:"client_id"`
		Owner           struct{ Login string }
		Permissions     map[string]string
	},
	) {
		t.Helper()
		w := b.send(t.Context(), "", "POST", api+"/app-manifests/"+code+"/conversions", "")
		if w.Code != want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
		if want == http.StatusCreated {
			if err := json.Unmarshal(w.Body.Bytes(), &app); err != nil {
				t.Error(err)
			}
		}
		return app
	}
	c := code()
	app := convert(c, http.StatusCreated)
	if app.ID != b.AppID() || app.Name != "Calm CI" || app.Owner.Login != "mona" || app.ClientID != b.ClientID() || app.PEM != string(b.PrivateKeyPEM()) || fmt.Sprint(app.Permissions) != "map[members:read]" {
		t.Errorf("%+v", app)
	}
	convert(c, http.StatusNotFound)
	convert("none", http.StatusNotFound)
	for _, tc := range []struct {
		after time.Duration
		want  int
	}{{59 * time.Minute, http.StatusCreated}, {time.Hour, http.StatusNotFound}} {
		if got := post("/organizations/calm/settings/apps/new", manifestOf("")); got != http.StatusOK {
			t.Fatalf("%d", got)
		}
		c := code()
		b.clock = b.clock.Add(tc.after)
		if app := convert(c, tc.want); tc.want == http.StatusCreated && app.Owner.Login != "calm" {
			t.Errorf("%+v", app)
		}
	}
	for _, org := range []string{"large", "nowhere"} {
		if got := post("/organizations/"+org+"/settings/apps/new", manifestOf("")); got != http.StatusNotFound {
			t.Errorf("%s: %d", org, got)
		}
	}
	for _, bad := range []string{
		"", "[]", "{}", manifestOf(`,"redirect_url":"javascript:x"`), manifestOf(`,"default_permissions":{"contents":"write"}`), manifestOf(`,"default_permissions":{"members":"admin"}`),
		manifestOf(`,"name":"` + strings.Repeat("x", 35) + `"`), manifestOf(`,"callback_urls":["/in"]`),
	} {
		if got := post("/settings/apps/new", bad); got != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", bad, got)
		}
	}
}
