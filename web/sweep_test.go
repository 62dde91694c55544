package web_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/web"
)

// person signs somebody in who is a member of the org with a role.
func (w *world) person(tenant storetest.Tenant, role millrace.Role) (*http.Client, millrace.User) {
	w.t.Helper()
	w.next++
	user := millrace.User{GitHubID: 900_000 + w.next, Login: fmt.Sprintf("%s-%s-%d", tenant.Slug, role, w.next)}
	at := millrace.PersonInstallation{Installation: tenant.Installation, Member: true}
	secret, err := w.Store.SignInPerson(w.t.Context(), millrace.GitHubPerson{User: user, Installations: []millrace.PersonInstallation{at}}, millrace.Device{Address: "192.0.2.7", UserAgent: "test"})
	if err != nil {
		w.t.Fatal(err)
	}
	session, err := w.Store.SessionUser(w.t.Context(), secret.Reveal())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.Store.Org(tenant.ID).SetRole(w.t.Context(), tenant.Caller(), session.User.ID, role); err != nil {
		w.t.Fatal(err)
	}
	b := browser(w.t)
	u, _ := url.Parse(w.URL)
	b.Jar.SetCookies(u, []*http.Cookie{{Name: "millrace", Value: secret.Reveal(), Path: "/"}})
	return b, session.User
}

// confirmed has a browser's user confirm that it is them.
func (w *world) confirmed(b *http.Client) {
	w.t.Helper()
	u, _ := url.Parse(w.URL)
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == "millrace" {
			session, err := w.Store.SessionUser(w.t.Context(), c.Value)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := w.Store.ConfirmSession(w.t.Context(), session.ID); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// rule is what a route of an org answers to those who may, and what it takes.
type rule struct {
	needs     millrace.Permission
	path      string // after /o/{org}
	form      url.Values
	want      int
	dangerous bool // it takes a confirmation, which nobody here gave
}

// TestEveryRouteForEveryRole asks every route of an org as everybody there is. A route that has no row fails.
func TestEveryRouteForEveryRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host("rack-1", 10)
	vm := w.run(host, w.queue(), millrace.StageRunning, 0, "").ID.String()
	job := w.newest().ID.String()
	rival := storetest.MustCreateOrg(t, w.Store, "rival")
	token, _, err := w.Store.Org(w.Org.ID).CreateAPIToken(t.Context(), w.Org.Caller(), millrace.NewAPIToken{Name: "canary-of-calm", Scopes: []millrace.Permission{millrace.JobsRead}, OfOrg: true})
	if err != nil {
		t.Fatal(err)
	}
	enrollment, _, err := w.Store.Org(w.Org.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	const ok, see = http.StatusOK, http.StatusSeeOther
	owner := w.Org.Owner.ID.String()
	rules := map[string]rule{
		"GET /o/{org}":                                         {millrace.OrgRead, "", nil, see, false},
		"GET /o/{org}/{$}":                                     {millrace.OrgRead, "/", nil, ok, false},
		"GET /o/{org}/jobs":                                    {millrace.JobsRead, "/jobs", nil, ok, false},
		"GET /o/{org}/jobs/{job}":                              {millrace.JobsRead, "/jobs/" + job, nil, ok, false},
		"GET /o/{org}/vms/{vm}":                                {millrace.JobsRead, "/vms/" + vm, nil, ok, false},
		"GET /o/{org}/hosts":                                   {millrace.HostsRead, "/hosts", nil, ok, false},
		"POST /o/{org}/hosts/enrollment-tokens":                {millrace.HostsWrite, "/hosts/enrollment-tokens", url.Values{}, ok, false},
		"GET /o/{org}/hosts/new":                               {millrace.HostsWrite, "/hosts/new", nil, ok, false},
		"GET /o/{org}/hosts/{host}":                            {millrace.HostsRead, "/hosts/" + host.ID.String(), nil, ok, false},
		"GET /o/{org}/hosts/{host}/log":                        {millrace.HostsRead, "/hosts/" + host.ID.String() + "/log", nil, ok, false},
		"POST /o/{org}/hosts/{host}":                           {millrace.HostsWrite, "/hosts/" + host.ID.String(), url.Values{"do": {"drain"}}, see, false},
		"POST /o/{org}/hosts/enrollment-tokens/{token}/revoke": {millrace.HostsWrite, "/hosts/enrollment-tokens/" + enrollment.ID.String() + "/revoke", url.Values{}, see, false},
		"GET /o/{org}/incidents":                               {millrace.IncidentsRead, "/incidents", nil, ok, false},
		"GET /o/{org}/usage":                                   {millrace.UsageRead, "/usage", nil, ok, false},
		"GET /o/{org}/settings":                                {millrace.OrgRead, "/settings", nil, ok, false},
		"POST /o/{org}/checklist":                              {millrace.OrgWrite, "/checklist", url.Values{"hidden": {"yes"}}, see, false},
		"POST /o/{org}/settings":                               {millrace.OrgWrite, "/settings", url.Values{"name": {"Calm"}}, see, false},
		"POST /o/{org}/settings/export":                        {millrace.OrgExport, "/settings/export", url.Values{}, ok, true},
		"GET /o/{org}/settings/delete":                         {millrace.OrgDelete, "/settings/delete", nil, ok, true},
		"POST /o/{org}/settings/delete":                        {millrace.OrgDelete, "/settings/delete", url.Values{"slug": {"calm"}}, see, true},
		"GET /o/{org}/members":                                 {millrace.MembersRead, "/members", nil, ok, false},
		"POST /o/{org}/members/{user}":                         {millrace.MembersWrite, "/members/" + owner, url.Values{"role": {"viewer"}}, see, true},
		"GET /o/{org}/tokens":                                  {millrace.TokensWrite, "/tokens", nil, ok, false},
		"GET /o/{org}/tokens/new":                              {millrace.TokensWrite, "/tokens/new", nil, ok, true},
		"POST /o/{org}/tokens":                                 {millrace.TokensWrite, "/tokens", url.Values{"name": {"x"}, "days": {"1"}, "scope": {"jobs:read"}}, ok, true},
		"POST /o/{org}/tokens/{token}/revoke":                  {millrace.OrgTokensWrite, "/tokens/" + token.ID.String() + "/revoke", url.Values{}, see, false},
		"POST /o/{org}/installations":                          {millrace.OrgWrite, "/installations", url.Values{"installation": {"1"}}, http.StatusForbidden, false}, // GitHub says that it is theirs: not of them
		"GET /o/{org}/audit":                                   {millrace.AuditRead, "/audit", nil, ok, false},
		"GET /o/{org}/events":                                  {}, // a stream: TestEventsSayChanged and TestStreamsEnd
		"GET /o/{org}/placement":                               {millrace.OrgRead, "/placement", nil, ok, false},
		"POST /o/{org}/placement":                              {millrace.OrgWrite, "/placement", url.Values{"strategy": {"spread"}}, see, false},
		"POST /o/{org}/placement/repositories":                 {millrace.OrgWrite, "/placement/repositories", url.Values{"repository": {"calm/app"}, "priority": {"1"}}, see, false},
		"POST /o/{org}/placement/zones/{zone}":                 {millrace.OrgWrite, "/placement/zones/public", url.Values{"allowed": {"yes"}, "egress": {"none"}}, see, true},
	}
	for _, p := range web.Patterns() {
		if _, known := rules[p]; strings.Contains(p, "{org}") && !known {
			t.Errorf("the route %q has no row: say what it answers to whom", p)
		}
	}
	callers := map[string]*http.Client{"nobody": browser(t)}
	for _, role := range millrace.Roles {
		callers[string(role)], _ = w.person(w.Org, role)
	}
	callers["other"], _ = w.person(rival, millrace.RoleOwner)
	revoked, user := w.person(w.Org, millrace.RoleOwner)
	callers["revoked"] = revoked
	if err := w.Store.EndSessions(t.Context(), user.ID); err != nil {
		t.Fatal(err)
	}

	asked := 0
	for _, pattern := range slices.Sorted(maps.Keys(rules)) {
		rule := rules[pattern]
		if rule.needs == "" {
			continue
		}
		for name, b := range callers {
			ask := func(org string) (*http.Response, string) {
				if rule.form != nil {
					return w.submit(b, "/o/"+org+rule.path, rule.form)
				}
				return w.get(b, "/o/"+org+rule.path)
			}
			res, page := ask("calm")
			asked++
			want, to, says := rule.want, "", ""
			role := millrace.Role(name)
			switch {
			case name == "nobody" || name == "revoked":
				want, to = see, "/sign-in"
			case name == "other":
				want, says = http.StatusNotFound, "another org's"
			case !role.May(rule.needs) && rule.needs == millrace.OrgTokensWrite && role.May(millrace.TokensWrite):
				want = http.StatusNotFound // whose the token is isn't told
			case !role.May(rule.needs):
				want, says = http.StatusForbidden, "may not"
			case rule.dangerous && rule.form == nil:
				want, to = see, "/confirm?to="
			case rule.dangerous:
				want, says = http.StatusForbidden, "Confirm that it is you"
			}
			if says == "another org's" {
				says = ""
				if looks(res, page) != looks(ask("nowhere")) {
					t.Errorf("%s as %s: an org that exists is told from one that doesn't", pattern, name)
				}
			}
			if res.StatusCode != want || !strings.HasPrefix(res.Header.Get("Location"), to) || !strings.Contains(page, says) {
				t.Errorf("%s as %s: %s to %q, want %d %s %s", pattern, name, res.Status, res.Header.Get("Location"), want, to, says)
			}
			if !role.May(rule.needs) && (strings.Contains(page, "canary-of-calm") || strings.Contains(page, "calm/app")) {
				t.Errorf("%s as %s shows what is calm's", pattern, name)
			}
		}
	}
	if want := (len(rules) - 1) * (len(millrace.Roles) + 3); asked != want {
		t.Errorf("%d requests, want %d", asked, want)
	}
	if orgs, err := w.Store.Memberships(t.Context(), w.Org.Owner.ID); err != nil || len(orgs) != 1 || orgs[0].Role != millrace.RoleOwner {
		t.Errorf("after all that, the owner is %+v, %v", orgs, err)
	}
}

// Another org's IDs in one's own org's address are as good as made up.
func TestForeignIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rival := storetest.MustCreateOrg(t, w.Store, "rival")
	b, _ := w.person(rival, millrace.RoleOwner)
	w.confirmed(b)
	w.get(b, "/account") // takes the secret that its role made
	token, _, err := w.Store.Org(w.Org.ID).CreateAPIToken(t.Context(), w.Org.Caller(), millrace.NewAPIToken{Name: "x", Scopes: []millrace.Permission{millrace.JobsRead}})
	if err != nil {
		t.Fatal(err)
	}
	w.queue()
	vm := w.place(w.host("rack-1", 10), millrace.WaitReason{})
	ids, now := new(millrace.Source), w.now()
	for foreign, missing := range map[string]string{
		"/tokens/" + token.ID.String() + "/revoke": "/tokens/" + millrace.NewAPITokenID(ids, now).String() + "/revoke",
		"/members/" + w.Org.Owner.ID.String():      "/members/" + millrace.NewUserID(ids, now).String(),
	} {
		form := url.Values{"role": {"viewer"}}
		theirs, page := w.submit(b, "/o/rival"+foreign, form)
		none, empty := w.submit(b, "/o/rival"+missing, form)
		if theirs.StatusCode != http.StatusNotFound || looks(theirs, page) != looks(none, empty) {
			t.Errorf("%s: %s, and one that isn't: %s", foreign, theirs.Status, none.Status)
		}
	}
	for foreign, missing := range map[string]string{
		"/jobs/" + w.newest().ID.String(): "/jobs/" + millrace.NewJobID(ids, now).String(),
		"/vms/" + vm.ID.String():          "/vms/" + millrace.NewVMID(ids, now).String(),
	} {
		theirs, page := w.get(b, "/o/rival"+foreign)
		none, empty := w.get(b, "/o/rival"+missing)
		if theirs.StatusCode != http.StatusNotFound || looks(theirs, page) != looks(none, empty) {
			t.Errorf("%s: %s, and one that isn't: %s", foreign, theirs.Status, none.Status)
		}
	}
	if list, err := w.Store.Org(w.Org.ID).APITokens(t.Context(), w.Org.Caller()); err != nil || len(list) != 1 || !list[0].RevokedAt.IsZero() {
		t.Errorf("calm's tokens: %+v, %v", list, err)
	}
}

// A member's role decides at their next request; their session gets another secret, and the former ends.
func TestRoleChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, user := w.person(w.Org, millrace.RoleViewer)
	u, _ := url.Parse(w.URL)
	secret := func() string { return b.Jar.Cookies(u)[0].Value }
	w.get(b, "/o/calm/jobs") // takes the secret that its first role made
	before := secret()
	if res, _ := w.get(b, "/o/calm/audit"); res.StatusCode != http.StatusForbidden {
		t.Errorf("a viewer sees the audit log: %s", res.Status)
	}
	owner := w.member()
	w.confirmed(owner)
	if res, _ := w.submit(owner, "/o/calm/members/"+user.ID.String(), url.Values{"role": {"admin"}}); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("the role was not changed: %s", res.Status)
	}
	res, page := w.get(b, "/o/calm/audit")
	if res.StatusCode != http.StatusOK || secret() == before {
		t.Errorf("as admin: %s, the same secret %t", res.Status, secret() == before)
	}
	contains(t, page, "member.role_changed", "viewer", "admin", w.Org.Owner.Login, "127.0.0.1", "req_")
	stale := browser(t)
	stale.Jar.SetCookies(u, []*http.Cookie{{Name: "millrace", Value: before, Path: "/"}})
	if res, _ := w.get(stale, "/o/calm/jobs"); res.StatusCode != http.StatusOK {
		t.Errorf("a request that was under way: %s", res.Status)
	}
	w.pass(millrace.SessionGrace)
	if res, _ := w.get(stale, "/o/calm/jobs"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the former secret a minute later: %s", res.Status)
	}
	if res, _ := w.submit(owner, "/o/calm/members/"+w.Org.Owner.ID.String(), url.Values{"role": {"member"}}); res.StatusCode != http.StatusConflict {
		t.Errorf("the last owner steps down: %s", res.Status)
	}
	if res, _ := w.submit(b, "/o/calm/members/"+user.ID.String(), url.Values{"role": {"owner"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("an admin makes themselves an owner: %s", res.Status)
	}
}

// A token is shown once, works with what it was given, and not a moment after it was revoked.
func TestTokenPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleMember)
	_, page := w.get(b, "/o/calm/tokens")
	contains(t, page, "No API tokens", "/o/calm/tokens/new")
	w.confirmed(b)
	_, page = w.get(b, "/o/calm/tokens/new")
	contains(t, page, "jobs:read", `value="30" selected`)
	if strings.Contains(page, "hosts:write") || strings.Contains(page, "of_org") {
		t.Error("a member is offered more than they have")
	}
	form := func(change ...string) url.Values {
		f := url.Values{"name": {"ci"}, "days": {"7"}, "scope": {"jobs:read", "usage:read"}}
		for i := 0; i+1 < len(change); i += 2 {
			f.Set(change[i], change[i+1])
		}
		return f
	}
	for want, f := range map[int][]url.Values{
		http.StatusUnprocessableEntity: {form("name", ""), form("name", "a\x1bb"), form("days", "0"), form("days", "x"), form("days", "9999"), form("scope", "root"), form("scope", "org:delete")},
		http.StatusForbidden:           {form("scope", "hosts:write"), form("of_org", "yes")},
	} {
		for _, form := range f {
			res, page := w.submit(b, "/o/calm/tokens", form)
			if res.StatusCode != want || !strings.Contains(page, `role="alert"`) || strings.Contains(page, "mrat_") {
				t.Errorf("%v: %s", form, res.Status)
			}
		}
	}
	_, page = w.submit(b, "/o/calm/tokens", form())
	_, rest, _ := strings.Cut(page, "mrat_")
	secret := "mrat_" + rest[:38]
	if _, err := w.Store.TokenAuth(t.Context(), secret, millrace.Device{Address: "198.51.100.4"}); err != nil {
		t.Fatalf("%q: %v", secret, err)
	}
	_, page = w.get(b, "/o/calm/tokens")
	contains(t, page, "ci", secret[:9], "jobs:read", "198.51.100.4", "Revoke")
	if strings.Contains(page, secret) {
		t.Error("the secret is shown again")
	}
	list, err := w.Store.Org(w.Org.ID).APITokens(t.Context(), w.Org.Caller())
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if res, _ := w.submit(b, "/o/calm/tokens/"+list[0].ID.String()+"/revoke", nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("revoking: %s", res.Status)
	}
	if _, err := w.Store.TokenAuth(t.Context(), secret, millrace.Device{}); millrace.CodeOf(err) != millrace.Unauthenticated {
		t.Errorf("a revoked token: %v", err)
	}
	_, page = w.get(w.member(), "/o/calm/audit?action=api_token.")
	contains(t, page, "api_token.created", "api_token.revoked", "jobs:read, usage:read")
	if strings.Contains(page, secret) || strings.Contains(page, "member.joined") {
		t.Error("the audit log tells the secret, or isn't filtered")
	}
}

// Sessions are listed with where they are from; each can be ended, and all at once.
func TestAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	here, there := w.member(), w.member()
	_, page := w.get(here, "/account")
	contains(t, page, "this one", "127.0.0.1", "Go-http-client", "calm", "owner")
	sessions, err := w.Store.Sessions(t.Context(), w.Org.Owner.ID)
	if err != nil || len(sessions) != 2 {
		t.Fatalf("%+v, %v", sessions, err)
	}
	stranger, _ := w.person(w.Org, millrace.RoleOwner)
	for _, s := range sessions {
		if res, _ := w.submit(stranger, "/account/sessions/"+s.ID.String()+"/end", nil); res.StatusCode != http.StatusNotFound {
			t.Errorf("somebody else ends it: %s", res.Status)
		}
	}
	for _, s := range sessions {
		if !strings.Contains(page, `id="`+s.ID.String()+`"`) {
			t.Errorf("session %s is not listed", s.ID)
		}
	}
	// The one whose row says "this one" stays.
	other := sessions[0].ID
	if at := strings.Index(page, "this one"); strings.LastIndex(page[:at], `id="`+other.String()+`"`) > strings.LastIndex(page[:at], `id="`+sessions[1].ID.String()+`"`) {
		other = sessions[1].ID
	}
	w.submit(here, "/account/sessions/"+other.String()+"/end", nil)
	if res, _ := w.get(there, "/o/calm/jobs"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a session that was ended: %s", res.Status)
	}
	again := w.member()
	if res, _ := w.submit(here, "/account/sign-out-everywhere", nil); res.StatusCode != http.StatusSeeOther {
		t.Error(res.Status)
	}
	for _, b := range []*http.Client{here, there, again} {
		if res, _ := w.get(b, "/account"); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), "/sign-in") {
			t.Errorf("after signing out everywhere: %s", res.Status)
		}
	}
}

// An org is deleted by whoever types its name; from then on it isn't there.
func TestDeleteOrgPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.host("rack-1", 10)
	b := w.member()
	w.confirmed(b)
	_, page := w.get(b, "/o/calm/settings/delete")
	contains(t, page, "Type <code", ">calm<", "Hosts", "erased for good")
	if res, page := w.submit(b, "/o/calm/settings/delete", url.Values{"slug": {"Calm"}}); res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(page, `role="alert"`) {
		t.Errorf("a wrong name: %s", res.Status)
	}
	res, archive := w.submit(b, "/o/calm/settings/export", nil)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/zip" || !strings.HasPrefix(archive, "PK") || !strings.Contains(res.Header.Get("Content-Disposition"), `filename="calm-`) {
		t.Errorf("export: %s, %v", res.Status, res.Header)
	}
	if res, _ := w.submit(b, "/o/calm/settings/delete", url.Values{"slug": {"calm"}}); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/" {
		t.Errorf("deleting: %s to %s", res.Status, res.Header.Get("Location"))
	}
	for _, path := range []string{"/o/calm/jobs", "/o/calm/settings", "/o/calm/audit"} {
		if res, _ := w.get(b, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s of a deleted org: %s", path, res.Status)
		}
	}
}
