package github_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

const (
	installationRoute = "GET /app/installations/{id}"
	membersRoute      = "GET /orgs/{org}/members"
)

// installationOf is calm's, as GitHub shows it to the App.
func installationOf(login, kind, permissions, suspended string) http.HandlerFunc {
	return says(200, fmt.Sprintf(`{"id":5,"account":{"id":51,"login":%q,"type":%q},"permissions":%s,"suspended_at":%s}`, login, kind, permissions, suspended))
}

const readsMembers = `{"members":"read","metadata":"read"}`

// members lists n of them, every tenth an admin. As GitHub does, a page that has not changed is answered with 304; that the
// Link header is then left out is the worst that it could do.
func members(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		var all, items []string
		for i := 1; i <= n; i++ {
			if r.URL.Query().Get("role") == "all" || i%10 == 0 {
				all = append(all, fmt.Sprintf(`{"id":%d,"login":"m%[1]d"}`, i))
			}
		}
		items = all[min((page-1)*100, len(all)):min(page*100, len(all))]
		etag := fmt.Sprintf(`W/"%d"`, len(all))
		if w.Header().Set("ETag", etag); r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if page*100 < len(all) {
			w.Header().Set("Link", `<https://github.test/x>; rel="next"`)
		}
		fmt.Fprintf(w, "[%s]", strings.Join(items, ","))
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 100, 101, 1250} {
		f := newFar(t, map[string]http.HandlerFunc{installationRoute: installationOf("Calm", "Organization", readsMembers, "null"), membersRoute: members(n)})
		var before []millrace.GitHubMember
		for again := range 2 {
			got, err := f.App.Members(t.Context(), farInstallation, "calm")
			if err != nil || len(got) != n {
				t.Fatalf("%d: %d, %v", n, len(got), err)
			}
			for i, m := range got {
				if m != (millrace.GitHubMember{GitHubID: int64(i + 1), Login: fmt.Sprintf("m%d", i+1), Admin: (i+1)%10 == 0}) {
					t.Errorf("%d: %+v", n, m)
				}
			}
			calls := f.asked()
			conditional := slices.IndexFunc(calls, func(c string) bool { return strings.Contains(c, "/members") && !strings.HasSuffix(c, `"`) })
			if again == 1 && (conditional >= 0 || !slices.Equal(got, before)) {
				t.Errorf("%d: asked %q for the second time", n, calls[conditional])
			}
			before = got
		}
	}
}

func TestMembersOfAnother(t *testing.T) {
	t.Parallel()
	ours := installationOf("calm", "Organization", readsMembers, "null")
	for name, tc := range map[string]struct {
		installation, members, token http.HandlerFunc
		code                         millrace.Code
		condition                    millrace.WaitCode
	}{
		"uninstalled":         {says(404, `{"message":"Not Found"}`), nil, nil, millrace.NotFound, ""},
		"a personal account":  {installationOf("calm", "User", readsMembers, "null"), nil, nil, millrace.NotFound, ""},
		"renamed":             {installationOf("still", "Organization", readsMembers, "null"), nil, nil, millrace.Conflict, ""},
		"without permission":  {installationOf("calm", "Organization", `{"metadata":"read"}`, "null"), nil, nil, millrace.Forbidden, ""},
		"no permissions":      {installationOf("calm", "Organization", "null", "null"), nil, nil, millrace.Forbidden, ""},
		"not found":           {ours, says(404, `{"message":"Not Found"}`), nil, millrace.NotFound, ""},
		"an IP allow list":    {ours, says(403, `{"message":"the calm organization has an IP allow list enabled"}`), nil, millrace.Forbidden, millrace.WaitIPAllowList},
		"GitHub is down":      {ours, says(502, ``), nil, millrace.Unavailable, millrace.WaitGitHubDown},
		"a rate limit":        {ours, says(429, `{}`), nil, millrace.LimitReached, millrace.WaitRateLimited},
		"no list":             {ours, says(200, `{"id":1}`), nil, millrace.Unavailable, ""},
		"suspended meanwhile": {ours, nil, says(403, `{"message":"This installation has been suspended"}`), millrace.Forbidden, millrace.WaitSuspended},
		"suspended": {
			installationOf("calm", "Organization", `{}`, `"2026-10-31T12:00:00Z"`), nil,
			says(403, `{"message":"This installation has been suspended"}`), millrace.Forbidden, millrace.WaitSuspended,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			public := func(w http.ResponseWriter, r *http.Request) {
				t.Errorf("the public members were asked for: %s", r.URL)
				w.WriteHeader(http.StatusTeapot)
			}
			routes := map[string]http.HandlerFunc{installationRoute: tc.installation, membersRoute: public}
			if tc.members != nil {
				routes[membersRoute] = tc.members
			}
			if tc.token != nil {
				routes["POST /app/installations/{id}/access_tokens"] = tc.token
			}
			got, err := newFar(t, routes).App.Members(t.Context(), farInstallation, "calm")
			if wantCode(t, err, tc.code); got != nil {
				t.Errorf("%+v", got)
			}
			if c := millrace.ConditionOf(err); (c == nil) != (tc.condition == "") || c != nil && c.Code != tc.condition {
				t.Errorf("condition %v, want %q", c, tc.condition)
			}
		})
	}
}

// TestMembersWhoChange: whoever is another from one list to the next, or is no member at all.
func TestMembersWhoChange(t *testing.T) {
	t.Parallel()
	lists := map[string]string{"all": `[{"id":1,"login":"a\u0000"},{"id":2,"login":"b"},null,{"id":0,"login":"c"},{"id":4}]`, "admin": `[{"id":2,"login":"b"},{"id":3,"login":"new"}]`}
	f := newFar(t, map[string]http.HandlerFunc{
		installationRoute: installationOf("calm", "Organization", readsMembers, "null"),
		membersRoute:      func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, lists[r.URL.Query().Get("role")]) },
	})
	got, err := f.App.Members(t.Context(), farInstallation, "calm")
	want := []millrace.GitHubMember{{GitHubID: 1, Login: "a"}, {GitHubID: 2, Login: "b", Admin: true}, {GitHubID: 3, Login: "new", Admin: true}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		code   millrace.Code
	}{
		"there":          {says(204, ``), ""},
		"gone already":   {says(404, `{"message":"Not Found"}`), ""},
		"no such App":    {says(404, `{"message":"Integration not found"}`), millrace.NotFound},
		"accepted":       {says(202, `{}`), millrace.Unavailable},
		"GitHub is down": {says(502, ``), millrace.Unavailable},
		"forbidden":      {says(403, `{"message":"Forbidden"}`), millrace.Forbidden},
	} {
		f := newFar(t, map[string]http.HandlerFunc{"DELETE /app/installations/{id}": tc.answer})
		err := f.App.Uninstall(t.Context(), farInstallation)
		if millrace.CodeOf(err) != tc.code || f.tokensGiven() != 0 {
			t.Errorf("%s: %v, want %q", name, err, tc.code)
		}
	}
}

// TestPeopleOfTheStandIn: whom the stand-in has in an organisation, and what becomes of them.
func TestPeopleOfTheStandIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mona, lisa := w.AddPerson("mona"), w.AddPerson("lisa")
	w.AddPerson("stranger")
	for login, role := range map[string]string{"mona": "member", "lisa": "admin"} {
		if err := w.SetMember("calm", login, role); err != nil {
			t.Fatal(err)
		}
	}
	who := func() []millrace.GitHubMember {
		t.Helper()
		list, err := w.App.Members(t.Context(), w.Owner.ID, w.Owner.OwnerLogin)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, func(a, b millrace.GitHubMember) int { return strings.Compare(a.Login, b.Login) })
		return list
	}
	admin := millrace.GitHubMember{GitHubID: w.Owner.SenderID, Login: "calm-admin", Admin: true}
	want := []millrace.GitHubMember{admin, {GitHubID: lisa.ID, Login: "lisa", Admin: true}, {GitHubID: mona.ID, Login: "mona"}}
	if diff := cmp.Diff(want, who()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	who()
	for _, c := range w.Calls()[len(w.Calls())-2:] {
		if c.Status != http.StatusNotModified {
			t.Errorf("asked again: %+v", c)
		}
	}
	if err := w.RemoveMember("calm", "lisa"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]millrace.GitHubMember{admin, want[2]}, who()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	own := w.AddOwner("zoe", millrace.Personal)
	_, err := w.App.Members(t.Context(), own.ID, "zoe")
	wantCode(t, err, millrace.NotFound)
	if err := w.SetFaults(githubtest.Faults{PermissionMissing: githubtest.Owners{"calm"}}); err != nil {
		t.Fatal(err)
	}
	_, err = w.App.Members(t.Context(), w.Owner.ID, "calm")
	wantCode(t, err, millrace.Forbidden)
	for range 2 {
		if err := w.App.Uninstall(t.Context(), w.Owner.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.App.Members(t.Context(), w.Owner.ID, "calm")
	wantCode(t, err, millrace.NotFound)
	_, err = w.App.Installation(t.Context(), w.Owner.ID)
	wantCode(t, err, millrace.NotFound)
}
