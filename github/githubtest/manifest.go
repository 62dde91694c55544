package githubtest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// An App that is made from a manifest
// (https://docs.github.com/en/apps/sharing-github-apps/registering-a-github-app-from-a-manifest). There is one App here, and
// whoever makes one is given it: with what the conversion answers, the stand-in can be called.

// manifestLife is how long the code of a manifest can be traded.
const manifestLife = time.Hour

// manifestCode is what the browser carries back.
type manifestCode struct {
	manifest manifest
	owner    map[string]any
	expires  time.Time
}

type manifest struct {
	Name           string `json:"name"`
	URL            string `json:"url"`
	HookAttributes struct {
		URL string `json:"url"`
	} `json:"hook_attributes"`
	RedirectURL        string            `json:"redirect_url"`
	CallbackURLs       []string          `json:"callback_urls"`
	SetupURL           string            `json:"setup_url"`
	DefaultPermissions map[string]string `json:"default_permissions"`
	DefaultEvents      []string          `json:"default_events"`
}

// parseManifest reads a manifest; its error says what GitHub would not take.
func parseManifest(text string) (manifest, error) {
	var m manifest
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return m, refuse(http.StatusUnprocessableEntity, "The manifest is not JSON of the right shape")
	}
	for _, to := range append([]string{m.URL, m.HookAttributes.URL, m.RedirectURL, m.SetupURL}, m.CallbackURLs...) {
		if u, err := url.Parse(to); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return m, refuse(http.StatusUnprocessableEntity, "%q in the manifest is not a URL", to)
		}
	}
	switch {
	case len(m.Name) > 34:
		return m, refuse(http.StatusUnprocessableEntity, "Name is too long (maximum is 34 characters)")
	case len(m.CallbackURLs) > 10:
		return m, refuse(http.StatusUnprocessableEntity, "There are more than 10 callback URLs")
	}
	for name, access := range m.DefaultPermissions {
		if permissions[name] == "" || access != "read" && access != "write" {
			return m, refuse(http.StatusUnprocessableEntity, "Default permission %s: %s is not known here", name, access)
		}
	}
	return m, nil
}

func (g *GitHub) manifestRoutes() {
	for _, path := range []string{"/settings/apps/new", "/organizations/{org}/settings/apps/new"} {
		g.screen("GET "+path, g.askForManifest) // where the sign-in leads back to
		g.screen("POST "+path, g.askForManifest)
	}
	g.handle("POST /app-manifests/{code}/conversions", g.asAnyone, g.convertManifest)
}

func (g *GitHub) askForManifest(r *http.Request, who *person) screen {
	text, state, path := r.FormValue("manifest"), r.FormValue("state"), r.URL.Path
	if who == nil {
		return g.askWho(path+"?"+url.Values{"manifest": {text}, "state": {state}}.Encode(), "")
	}
	owner := g.user(who.Login)
	if login := r.PathValue("org"); login != "" {
		org := g.orgs[strings.ToLower(login)]
		if org == nil || org.Roles[who.ID] != roleAdmin {
			return wrong(refuse(http.StatusNotFound, "There is no such organization of yours"))
		}
		owner = g.organizationJSON(org.ID, org.Login)
	}
	m, err := parseManifest(text)
	if err != nil {
		return wrong(err)
	}
	if r.Method == http.MethodPost && r.PostFormValue("create") == "1" {
		code := g.randomHex(20)
		maps.DeleteFunc(g.manifests, func(_ string, c *manifestCode) bool { return !c.expires.After(g.cfg.Now()) })
		g.manifests[code] = &manifestCode{m, owner, g.cfg.Now().Add(manifestLife)}
		q := url.Values{"code": {code}}
		if state != "" {
			q.Set("state", state)
		}
		return screen{to: withQuery(m.RedirectURL, q)}
	}
	asks := []string{}
	for _, name := range slices.Sorted(maps.Keys(m.DefaultPermissions)) {
		asks = append(asks, name+": "+m.DefaultPermissions[name])
	}
	to, _ := url.Parse(m.RedirectURL) // it is one
	return screen{status: http.StatusOK, page: pageData{Title: "Create GitHub App", leadsTo: []string{to.Scheme + "://" + to.Host}, Ask: &ask{
		Text: "The App asks for " + strings.Join(asks, ", ") + ", and hears of " + strings.Join(m.DefaultEvents, ", ") + ". You are signed in as " + who.Login + ".",
		Forms: []askForm{{
			Title: m.Name, Text: "Its webhooks go to " + m.HookAttributes.URL, Action: path, Fields: []field{{"manifest", text}, {"state", state}, {"create", "1"}}, Button: "Create GitHub App",
		}},
	}}}
}

// convertManifest trades a code for the App, once.
func (g *GitHub) convertManifest(r *http.Request, _ *owner) (int, any, error) {
	code := r.PathValue("code")
	c, ok := g.manifests[code]
	delete(g.manifests, code)
	if !ok || !c.expires.After(g.cfg.Now()) {
		return 0, nil, refuse(http.StatusNotFound, "Not Found")
	}
	at := moment(g.now())
	return http.StatusCreated, map[string]any{
		"id": appID, "slug": "millrace", "node_id": nodeID("A", appID), "owner": c.owner, "name": c.manifest.Name, "description": nil, "external_url": c.manifest.URL,
		"html_url": g.cfg.URL + "/apps/millrace", "created_at": at, "updated_at": at, "permissions": c.manifest.DefaultPermissions, "events": c.manifest.DefaultEvents,
		"client_id": clientID, "client_secret": g.ClientSecret(), "webhook_secret": g.secret, "pem": string(g.PrivateKeyPEM()),
	}, nil
}
