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
	errors  any
}

func (r refusal) Error() string { return r.message }

func refuse(status int, format string, args ...any) error {
	return refusal{status: status, message: fmt.Sprintf(format, args...)}
}

// call is one call of the REST API and who makes it.
type call struct {
	r *http.Request
	*route
	quota  *quota
	owner  *owner  // whom the caller's installation belongs to; nil: it calls as the App, or has no credentials
	person *person // who the caller acts for; nil: nobody
	salt   string  // of its ETags
	path   string  // what is called, below the API's base, query included
}

// endpoint answers one call; the lock is held.
type endpoint func(r *http.Request, o *owner) (status int, body any, err error)

// route is an endpoint and what is to be known of it.
type route struct {
	pattern   string
	auth      func(*call) error            // sets who calls, also when it refuses
	version   func(r *http.Request) uint64 // changes when the answer to a GET may; nil: only the answer itself tells
	do        func(*call) (status int, body any, err error)
	registers bool // runners
	free      bool // it counts against no limit
}

// ofRunners reports whether it needs the permission for runners.
func (rt *route) ofRunners() bool { return strings.Contains(rt.pattern, "/actions/runner") }

func (g *GitHub) routes() {
	g.mux = http.NewServeMux()
	app := func(pattern string, e endpoint) *route { return g.handle(pattern, g.asApp, e) }
	app("GET /app", g.getApp)
	app("GET /app/installations", g.listInstallations)
	app("GET /app/installations/{id}", g.getInstallation)
	app("DELETE /app/installations/{id}", g.deleteInstallation)
	app("POST /app/installations/{id}/access_tokens", g.createToken)
	app("GET /app/hook/deliveries", g.listHookDeliveries).version = func(*http.Request) uint64 { return uint64(g.hooks.last) }
	app("GET /app/hook/deliveries/{id}", g.getHookDelivery)
	app("POST /app/hook/deliveries/{id}/attempts", g.redeliver)

	as := func(pattern string, e endpoint) *route { return g.handle(pattern, g.asInstallation, e) }
	as("GET /installation/repositories", g.listRepositories)
	for _, at := range []string{"/orgs/{owner}", "/repos/{owner}/{repo}"} {
		as("POST "+at+"/actions/runners/generate-jitconfig", g.generateJIT).registers = true
		as("GET "+at+"/actions/runners", g.listRunners)
		as("GET "+at+"/actions/runners/{id}", g.getRunner)
		as("DELETE "+at+"/actions/runners/{id}", g.deleteRunner)
	}
	as("GET /orgs/{owner}/actions/runner-groups", g.listGroups)
	as("GET /orgs/{owner}/members", g.listMembers)
	const runs = "/repos/{owner}/{repo}/actions/runs"
	as("GET "+runs, g.listRuns).version = g.runVersion
	as("GET "+runs+"/{id}", g.getRun).version = g.runVersion
	as("GET "+runs+"/{id}/jobs", g.listJobs).version = g.runVersion
	as("GET "+runs+"/{id}/attempts/{attempt}", g.getRun).version = g.runVersion
	as("GET "+runs+"/{id}/attempts/{attempt}/jobs", g.listJobs).version = g.runVersion
	as("POST "+runs+"/{id}/cancel", g.cancelRun)
	as("POST "+runs+"/{id}/rerun-failed-jobs", g.rerunFailed)
	as("GET /repos/{owner}/{repo}/actions/jobs/{id}", g.getJob).version = g.runVersion
	as("POST /repos/{owner}/{repo}/actions/jobs/{id}/rerun", g.rerunJob)

	g.mux.HandleFunc(apiPath+"/repositories/{id}/{rest...}", g.byID)

	limit := g.handle("GET /rate_limit", g.asAnyone, nil)
	limit.do, limit.free = g.rateLimit, true
	g.userRoutes()
	g.loginRoutes()
	g.tokenRoutes()
	g.deviceRoutes()
	g.installRoutes()
	g.manifestRoutes()
	g.brokerRoutes()
	g.standinRoutes()
}

// handle serves an endpoint.
func (g *GitHub) handle(pattern string, auth func(*call) error, e endpoint) *route {
	rt := &route{pattern: pattern, auth: auth}
	rt.do = func(c *call) (int, any, error) { return e(c.r, c.owner) }
	method, path, _ := strings.Cut(pattern, " ")
	g.mux.HandleFunc(method+" "+apiPath+path, func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		if ms := g.faults.APILatencyMS; ms > 0 {
			if g.cfg.Send != nil { // time is the loop's
				w.Header().Set("X-Standin-Latency-Ms", strconv.Itoa(ms))
			} else {
				g.mu.Unlock()
				if !g.sleep(r, time.Duration(ms)*time.Millisecond) {
					return
				}
				g.mu.Lock()
			}
		}
		c := &call{r: r, route: rt, quota: g.nobody, path: strings.TrimPrefix(r.URL.RequestURI(), apiPath)}
		status, content := g.answer(w.Header(), c)
		g.mu.Unlock()
		if content != nil {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
		}
		w.WriteHeader(status)
		w.Write(content)
	})
	return rt
}

func (g *GitHub) sleep(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-g.ctx.Done():
	}
	return false
}

// answer makes the answer to a call, as GitHub does, and notes the call.
func (g *GitHub) answer(h http.Header, c *call) (status int, content []byte) {
	var body any
	var err error
	if g.roll(g.faults.API5xx) {
		statuses := []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
		err = refuse(statuses[g.chance.IntN(len(statuses))], saysServerError)
	} else if err = c.auth(c); err == nil && !c.free {
		err = g.admit(c)
	}
	if err == nil && c.owner != nil {
		err = g.condition(c.owner, c)
	}
	if err == nil {
		if to := g.redirect(c); to != "" {
			h.Set("Location", to)
			err = c.moved()
		} else if tag := c.fresh(g); tag != "" {
			h.Set("ETag", tag)
			status = http.StatusNotModified
		} else {
			status, body, err = c.do(c)
		}
	}
	if err != nil {
		var refused refusal
		if !errors.As(err, &refused) {
			refused = refusal{status: http.StatusInternalServerError, message: err.Error()}
		}
		status = refused.status
		m := map[string]any{"message": refused.message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)}
		if refused.errors != nil {
			m["errors"] = refused.errors
		}
		body = m
	}
	if l, ok := body.(listing); ok {
		body = l.body
		if l.sso != "" {
			h.Set("X-GitHub-SSO", l.sso)
		}
		if l.next != "" {
			h.Set("Link", l.next)
		} else {
			g.link(h, c.r, l.total)
		}
	}
	if body != nil {
		content = append(mustJSON(body), '\n')
	}
	if status == http.StatusOK && c.r.Method == http.MethodGet {
		tag := c.tag(g, content)
		h.Set("ETag", tag)
		if matches(c.r, tag) {
			status, content = http.StatusNotModified, nil
		}
	}
	if status != http.StatusNotModified && status < http.StatusInternalServerError && !c.free {
		hour, _, limit := c.quota.resource(c)
		hour.spend(g.cfg.Now(), time.Hour, 1, limit)
	}
	g.sequence++
	g.calls = append(g.calls, Call{g.cfg.Now().UTC(), c.r.Method, c.path, status})
	if len(g.calls) > 5000 {
		g.calls = g.calls[1000:]
	}
	h.Set("X-GitHub-Request-Id", fmt.Sprintf("%04X:%06X", appID, g.sequence))
	if status < http.StatusInternalServerError {
		c.quota.headers(h, c, g.cfg.Now(), status)
	}
	return status, content
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the peer is gone
}

// asAnyone takes whoever calls.
func (g *GitHub) asAnyone(c *call) error {
	if g.asApp(c) == nil {
		return nil
	}
	if t, ok := g.tokens[bearer(c.r)]; ok && t.expires.After(g.cfg.Now()) {
		c.quota = g.installations[t.installation].quota
	}
	return nil
}

// bearer is the credential of a call, whatever its scheme.
func bearer(r *http.Request) string {
	text := r.Header.Get("Authorization")
	if _, after, ok := strings.Cut(text, " "); ok {
		text = after
	}
	return text
}

// asApp verifies the App's JWT: RS256, issued by our App, for at most 10 minutes (https://docs.github.com/en/apps,
// "Generating a JSON Web Token").
func (g *GitHub) asApp(c *call) error {
	text, _ := strings.CutPrefix(c.r.Header.Get("Authorization"), "Bearer ")
	var claims jwt.RegisteredClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(text, &claims, func(*jwt.Token) (any, error) { return &g.key.PublicKey, nil }); err != nil {
		return refuse(http.StatusUnauthorized, "A JSON web token could not be decoded")
	}
	now := g.cfg.Now()
	switch {
	case claims.Issuer != strconv.Itoa(appID):
		return refuse(http.StatusUnauthorized, "'Issuer' claim ('iss') must be an Integer")
	case claims.ExpiresAt == nil || claims.IssuedAt == nil || !claims.ExpiresAt.After(now):
		return refuse(http.StatusUnauthorized, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
	case claims.ExpiresAt.Sub(now) > 10*time.Minute+5*time.Second:
		return refuse(http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future")
	case claims.IssuedAt.After(now.Add(5 * time.Second)):
		return refuse(http.StatusUnauthorized, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	}
	c.quota, c.salt = g.app, "app"
	return nil
}

// asInstallation verifies an installation token. An owner in the path must be the installation's.
func (g *GitHub) asInstallation(c *call) error {
	text := bearer(c.r)
	t, ok := g.tokens[text]
	if !ok || !t.expires.After(g.cfg.Now()) {
		return refuse(http.StatusUnauthorized, "Bad credentials")
	}
	o := g.installations[t.installation]
	if g.isUninstalled(o) {
		delete(g.tokens, text)
		return refuse(http.StatusUnauthorized, "Bad credentials")
	}
	if !t.failed && g.roll(g.faults.TokenExpired) {
		t.failed = true
		return refuse(http.StatusUnauthorized, "Bad credentials")
	}
	c.quota, c.salt, c.owner = o.quota, text, o
	login, repo := c.r.PathValue("owner"), c.r.PathValue("repo")
	if moved := g.moved[strings.ToLower(login+"/"+repo)]; repo != "" && moved != nil && strings.EqualFold(moved.Owner, o.Login) {
		return nil // it is redirected
	}
	if login != "" && (!strings.EqualFold(login, o.Login) || repo == "" && o.Type != millrace.Organization) {
		return refuse(http.StatusNotFound, "Not Found")
	}
	return nil
}

func (g *GitHub) getApp(*http.Request, *owner) (int, any, error) {
	return http.StatusOK, map[string]any{
		"id": appID, "slug": "millrace", "client_id": clientID, "name": "Millrace", "installations_count": len(g.owners),
		"permissions": permissions, "events": millrace.AppEvents,
	}, nil
}

// permissions are those of an App that serves personal accounts, too.
var permissions = func() map[string]string {
	m := map[string]string{}
	for _, p := range millrace.AppPermissions {
		m[p.Key] = p.Level()
	}
	return m
}()

func (g *GitHub) installation(o *owner) map[string]any {
	return map[string]any{
		"id": o.Installation, "account": g.account(o), "target_type": o.Type, "target_id": o.ID, "app_id": appID, "app_slug": "millrace",
		"repository_selection": "all", "permissions": g.permissions(o), "events": millrace.AppEvents, "suspended_at": g.suspendedAt(o),
	}
}

func (g *GitHub) suspendedAt(o *owner) any {
	if !g.isSuspended(o) {
		return nil
	}
	return moment(o.suspended)
}

// isSuspended and isUninstalled: by somebody, or by a fault.
func (g *GitHub) isSuspended(o *owner) bool { return o.paused || g.faults.Suspended.has(o.Login) }

func (g *GitHub) isUninstalled(o *owner) bool {
	return o.uninstalled || g.faults.Uninstalled.has(o.Login)
}

// permissions are what the installation's owner has accepted.
func (g *GitHub) permissions(o *owner) map[string]string {
	if !g.faults.PermissionMissing.has(o.Login) {
		return permissions
	}
	return map[string]string{"actions": "read", "metadata": "read"}
}

func (g *GitHub) listInstallations(r *http.Request, _ *owner) (int, any, error) {
	list := []any{}
	for _, login := range slices.Sorted(maps.Keys(g.owners)) {
		if o := g.owners[login]; !g.isUninstalled(o) {
			list = append(list, g.installation(o))
		}
	}
	return http.StatusOK, listing{total: len(list), body: paged(r, list)}, nil
}

func (g *GitHub) installationAt(r *http.Request) (*owner, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if o, ok := g.installations[id]; ok && !g.isUninstalled(o) {
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
	if g.isSuspended(o) {
		return 0, nil, refuse(http.StatusForbidden, saysSuspended)
	}
	text, expires := "ghs_"+g.randomHex(18), g.cfg.Now().UTC().Add(time.Hour)
	g.tokens[text] = &token{installation: o.Installation, expires: expires}
	g.forgetTokens()
	return http.StatusCreated, map[string]any{
		"token": text, "expires_at": expires.Format(time.RFC3339), "permissions": g.permissions(o), "repository_selection": "all",
	}, nil
}

func (g *GitHub) deleteInstallation(r *http.Request, _ *owner) (int, any, error) {
	o, err := g.installationAt(r)
	if err != nil {
		return 0, nil, err
	}
	g.uninstall(o)
	return http.StatusNoContent, nil, nil
}

// forgetTokens drops expired tokens now and then.
func (g *GitHub) forgetTokens() {
	if len(g.tokens)%1000 == 0 {
		maps.DeleteFunc(g.tokens, func(_ string, t *token) bool { return !t.expires.After(g.cfg.Now()) })
	}
}

// listRepositories lists what the installation may see: all of its owner's.
func (g *GitHub) listRepositories(r *http.Request, o *owner) (int, any, error) {
	return g.repositoriesJSON(r, o, o.repos)
}

func (g *GitHub) repositoriesJSON(r *http.Request, o *owner, repos []*repo) (int, any, error) {
	list := []any{}
	for _, rp := range paged(r, repos) {
		list = append(list, g.repositoryJSON(o, rp, rp.Public))
	}
	return http.StatusOK, listing{total: len(repos), body: map[string]any{
		"total_count": len(repos), "repository_selection": "all", "repositories": list,
	}}, nil
}
