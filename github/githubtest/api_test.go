package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestTheAppProvesWhoItIs(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		key, err := jwt.ParseRSAPrivateKeyFromPEM(h.PrivateKeyPEM())
		if err != nil {
			h.t.Fatal(err)
		}
		stranger := newHub(h.t, func(c *githubtest.Config) { c.Key = nil })
		defer stranger.Close()
		otherKey, err := jwt.ParseRSAPrivateKeyFromPEM(stranger.PrivateKeyPEM())
		if err != nil {
			h.t.Fatal(err)
		}
		app, now := strconv.FormatInt(h.AppID(), 10), time.Now()
		claims := func(issuer string, issued, expires time.Duration) jwt.MapClaims {
			return jwt.MapClaims{"iss": issuer, "iat": now.Add(issued).Unix(), "exp": now.Add(expires).Unix()}
		}
		good := claims(app, -time.Minute, 10*time.Minute)
		h.call(h.appToken(jwt.SigningMethodRS256, key, good), "GET", api+"/app", "", http.StatusOK, nil)
		for name, auth := range map[string]string{
			"nothing":                  "",
			"not a token":              "Bearer x",
			"another key":              h.appToken(jwt.SigningMethodRS256, otherKey, good),
			"another algorithm":        h.appToken(jwt.SigningMethodRS512, key, good),
			"a shared secret":          h.appToken(jwt.SigningMethodHS256, []byte("secret"), good),
			"the public key as secret": h.appToken(jwt.SigningMethodHS256, h.PrivateKeyPEM(), good),
			"no signature":             h.appToken(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
			"another app":              h.appToken(jwt.SigningMethodRS256, key, claims("1", -time.Minute, time.Minute)),
			"expired":                  h.appToken(jwt.SigningMethodRS256, key, claims(app, -5*time.Minute, 0)),
			"valid for too long":       h.appToken(jwt.SigningMethodRS256, key, claims(app, -time.Minute, 11*time.Minute)),
			"issued in the future":     h.appToken(jwt.SigningMethodRS256, key, claims(app, time.Minute, 5*time.Minute)),
			"no expiry":                h.appToken(jwt.SigningMethodRS256, key, jwt.MapClaims{"iss": app, "iat": now.Unix()}),
			"no time of issue":         h.appToken(jwt.SigningMethodRS256, key, jwt.MapClaims{"iss": app, "exp": now.Add(time.Minute).Unix()}),
			"an installation's token":  h.asInstallation(h.owner),
		} {
			if w := h.send(h.t.Context(), auth, "GET", api+"/app", ""); w.Code != http.StatusUnauthorized {
				h.t.Errorf("%s: %d %s, want 401", name, w.Code, w.Body)
			}
		}
	})
}

func TestInstallationTokensAreForAnHourAndOneOwner(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		other, mona := h.AddOwner("other", millrace.Organization), h.AddOwner("mona", millrace.Personal)
		var token struct {
			Token       string
			ExpiresAt   time.Time `json:"expires_at"`
			Permissions map[string]string
			Selection   string `json:"repository_selection"`
		}
		h.call(h.asApp(), "POST", fmt.Sprintf(api+"/app/installations/%d/access_tokens", h.owner.ID), "", http.StatusCreated, &token)
		if !strings.HasPrefix(token.Token, "ghs_") || !token.ExpiresAt.Equal(time.Now().Add(time.Hour)) || token.Permissions["organization_self_hosted_runners"] != "write" || token.Selection != "all" {
			h.t.Errorf("%+v", token)
		}
		runners := api + "/orgs/calm/actions/runners"
		for _, scheme := range []string{"token ", "Bearer "} {
			h.call(scheme+token.Token, "GET", runners, "", http.StatusOK, nil)
		}
		h.call("token "+token.Token, "GET", api+"/orgs/CALM/actions/runners", "", http.StatusOK, nil)
		for auth, want := range map[string]int{
			"": 401, "token ghs_nonsense": 401, h.asApp(): 401, h.asInstallation(other): 404, h.asInstallation(mona): 404,
		} {
			h.call(auth, "GET", runners, "", want, nil)
		}
		h.call(h.asInstallation(mona), "GET", api+"/orgs/mona/actions/runners", "", http.StatusNotFound, nil)
		h.call(h.asInstallation(mona), "GET", api+"/repos/mona/dotfiles/actions/runners", "", http.StatusOK, nil)
		h.call(h.asApp(), "POST", api+"/app/installations/1/access_tokens", "", http.StatusNotFound, nil)
		time.Sleep(time.Hour)
		h.call("token "+token.Token, "GET", runners, "", http.StatusUnauthorized, nil)
	})
}

func TestTheAppAndItsInstallations(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		h.AddOwner("mona", millrace.Personal)
		if again := h.AddOwner("Calm", millrace.Organization); again != h.owner {
			h.t.Errorf("adding an owner again: %+v, want %+v", again, h.owner)
		}
		var app struct {
			ID    int64
			Count int `json:"installations_count"`
		}
		h.call(h.asApp(), "GET", api+"/app", "", http.StatusOK, &app)
		if app.ID != h.AppID() || app.Count != 2 {
			h.t.Errorf("%+v", app)
		}
		type installation struct {
			ID         int64
			TargetType string `json:"target_type"`
			Account    struct {
				Login, Type string
				ID          int64
			}
		}
		var list []installation
		h.call(h.asApp(), "GET", api+"/app/installations", "", http.StatusOK, &list)
		var one installation
		h.call(h.asApp(), "GET", fmt.Sprintf("%s/app/installations/%d", api, h.owner.ID), "", http.StatusOK, &one)
		if len(list) != 2 || one.ID != h.owner.ID || one.Account.ID != h.owner.OwnerID || one.Account.Login != "calm" || one.Account.Type != "Organization" || one.TargetType != "Organization" {
			h.t.Errorf("%+v, %+v", list, one)
		}
		h.call(h.asApp(), "GET", api+"/app/installations/1", "", http.StatusNotFound, nil)
	})
}

func TestEveryAnswerHasGitHubsHeaders(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		for path, want := range map[string][2]int{ // the call's limit, and how many calls count against it
			"/orgs/calm/actions/runners": {5000, 1}, "/app": {60, 1}, "/rate_limit": {5000, 0},
		} {
			as := auth
			if path == "/rate_limit" {
				as = h.asInstallation(h.AddOwner("other", millrace.Organization))
			}
			w := h.send(h.t.Context(), as, "GET", api+path, "")
			remaining, err := strconv.Atoi(w.Header().Get("X-RateLimit-Remaining"))
			used, _ := strconv.Atoi(w.Header().Get("X-RateLimit-Used"))
			reset, _ := strconv.ParseInt(w.Header().Get("X-RateLimit-Reset"), 10, 64)
			if err != nil || w.Header().Get("X-RateLimit-Limit") != strconv.Itoa(want[0]) || used+remaining != want[0] || used != want[1] || reset <= time.Now().Unix() || w.Header().Get("X-RateLimit-Resource") != "core" {
				h.t.Errorf("%s: %v", path, w.Header())
			}
			if w.Header().Get("X-GitHub-Request-Id") == "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
				h.t.Errorf("%s: %v", path, w.Header())
			}
			if w.Code < 400 {
				continue
			}
			var refusal struct {
				Message, Status string
				Documentation   string `json:"documentation_url"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.Message == "" || refusal.Documentation == "" || refusal.Status != strconv.Itoa(w.Code) {
				h.t.Errorf("%s: %s", path, w.Body)
			}
		}
		h.call(auth, "GET", api+"/app", "", http.StatusUnauthorized, nil)
		calls := h.Calls()
		if c := calls[len(calls)-1]; c.Method != "GET" || c.Path != "/app" || c.Status != http.StatusUnauthorized {
			h.t.Errorf("the last call: %+v", c)
		}
	})
}

func TestRegisteringRunners(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		path := api + "/orgs/calm/actions/runners/generate-jitconfig"
		request := func(name string, group, labels int) string {
			body, err := json.Marshal(map[string]any{"name": name, "runner_group_id": group, "labels": strings.Fields(strings.Repeat("x ", labels)), "work_folder": "_work"})
			if err != nil {
				h.t.Fatal(err)
			}
			return string(body)
		}
		var out struct {
			Runner struct {
				ID               int64
				Name, OS, Status string
				Busy             bool
				Labels           []struct{ Name, Type string }
			}
		}
		h.call(auth, "POST", path, request("vm", 1, 100), http.StatusCreated, &out)
		if r := out.Runner; r.ID == 0 || r.Name != "vm" || r.OS != "unknown" || r.Status != "offline" || r.Busy || len(r.Labels) != 100 || r.Labels[0].Name != "x" {
			h.t.Errorf("%+v", r)
		}
		h.call(auth, "POST", path, request("vm", 1, 1), http.StatusConflict, nil)
		for name, body := range map[string]string{
			"no name": request("", 1, 1), "a long name": request(strings.Repeat("x", 65), 1, 1), "no group": request("a", 0, 1),
			"no label": request("a", 1, 0), "101 labels": request("a", 1, 101),
		} {
			if w := h.send(h.t.Context(), auth, "POST", path, body); w.Code != http.StatusUnprocessableEntity {
				h.t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		h.call(auth, "POST", path, "{", http.StatusBadRequest, nil)
		h.call(auth, "POST", api+"/repos/calm/engine/actions/runners/generate-jitconfig", request("vm", 1, 1), http.StatusCreated, nil)
	})
}

func TestListingRunners(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		for i := range 65 {
			h.register(auth, "/orgs/calm", fmt.Sprintf("vm-%d", i), "x")
		}
		h.register(auth, "/repos/calm/engine", "vm-1", "x")
		type page struct {
			Total   int `json:"total_count"`
			Runners []struct {
				ID   int64
				Name string
			}
		}
		list := func(query string) (p page) {
			h.t.Helper()
			h.call(auth, "GET", api+"/orgs/calm/actions/runners"+query, "", http.StatusOK, &p)
			return p
		}
		for query, want := range map[string]string{
			"":                    `<U?page=2>; rel="next", <U?page=3>; rel="last"`,
			"?page=2":             `<U?page=1>; rel="prev", <U?page=3>; rel="next", <U?page=3>; rel="last", <U?page=1>; rel="first"`,
			"?page=3&per_page=30": `<U?page=2&per_page=30>; rel="prev", <U?page=1&per_page=30>; rel="first"`,
			"?per_page=100":       ``,
		} {
			w := h.send(h.t.Context(), auth, "GET", api+"/orgs/calm/actions/runners"+query, "")
			if got := strings.ReplaceAll(w.Header().Get("Link"), h.APIURL()+"orgs/calm/actions/runners", "U"); got != want {
				h.t.Errorf("Link of %q:\n%s, want\n%s", query, got, want)
			}
		}
		seen := map[int64]bool{}
		for n, want := range map[int]int{1: 30, 2: 30, 3: 5, 4: 0} {
			p := list(fmt.Sprintf("?page=%d", n))
			if p.Total != 65 || len(p.Runners) != want {
				h.t.Errorf("page %d: %d of %d, want %d of 65", n, len(p.Runners), p.Total, want)
			}
			for _, r := range p.Runners {
				seen[r.ID] = true
			}
		}
		if len(seen) != 65 {
			h.t.Errorf("three pages hold %d runners", len(seen))
		}
		if p := list("?per_page=1000"); len(p.Runners) != 65 {
			h.t.Errorf("per_page=1000: %d", len(p.Runners))
		}
		if p := list("?name=vm-1"); p.Total != 1 || p.Runners[0].Name != "vm-1" {
			h.t.Errorf("by name: %+v", p)
		}
		var groups struct {
			Groups []struct {
				ID      int64
				Default bool
			} `json:"runner_groups"`
		}
		h.call(auth, "GET", api+"/orgs/calm/actions/runner-groups", "", http.StatusOK, &groups)
		if len(groups.Groups) != 1 || groups.Groups[0].ID != 1 || !groups.Groups[0].Default {
			h.t.Errorf("%+v", groups)
		}
	})
}

func TestListingRunsAndJobs(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		auth := h.asInstallation(h.owner)
		waiting, running := h.queue("nobody-has-it"), h.queue("x")
		h.queueAt("calm", "website", "x")
		h.online(auth, "/repos/calm/engine", "vm", "x").poll(h.t.Context())
		var runs struct {
			Total int `json:"total_count"`
			Runs  []struct {
				ID     int64
				Status string
			} `json:"workflow_runs"`
		}
		h.call(auth, "GET", api+"/repos/calm/engine/actions/runs", "", http.StatusOK, &runs)
		if runs.Total != 2 {
			h.t.Errorf("%+v", runs)
		}
		h.call(auth, "GET", api+"/repos/calm/engine/actions/runs?status=queued", "", http.StatusOK, &runs)
		if runs.Total != 1 || runs.Runs[0].Status != "queued" {
			h.t.Fatalf("%+v", runs)
		}
		type job struct {
			ID       int64
			Status   string
			RunnerID *int64 `json:"runner_id"`
			Labels   []string
		}
		var jobs struct{ Jobs []job }
		h.call(auth, "GET", fmt.Sprintf("%s/repos/calm/engine/actions/runs/%d/jobs", api, runs.Runs[0].ID), "", http.StatusOK, &jobs)
		if len(jobs.Jobs) != 1 || jobs.Jobs[0].ID != waiting || jobs.Jobs[0].RunnerID != nil || jobs.Jobs[0].Labels[0] != "nobody-has-it" {
			h.t.Errorf("%+v", jobs)
		}
		var one job
		h.call(auth, "GET", fmt.Sprintf("%s/repos/calm/engine/actions/jobs/%d", api, running), "", http.StatusOK, &one)
		if one.Status != "in_progress" || one.RunnerID == nil {
			h.t.Errorf("%+v", one)
		}
		h.call(auth, "GET", fmt.Sprintf("%s/repos/calm/website/actions/jobs/%d", api, running), "", http.StatusNotFound, nil)
		h.call(auth, "GET", api+"/repos/calm/engine/actions/runs/1/jobs", "", http.StatusNotFound, nil)
	})
}
