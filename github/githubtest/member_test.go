package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestMembersAreListed(t *testing.T) {
	t.Parallel()
	l := newSite(t)
	other := l.AddOwner("other", millrace.Organization)
	own := l.AddOwner("zoe", millrace.Personal)
	for i := range 5 {
		login := fmt.Sprintf("m%d", i)
		l.AddPerson(login)
		if err := l.SetMember("calm", login, []string{"admin", "member"}[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	l.AddRepository("calm", "engine", false)
	if err := l.SetCollaborator("calm", "engine", "zoe", true); err != nil {
		t.Fatal(err)
	}
	auth := l.asInstallation(l.owner)
	list := func(query string) (logins []string, header http.Header) {
		t.Helper()
		w := l.send(t.Context(), auth, "GET", api+"/orgs/calm/members"+query, "")
		var page []struct {
			ID          int64
			Login, Type string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		for _, m := range page {
			if m.ID == 0 || m.Type != "User" {
				t.Errorf("%+v", m)
			}
			logins = append(logins, m.Login)
		}
		return logins, w.Header()
	}
	for query, want := range map[string]int{"": 6, "?role=all": 6, "?role=admin": 4, "?role=member": 2, "?per_page=4": 4, "?per_page=4&page=2": 2, "?page=9": 0} {
		if got, _ := list(query); len(got) != want {
			t.Errorf("%s: %q, want %d", query, got, want)
		}
	}
	_, header := list("?per_page=4")
	if !strings.Contains(header.Get("Link"), `rel="next"`) {
		t.Errorf("Link: %s", header.Get("Link"))
	}
	again := func(want int) {
		t.Helper()
		if w := l.conditional(auth, api+"/orgs/calm/members?per_page=4", header.Get("ETag")); w.Code != want {
			t.Errorf("asked again: %d, want %d", w.Code, want)
		}
	}
	again(http.StatusNotModified)
	for _, login := range []string{"m0", "m1", "m2"} {
		if err := l.RemoveMember("calm", login); err != nil {
			t.Fatal(err)
		}
	}
	again(http.StatusOK)

	l.call(auth, "GET", api+"/orgs/calm/members?role=owner", "", http.StatusUnprocessableEntity, nil)
	l.call(l.asInstallation(other), "GET", api+"/orgs/calm/members", "", http.StatusNotFound, nil)
	l.call(l.asInstallation(own), "GET", api+"/orgs/zoe/members", "", http.StatusNotFound, nil)
	l.call(l.asApp(), "GET", api+"/orgs/calm/members", "", http.StatusUnauthorized, nil)
	l.faults(githubtest.Faults{PermissionMissing: githubtest.Owners{"calm"}})
	if got, _ := list(""); got != nil {
		t.Errorf("without the permission: %q", got)
	}
}

func TestACollaboratorSees(t *testing.T) {
	t.Parallel()
	b := &browser{loop: newSite(t)}
	b.AddPerson("mona")
	b.AddRepository("calm", "engine", false)
	b.AddRepository("calm", "website", false)
	auth := bearerOf(b.signIn("mona"))
	sees := func() (installations, repositories int, memberships []any) {
		t.Helper()
		var seen struct {
			Total int `json:"total_count"`
		}
		b.call(auth, "GET", api+"/user/installations", "", http.StatusOK, &seen)
		installations = seen.Total
		b.call(auth, "GET", api+"/user/memberships/orgs", "", http.StatusOK, &memberships)
		if installations > 0 {
			b.call(auth, "GET", fmt.Sprintf(api+"/user/installations/%d/repositories", b.owner.ID), "", http.StatusOK, &seen)
			repositories = seen.Total
		}
		return installations, repositories, memberships
	}
	want := func(installations, repositories int) {
		t.Helper()
		if i, r, m := sees(); i != installations || r != repositories || len(m) != 0 {
			t.Errorf("sees %d installations, %d repositories, memberships %v", i, r, m)
		}
	}
	want(0, 0)
	b.call("", "POST", "/_standin/collaborators", `{"owner":"calm","repo":"engine","login":"mona"}`, http.StatusOK, nil)
	want(1, 1)
	b.open("/people")
	if !strings.Contains(b.page, "collaborator of calm/engine") {
		t.Errorf("%s", b.page)
	}
	b.call("", "POST", "/_standin/collaborators", `{"owner":"calm","repo":"engine","login":"mona","remove":true}`, http.StatusOK, nil)
	want(0, 0)
	for _, body := range []string{
		`{"owner":"calm","repo":"engine","login":"mona","remove":true}`, `{"owner":"calm","repo":"none","login":"mona"}`, `{"owner":"calm","repo":"engine","login":"nobody"}`,
	} {
		b.call("", "POST", "/_standin/collaborators", body, http.StatusUnprocessableEntity, nil)
	}
}
