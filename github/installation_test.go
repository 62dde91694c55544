package github_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

func TestInstallation(t *testing.T) {
	t.Parallel()
	account := func(id int64, login, kind, suspended string) http.HandlerFunc {
		return says(200, fmt.Sprintf(`{"id":5,"account":{"id":%d,"login":%q,"type":%q},"target_type":%[3]q,"app_id":77,"permissions":{"actions":"read"},
			"events":["workflow_job"],"suspended_by":null,"suspended_at":%s}`, id, login, kind, suspended))
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   millrace.Installation
		code   millrace.Code
	}{
		"an organisation": {account(51, "calm", "Organization", "null"), millrace.Installation{ID: 5, OwnerID: 51, OwnerLogin: "calm", OwnerType: millrace.Organization}, ""},
		"suspended": {account(52, "mona", "User", `"2026-10-31T12:00:00Z"`), millrace.Installation{
			ID: 5, OwnerID: 52, OwnerLogin: "mona", OwnerType: millrace.Personal, SuspendedAt: time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC),
		}, ""},
		"uninstalled":    {says(404, `{"message":"Not Found"}`), millrace.Installation{}, millrace.NotFound},
		"no such App":    {says(404, `{"message":"Integration not found"}`), millrace.Installation{}, millrace.Forbidden},
		"no owner":       {says(200, `{"id":5,"account":null}`), millrace.Installation{}, millrace.Unavailable},
		"another one":    {says(200, `{"id":6,"account":{"id":51}}`), millrace.Installation{}, millrace.Unavailable},
		"GitHub is down": {says(502, ``), millrace.Installation{}, millrace.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFar(t, map[string]http.HandlerFunc{"GET /app/installations/{id}": tc.answer})
			got, err := f.App.Installation(t.Context(), farInstallation)
			wantCode(t, err, tc.code)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := f.tokensGiven(); n != 0 {
				t.Errorf("it was asked as the installation, which a suspended one may not")
			}
		})
	}
}

func TestInstallations(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 100, 101, 250} {
		f := newFar(t, map[string]http.HandlerFunc{"GET /app/installations": func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.FormValue("page"))
			var list []string
			for i := (page - 1) * 100; i < min(page*100, n); i++ {
				list = append(list, fmt.Sprintf(`{"id":%d,"account":{"id":%d,"login":"o%[1]d","type":"Organization"},"suspended_at":null}`, i+1, i+1001))
			}
			if page*100 < n {
				w.Header().Set("Link", `<https://api.github.com/app/installations?page=2>; rel="next"`)
			}
			fmt.Fprintf(w, "[%s]", strings.Join(list, ","))
		}})
		got, err := f.App.Installations(t.Context())
		if err != nil || len(got) != n || f.tokensGiven() != 0 {
			t.Errorf("%d: %d, %v", n, len(got), err)
		}
		for i, at := range got {
			if want := (millrace.Installation{ID: int64(i + 1), OwnerID: int64(i + 1001), OwnerLogin: fmt.Sprintf("o%d", i+1), OwnerType: millrace.Organization}); at != want {
				t.Errorf("%d: %+v, want %+v", i, at, want)
			}
		}
	}
	f := newFar(t, map[string]http.HandlerFunc{"GET /app/installations": says(502, ``)})
	_, err := f.App.Installations(t.Context())
	wantCode(t, err, millrace.Unavailable)
}

func TestInstallationRepositories(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 100, 101, 250} {
		f := newFar(t, map[string]http.HandlerFunc{"GET /installation/repositories": pagesOf("repositories", n, func(i int) string {
			return fmt.Sprintf(`{"id":%d,"name":"r%[1]d","full_name":"calm/r%[1]d","private":%t,"owner":{"login":"calm"}}`, i+1, i%2 == 0)
		})})
		got, err := f.App.InstallationRepositories(t.Context(), farInstallation)
		if calls := len(f.asked()); err != nil || len(got) != n || calls != max(1, (n+99)/100) {
			t.Errorf("%d: %d in %d calls, %v", n, len(got), calls, err)
			continue
		}
		for i, r := range got {
			if r != (millrace.Repository{ID: int64(i + 1), InstallationID: farInstallation, FullName: fmt.Sprintf("calm/r%d", i+1), Private: i%2 == 0}) {
				t.Errorf("%d: %+v", n, r)
			}
		}
	}
	f := newFar(t, map[string]http.HandlerFunc{"GET /installation/repositories": says(200, list("repositories", 3, `{"id":1,"full_name":"calm/a\u0000"}`, `{"id":0,"full_name":"calm/b"}`, "null"))})
	got, err := f.App.InstallationRepositories(t.Context(), farInstallation)
	if err != nil || len(got) != 1 || got[0].FullName != "calm/a" {
		t.Errorf("%+v, %v", got, err)
	}
}
