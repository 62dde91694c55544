package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// person is a member with a role, as whoever asks for something.
func (w *world) person(tenant storetest.Tenant, role millrace.Role, n int64) millrace.Caller {
	w.t.Helper()
	user := millrace.User{GitHubID: 700_000 + n, Login: fmt.Sprintf("%s-%d", role, n)}
	secret, err := w.st.SignInPerson(w.t.Context(), millrace.GitHubPerson{User: user, Installations: []millrace.PersonInstallation{{Installation: tenant.Installation, Member: true}}}, millrace.Device{})
	if err != nil {
		w.t.Fatal(err)
	}
	session, err := w.st.SessionUser(w.t.Context(), secret.Reveal())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.st.Org(tenant.ID).SetRole(w.t.Context(), tenant.Caller(), session.User.ID, role); err != nil {
		w.t.Fatal(err)
	}
	return millrace.Caller{Actor: millrace.Actor{Kind: millrace.ActorUser, ID: session.User.ID.String()}, UserID: session.User.ID, Role: role}
}

// token is one of by's, with every scope, whatever by's role may.
func (w *world) token(tenant storetest.Tenant, by millrace.Caller) string {
	w.t.Helper()
	role := by.Role
	by.Role = millrace.RoleOwner // made when they were more: scopes stay, rights don't
	_, secret, err := w.st.Org(tenant.ID).CreateAPIToken(w.t.Context(), by, millrace.NewAPIToken{Name: string(role), Scopes: millrace.Scopes()})
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

// ask sends a body as JSON.
func (w *world) ask(method, path, token, body string) answer {
	w.t.Helper()
	r := w.request(method, path, []byte(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return w.send(r)
}

// operation is one of the OpenAPI document's.
type operation struct {
	key    string // METHOD /path, without the org's
	method string
	path   string // with its parameters filled in
	needs  millrace.Permission
}

// operations are all of the OpenAPI document; fill replaces the parameters in their paths.
func (w *world) operations(fill *strings.Replacer) (list []operation) {
	w.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(w.get("/openapi.json", "").body, &doc); err != nil {
		w.t.Fatal(err)
	}
	for path, operations := range doc.Paths {
		for method, op := range operations {
			method = strings.ToUpper(method)
			key := method + " " + strings.TrimPrefix(path, "/api/v1/orgs/{org}")
			if strings.HasPrefix(path, "/api/v1/device/") {
				continue // a sign-in takes no token: TestDeviceSignIn
			}
			o := operation{key: key, method: method, path: fill.Replace(path)}
			switch scopes := op.Security[0]["token"]; {
			case len(op.Security) == 1 && len(scopes) == 1:
				o.needs = millrace.Permission(scopes[0])
			case key != "GET /token": // which every token may ask
				w.t.Fatalf("%s says %v of who may", key, op.Security)
			}
			list = append(list, o)
		}
	}
	return list
}

// TestEveryOperationForEveryRole asks every operation of the OpenAPI document as everybody there is.
func TestEveryOperationForEveryRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	spare, _, err := w.st.Org(w.calm.ID).CreateAPIToken(t.Context(), w.calm.Caller(), millrace.NewAPIToken{Name: "canary", Scopes: []millrace.Permission{millrace.JobsRead}, OfOrg: true})
	if err != nil {
		t.Fatal(err)
	}
	enrollment, _, err := w.st.Org(w.calm.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	viewer := w.person(w.calm, millrace.RoleViewer, 99)
	fill := strings.NewReplacer("{org}", "calm", "{job}", vm.ForJob.String(), "{vm}", vm.ID.String(), "{host}", h.Host.String(), "{user}", viewer.UserID.String())
	type row struct {
		body string
		want int
		path string
	}
	rows := map[string]row{ // what differs from a GET that answers 200
		"PATCH /members/{user}":             {`{"role":"viewer"}`, 200, ""},
		"PATCH /placement":                  {`{"strategy":"spread","zones":[{"zone":"fork","egress":"none"}]}`, 200, ""},
		"POST /tokens":                      {`{"name":"x","scopes":["org:read"],"days":1}`, 201, ""},
		"DELETE /tokens/{token}":            {"", 204, "/tokens/" + spare.ID.String()},
		"PATCH /hosts/{host}":               {`{"admin":"draining"}`, 200, ""},
		"POST /hosts/{host}/restart":        {"", 200, ""},
		"POST /hosts/{host}/rotate-keys":    {"", 200, ""},
		"POST /hosts/{host}/reboot":         {"", 200, ""},
		"DELETE /hosts/{host}":              {"", 204, "/hosts/" + w.enroll(w.calm, "rack-2").Host.String()},
		"POST /enrollment-tokens":           {`{}`, 201, ""},
		"DELETE /enrollment-tokens/{token}": {"", 204, "/enrollment-tokens/" + enrollment.ID.String()},
	}
	callers := map[string]string{"nobody": "", "other": storetest.MustCreateToken(t, w.st, w.rival)}
	for i, role := range millrace.Roles {
		callers[string(role)] = w.token(w.calm, w.person(w.calm, role, int64(i)))
	}
	gone := w.person(w.calm, millrace.RoleAdmin, 50)
	callers["revoked"] = w.token(w.calm, gone)
	list, err := w.st.Org(w.calm.ID).APITokens(t.Context(), gone)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range list {
		if token.UserID == gone.UserID {
			if err := w.st.Org(w.calm.ID).RevokeAPIToken(t.Context(), gone, token.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	asked := 0
	for _, op := range w.operations(fill) {
		r, written := rows[op.key]
		if op.method != http.MethodGet && !written {
			t.Errorf("%s has no row: say what it takes and answers", op.key)
			continue
		}
		if !written {
			r.want = 200
		}
		at := op.path
		if r.path != "" {
			at = "/api/v1/orgs/calm" + r.path
		}
		for name, token := range callers {
			a := w.ask(op.method, at, token, r.body)
			asked++
			want, role := r.want, millrace.Role(name)
			switch {
			case name == "nobody" || name == "revoked":
				want = http.StatusUnauthorized
			case name == "other":
				want = http.StatusNotFound
			case op.needs != "" && !role.May(op.needs):
				want = http.StatusForbidden
			case op.key == "DELETE /tokens/{token}" && !role.May(millrace.OrgTokensWrite):
				want = http.StatusNotFound
			}
			if a.status != want || want >= 400 && strings.Contains(string(a.body), "canary") || strings.Contains(string(a.body), `"hash"`) {
				t.Errorf("%s as %s: %d, want %d: %s", op.key, name, a.status, want, a.body)
			}
		}
	}
	if asked < 15*len(callers) {
		t.Errorf("only %d requests", asked)
	}
}

// What a token lacks is named; what a body has too much of is refused; a secret is told once.
func TestTokensOverREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	org := w.st.Org(w.calm.ID)
	member := w.person(w.calm, millrace.RoleMember, 1)
	const base = "/api/v1/orgs/calm"
	_, secret, err := org.CreateAPIToken(t.Context(), member, millrace.NewAPIToken{Name: "small", Scopes: []millrace.Permission{millrace.JobsRead, millrace.TokensWrite}})
	if err != nil {
		t.Fatal(err)
	}
	token := secret.Reveal()
	if a := w.get(base+"/usage", token); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "lacks the scope usage:read") {
		t.Errorf("a scope that it lacks: %d %s", a.status, a.body)
	}
	for body, want := range map[string]int{
		`{"name":"x","scopes":["usage:read"]}`:                         403, // more than it has
		`{"name":"x","scopes":["hosts:write"]}`:                        403,
		`{"name":"x","scopes":["jobs:read"],"days":31}`:                403, // outlives it
		`{"name":"x","scopes":["jobs:read"],"of_org":true}`:            403,
		`{"name":"x","scopes":["org:delete"],"days":1}`:                422,
		`{"name":"x","scopes":[]}`:                                     422,
		`{"name":"","scopes":["jobs:read"]}`:                           422,
		`{"name":"x","scopes":["jobs:read"],"days":0}`:                 422,
		`{"name":"x","scopes":["jobs:read"],"days":367}`:               422,
		`{"name":"x","scopes":["jobs:read"],"role":"owner"}`:           422, // mass assignment
		`{"name":"x","scopes":["jobs:read"],"org_id":1}`:               422,
		`{"name":1,"scopes":"jobs:read"}`:                              422,
		`{"name":"x","scopes":["jobs:read"]`:                           400,
		``:                                                             400,
		`[` + strings.Repeat(`[`, 5000):                                400,
		`{"name":"` + strings.Repeat("x", 2<<20) + `","scopes":["a"]}`: 413,
	} {
		a := w.ask(http.MethodPost, base+"/tokens", token, body)
		if a.status != want {
			t.Errorf("%.60s: %d, want %d: %.200s", body, a.status, want, a.body)
		}
	}
	a := w.ask(http.MethodPost, base+"/tokens", token, `{"name":"x","scopes":["jobs:read"],"days":7}`)
	var made client.APIToken
	if err := json.Unmarshal(a.body, &made); err != nil || a.status != http.StatusCreated || !strings.HasPrefix(made.Secret, "mrat_") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.get(base+"/jobs", made.Secret); a.status != http.StatusOK {
		t.Errorf("the token that was made: %d", a.status)
	}
	if a := w.get(base+"/tokens", token); a.status != http.StatusOK || strings.Contains(string(a.body), made.Secret) || !strings.Contains(string(a.body), made.Hint) {
		t.Errorf("the list: %d %s", a.status, a.body)
	}
	if a := w.ask(http.MethodDelete, base+"/tokens/"+made.ID.String(), token, ""); a.status != http.StatusNoContent {
		t.Errorf("revoking: %d %s", a.status, a.body)
	}
	if a := w.get(base+"/jobs", made.Secret); a.status != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d", a.status)
	}
	owner := storetest.MustCreateToken(t, w.st, w.calm)
	if a := w.get(base+"/audit?action=api_token.revoked&limit=1", owner); a.status != http.StatusOK || !strings.Contains(string(a.body), "api_token.revoked") || strings.Contains(string(a.body), made.Secret) {
		t.Errorf("the audit log: %d %s", a.status, a.body)
	}
	// Another org's rows are as good as none.
	rival := storetest.MustCreateToken(t, w.st, w.rival)
	for _, path := range []string{"/tokens/", "/enrollment-tokens/"} {
		id := made.ID.String()
		if path != "/tokens/" {
			id = strings.Replace(id, "tok_", "enr_", 1)
		}
		foreign := w.ask(http.MethodDelete, "/api/v1/orgs/rival"+path+id, rival, "")
		problem(t, "another's "+path, foreign, http.StatusNotFound)
	}
	problem(t, "another's member", w.ask(http.MethodPatch, "/api/v1/orgs/rival/members/"+w.calm.Owner.ID.String(), rival, `{"role":"viewer"}`), http.StatusNotFound)
	problem(t, "the last owner", w.ask(http.MethodPatch, base+"/members/"+w.calm.Owner.ID.String(), owner, `{"role":"viewer"}`), http.StatusConflict)
	problem(t, "no role", w.ask(http.MethodPatch, base+"/members/"+w.calm.Owner.ID.String(), owner, `{"role":"root"}`), http.StatusUnprocessableEntity)
}
