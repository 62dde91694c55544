package githubtest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// How long a person's token works, and how long it can be renewed (https://docs.github.com/en/apps/creating-github-apps/
// authenticating-with-a-github-app/refreshing-user-access-tokens).
const (
	userTokenLife = 8 * time.Hour
	refreshLife   = 184 * 24 * time.Hour
)

// userToken lets the App act for a person.
type userToken struct {
	person               *person
	access, refresh      string
	expires, refreshable time.Time
	device               bool // which needs no secret to be renewed
}

// docs is where GitHub explains its errors.
const docs = "https://docs.github.com/apps/oauth-apps/maintaining-oauth-apps/troubleshooting-"

// loginError is one that GitHub's login answers with 200.
type loginError struct {
	code, description, page string
	interval                int // for slow_down
}

func (e loginError) Error() string { return e.code }

var (
	errClient   = loginError{code: "incorrect_client_credentials", description: "The client_id and/or client_secret passed are incorrect.", page: "oauth-app-access-token-request-errors/#incorrect-client-credentials"}
	errRedirect = loginError{code: "redirect_uri_mismatch", description: "The redirect_uri MUST match the registered callback URL for this application.", page: "oauth-app-access-token-request-errors/#redirect-uri-mismatch"}
	errCode     = loginError{code: "bad_verification_code", description: "The code passed is incorrect or expired.", page: "oauth-app-access-token-request-errors/#bad-verification-code"}
	errRefresh  = loginError{code: "bad_refresh_token", description: "The refresh token passed is incorrect or expired."}
	errGrant    = loginError{code: "unsupported_grant_type", description: "The grant type is not supported."}
)

// login serves a call of GitHub's login that an App makes: its parameters come as a form or as JSON, and the answer is in
// the form that Accept asks for. Errors are answered with 200, too.
func (g *GitHub) login(pattern string, do func(in url.Values) (map[string]any, error)) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		in, err := parameters(w, r)
		if err != nil {
			fail(w, http.StatusBadRequest, "Problems parsing the parameters")
			return
		}
		g.mu.Lock()
		away := g.roll(g.faults.API5xx)
		var out map[string]any
		if !away {
			out, err = do(in)
		}
		g.mu.Unlock()
		var refused loginError
		switch {
		case away:
			fail(w, http.StatusServiceUnavailable, saysServerError)
			return
		case errors.As(err, &refused):
			out = map[string]any{"error": refused.code, "error_description": refused.description, "error_uri": docs + refused.page}
			if refused.interval > 0 {
				out["interval"] = refused.interval
			}
		}
		w.Header().Set("Cache-Control", "no-store")
		if strings.Contains(r.Header.Get("Accept"), "json") {
			writeJSON(w, http.StatusOK, out)
			return
		}
		form := url.Values{}
		for name, value := range out {
			form.Set(name, fmt.Sprint(value))
		}
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		io.WriteString(w, form.Encode())
	})
}

func parameters(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		err := r.ParseForm()
		return r.Form, err
	}
	var object map[string]string
	err := json.NewDecoder(r.Body).Decode(&object)
	in := url.Values{}
	for name, value := range object {
		in.Set(name, value)
	}
	return in, err
}

func (g *GitHub) tokenRoutes() {
	g.login("POST /login/oauth/access_token", g.accessToken)
	g.login("POST /login/device/code", g.deviceCode)
	g.mux.HandleFunc("DELETE "+apiPath+"/applications/{client}/grant", func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != clientID || secret != g.ClientSecret() || r.PathValue("client") != clientID {
			fail(w, http.StatusNotFound, "Not Found")
			return
		}
		var in struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
			fail(w, http.StatusBadRequest, "Problems parsing JSON")
			return
		}
		g.mu.Lock()
		t, ok := g.userTokens[in.AccessToken]
		if ok = ok && t.valid(in.AccessToken, g.cfg.Now()); ok {
			g.revoke(t.person)
		}
		g.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "Not Found")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (g *GitHub) accessToken(in url.Values) (map[string]any, error) {
	proven := in.Get("client_secret") == g.ClientSecret()
	if in.Get("client_id") != clientID {
		return nil, errClient
	}
	switch in.Get("grant_type") {
	case "refresh_token":
		text := in.Get("refresh_token")
		t, ok := g.userTokens[text]
		switch {
		case !proven && (!ok || !t.device):
			return nil, errClient
		case !ok || text != t.refresh || !t.refreshable.After(g.cfg.Now()):
			return nil, errRefresh
		}
		g.dropToken(t)
		return g.tokenFor(t.person, t.device), nil
	case deviceGrant:
		return g.pollDevice(in.Get("device_code"))
	case "", "authorization_code":
	default:
		return nil, errGrant
	}
	if !proven {
		return nil, errClient
	}
	text := in.Get("code")
	c, ok := g.codes[text]
	delete(g.codes, text) // it works once, and there is one try
	redirect := in.Get("redirect_uri")
	switch {
	case !ok || !c.expires.After(g.cfg.Now()):
		return nil, errCode
	case redirect != "" && redirect != c.redirect:
		return nil, errRedirect
	case c.challenge != "" && challengeOf(in.Get("code_verifier")) != c.challenge:
		return nil, errCode
	}
	return g.tokenFor(c.person, false), nil
}

// challengeOf is PKCE's S256 (RFC 7636, 4.2).
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// tokenFor makes a token for p, as GitHub answers it.
func (g *GitHub) tokenFor(p *person, device bool) map[string]any {
	now := g.cfg.Now()
	maps.DeleteFunc(g.userTokens, func(_ string, t *userToken) bool { return !t.refreshable.After(now) })
	t := &userToken{p, "ghu_" + g.randomHex(18), "ghr_" + g.randomHex(38), now.Add(userTokenLife), now.Add(refreshLife), device}
	g.userTokens[t.access], g.userTokens[t.refresh] = t, t
	return map[string]any{
		"access_token": t.access, "token_type": "bearer", "scope": "", "expires_in": int(userTokenLife.Seconds()),
		"refresh_token": t.refresh, "refresh_token_expires_in": int(refreshLife.Seconds()),
	}
}

func (g *GitHub) dropToken(t *userToken) {
	delete(g.userTokens, t.access)
	delete(g.userTokens, t.refresh)
}

// valid reports whether text is t's access token, and works.
func (t *userToken) valid(text string, now time.Time) bool {
	return text == t.access && t.expires.After(now)
}

// revoke undoes that p has authorised the App, and tells the App
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#github_app_authorization).
func (g *GitHub) revoke(p *person) {
	p.authorized = false
	maps.DeleteFunc(g.userTokens, func(_ string, t *userToken) bool { return t.person == p })
	maps.DeleteFunc(g.codes, func(_ string, c *code) bool { return c.person == p })
	body := mustJSON(map[string]any{"action": "revoked", "sender": g.user(p.Login)})
	g.emit("github_app_authorization", "revoked", nil, 0, func() []byte { return body })
}

// asUser verifies a person's token.
func (g *GitHub) asUser(c *call) error {
	text := bearer(c.r)
	t, ok := g.userTokens[text]
	if !ok || !t.valid(text, g.cfg.Now()) {
		return refuse(http.StatusUnauthorized, "Bad credentials")
	}
	c.quota, c.salt, c.person = t.person.quota, text, t.person
	return nil
}
