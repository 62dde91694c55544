package githubtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
)

// Call is one call of the REST API, as GET /_standin/calls lists it.
type Call struct {
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Status int       `json:"status"`
}

// refusal is an error answer in GitHub's shape.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return r.message }

func refuse(status int, format string, args ...any) error {
	return refusal{status, fmt.Sprintf(format, args...)}
}

// endpoint answers one call; the lock is held.
type endpoint func(r *http.Request, o *owner) (status int, body any, err error)

func (g *GitHub) routes() {
	g.mux = http.NewServeMux()
	app := func(pattern string, e endpoint) { g.handle(pattern, g.asApp, e) }
	app("GET /app", g.getApp)
	app("GET /app/installations", g.listInstallations)
	app("GET /app/installations/{id}", g.getInstallation)
	app("POST /app/installations/{id}/access_tokens", g.createToken)
	app("GET /app/hook/deliveries", g.listHookDeliveries)
	for _, at := range []string{"/orgs/{owner}", "/repos/{owner}/{repo}"} {
		as := func(pattern string, e endpoint) {
			method, path, _ := strings.Cut(pattern, " ")
			g.handle(method+" "+at+path, g.asInstallation, e)
		}
		as("POST /actions/runners/generate-jitconfig", g.generateJIT)
		as("GET /actions/runners", g.listRunners)
		as("GET /actions/runners/{id}", g.getRunner)
		as("DELETE /actions/runners/{id}", g.deleteRunner)
	}
	g.handle("GET /orgs/{owner}/actions/runner-groups", g.asInstallation, g.listGroups)
	g.handle("GET /repos/{owner}/{repo}/actions/runs", g.asInstallation, g.listRuns)
	g.handle("GET /repos/{owner}/{repo}/actions/runs/{id}", g.asInstallation, g.getRun)
	g.handle("GET /repos/{owner}/{repo}/actions/runs/{id}/jobs", g.asInstallation, g.listJobs)
	g.handle("GET /repos/{owner}/{repo}/actions/runs/{id}/attempts/{attempt}", g.asInstallation, g.getRun)
	g.handle("GET /repos/{owner}/{repo}/actions/runs/{id}/attempts/{attempt}/jobs", g.asInstallation, g.listJobs)
	g.handle("POST /repos/{owner}/{repo}/actions/runs/{id}/cancel", g.asInstallation, g.cancelRun)
	g.handle("POST /repos/{owner}/{repo}/actions/runs/{id}/rerun-failed-jobs", g.asInstallation, g.rerunFailed)
	g.handle("POST /repos/{owner}/{repo}/actions/jobs/{id}/rerun", g.asInstallation, g.rerunJob)
	g.handle("GET /repos/{owner}/{repo}/actions/jobs/{id}", g.asInstallation, g.getJob)
	g.handle("GET /rate_limit", g.asAnyone, func(*http.Request, *owner) (int, any, error) {
		return http.StatusOK, map[string]any{"resources": map[string]any{
			"core": map[string]any{"limit": 5000, "used": 0, "remaining": 5000}, "actions_runner_registration": map[string]any{"limit": 10000, "used": 0, "remaining": 10000},
		}}, nil
	})
	g.brokerRoutes()
	g.standinRoutes()
}

// handle serves one call: it authenticates, answers as GitHub does, and notes the call.
func (g *GitHub) handle(pattern string, auth func(*http.Request) (*owner, error), e endpoint) {
	method, path, _ := strings.Cut(pattern, " ")
	g.mux.HandleFunc(method+" "+apiPath+path, func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		o, err := auth(r)
		var status int
		var body any
		if err == nil {
			status, body, err = e(r, o)
		}
		if err != nil {
			var refused refusal
			if !errors.As(err, &refused) {
				refused = refusal{http.StatusInternalServerError, err.Error()}
			}
			status = refused.status
			body = map[string]string{"message": refused.message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)}
		}
		g.sequence++
		seq := g.sequence
		g.calls = append(g.calls, Call{g.cfg.Now().UTC(), r.Method, strings.TrimPrefix(r.URL.RequestURI(), apiPath), status})
		if len(g.calls) > 5000 {
			g.calls = g.calls[1000:]
		}
		used := g.sequence % 5000
		reset := g.cfg.Now().Truncate(time.Hour).Add(time.Hour).Unix()
		g.mu.Unlock()
		h := w.Header()
		if l, ok := body.(listing); ok {
			body = l.body
			g.link(h, r, l.total)
		}
		h.Set("X-GitHub-Request-Id", fmt.Sprintf("%04X:%06X", appID, seq))
		h.Set("X-RateLimit-Limit", "5000")
		h.Set("X-RateLimit-Used", strconv.Itoa(used))
		h.Set("X-RateLimit-Remaining", strconv.Itoa(5000-used))
		h.Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
		h.Set("X-RateLimit-Resource", "core")
		writeJSON(w, status, body)
	})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the peer is gone
}

func (g *GitHub) asAnyone(*http.Request) (*owner, error) { return nil, nil }

// asApp verifies the App's JWT: RS256, issued by our App, for at most 10 minutes (https://docs.github.com/en/apps,
// "Generating a JSON Web Token").
func (g *GitHub) asApp(r *http.Request) (*owner, error) {
	text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	var claims jwt.RegisteredClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(text, &claims, func(*jwt.Token) (any, error) { return &g.key.PublicKey, nil }); err != nil {
		return nil, refuse(http.StatusUnauthorized, "A JSON web token could not be decoded")
	}
	now := g.cfg.Now()
	switch {
	case claims.Issuer != strconv.Itoa(appID):
		return nil, refuse(http.StatusUnauthorized, "'Issuer' claim ('iss') must be an Integer")
	case claims.ExpiresAt == nil || claims.IssuedAt == nil || !claims.ExpiresAt.After(now):
		return nil, refuse(http.StatusUnauthorized, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
	case claims.ExpiresAt.Sub(now) > 10*time.Minute+5*time.Second:
		return nil, refuse(http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future")
	case claims.IssuedAt.After(now.Add(5 * time.Second)):
		return nil, refuse(http.StatusUnauthorized, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	}
	return nil, nil
}

// asInstallation verifies an installation token and finds the owner in the path, which must be the installation's.
func (g *GitHub) asInstallation(r *http.Request) (*owner, error) {
	text := r.Header.Get("Authorization")
	if _, after, ok := strings.Cut(text, " "); ok {
		text = after
	}
	t, ok := g.tokens[text]
	if !ok || !t.expires.After(g.cfg.Now()) {
		return nil, refuse(http.StatusUnauthorized, "Bad credentials")
	}
	o, ok := g.owners[strings.ToLower(r.PathValue("owner"))]
	if !ok || o.Installation != t.installation {
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	if r.PathValue("repo") == "" && o.Type != millrace.Organization {
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	return o, nil
}

func (g *GitHub) getApp(*http.Request, *owner) (int, any, error) {
	return http.StatusOK, map[string]any{
		"id": appID, "slug": "millrace", "client_id": "Iv1.standin", "name": "Millrace", "installations_count": len(g.owners),
		"permissions": permissions, "events": []string{"workflow_job"},
	}, nil
}

var permissions = map[string]string{"organization_self_hosted_runners": "write", "administration": "write", "actions": "read", "metadata": "read"}

func (g *GitHub) installation(o *owner) map[string]any {
	return map[string]any{
		"id": o.Installation, "account": g.account(o), "target_type": o.Type, "target_id": o.ID, "app_id": appID, "app_slug": "millrace",
		"repository_selection": "all", "permissions": permissions, "events": []string{"workflow_job"}, "suspended_at": nil,
	}
}

func (g *GitHub) listInstallations(r *http.Request, _ *owner) (int, any, error) {
	list := []any{}
	for _, login := range slices.Sorted(maps.Keys(g.owners)) {
		list = append(list, g.installation(g.owners[login]))
	}
	return http.StatusOK, listing{len(list), paged(r, list)}, nil
}

func (g *GitHub) installationAt(r *http.Request) (*owner, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if o, ok := g.installations[id]; ok {
		return o, nil
	}
	return nil, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getInstallation(r *http.Request, _ *owner) (int, any, error) {
	o, err := g.installationAt(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, g.installation(o), nil
}

func (g *GitHub) createToken(r *http.Request, _ *owner) (int, any, error) {
	o, err := g.installationAt(r)
	if err != nil {
		return 0, nil, err
	}
	text, expires := "ghs_"+g.randomHex(18), g.cfg.Now().UTC().Add(time.Hour)
	g.tokens[text] = &token{o.Installation, expires}
	return http.StatusCreated, map[string]any{
		"token": text, "expires_at": expires.Format(time.RFC3339), "permissions": permissions, "repository_selection": "all",
	}, nil
}
