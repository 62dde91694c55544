package web_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func TestPlacementPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue()
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	w.confirmed(b)
	const path = "/o/calm/placement"
	settings := func() millrace.PlacementSettings {
		t.Helper()
		s, err := w.Store.Org(w.Org.ID).PlacementSettings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	submit := func(to string, form url.Values, want int, says ...string) {
		t.Helper()
		res, page := w.submit(b, path+to, form)
		if res.StatusCode != want {
			t.Errorf("%s %v: %s, want %d", to, form, res.Status, want)
		}
		contains(t, page, says...)
	}
	_, page := w.get(b, path)
	contains(t, page, "All repositories are treated alike.", `value="pack" class="mt-1 size-4" checked`, `<option value="calm/app">`, "Pull requests from forks")
	submit("", url.Values{"strategy": {"spread"}}, http.StatusSeeOther)
	submit("", url.Values{"strategy": {"random"}}, http.StatusUnprocessableEntity, "&#34;random&#34; is neither")
	submit("/repositories", url.Values{"repository": {"calm/app"}, "priority": {"-2"}, "limit": {"3"}}, http.StatusSeeOther)
	submit("/repositories", url.Values{"repository": {"rival/app"}, "limit": {"3"}}, http.StatusUnprocessableEntity, "The org has no such repository.", `value="rival/app"`)
	submit("/repositories", url.Values{"repository": {"calm/app"}, "priority": {"high"}}, http.StatusUnprocessableEntity, "A priority is a whole number")
	submit("/repositories", url.Values{"priority": {"1"}}, http.StatusUnprocessableEntity, "Which repository?")
	submit("/zones/public", url.Values{"allowed": {"yes"}, "labels": {"outside, DMZ"}, "egress": {"none"}, "cpu": {"2.5"}, "memory": {""}}, http.StatusSeeOther)
	submit("/zones/private", url.Values{"egress": {"internet"}, "memory": {"0.5"}}, http.StatusSeeOther)
	submit("/zones/fork", url.Values{"allowed": {"yes"}, "egress": {"internet"}, "cpu": {"many"}}, http.StatusUnprocessableEntity, "&#34;many&#34; is neither", `value="many"`)
	submit("/zones/fork", url.Values{"allowed": {"yes"}, "egress": {"lan"}}, http.StatusUnprocessableEntity, "&#34;lan&#34; is neither")
	submit("/zones/dmz", url.Values{"allowed": {"yes"}, "egress": {"none"}}, http.StatusUnprocessableEntity)

	s := settings()
	public, private := s.Zone(millrace.ZonePublic), s.Zone(millrace.ZonePrivate)
	if s.Strategy != millrace.Spread || len(s.Shares) != 1 || s.Shares[0].Priority != -2 || s.Shares[0].Limit != 3 || s.Zone(millrace.ZoneFork).Allowed {
		t.Errorf("set to %+v", s)
	}
	if !public.Allowed || strings.Join(public.HostLabels, " ") != "dmz outside" || public.Egress != millrace.EgressNone || public.MaxSize != (millrace.Size{MilliCPU: 2500}) {
		t.Errorf("public repositories: %+v", public)
	}
	if !private.Allowed || private.MaxSize != (millrace.Size{MemoryMB: 512}) {
		t.Errorf("private repositories: %+v", private)
	}
	lacks(t, page, "These jobs reach all", "isn't known") // the jobs of public repositories reach nothing, and forks' don't run

	host := w.host("h7", 7)
	// Jobs that aren't trusted could look around where a host's networks are open.
	submit("/zones/public", url.Values{"allowed": {"yes"}, "egress": {"internet"}}, http.StatusSeeOther)
	_, page = w.get(b, path)
	contains(t, page, "isn&#39;t known of "+host.Name)
	facts := host.Facts
	facts.Network = millrace.NetworkUser
	if _, err := w.Store.Org(w.Org.ID).StartHost(t.Context(), host.ID, "", facts); err != nil {
		t.Fatal(err)
	}
	_, page = w.get(b, path)
	contains(t, page, "its own services and the networks around it, on "+host.Name, "--network tap")
	_, page = w.get(b, "/o/calm/hosts/"+host.ID.String())
	contains(t, page, "open to all that the host reaches")
	facts.Network = millrace.NetworkTap
	if _, err := w.Store.Org(w.Org.ID).StartHost(t.Context(), host.ID, "", facts); err != nil {
		t.Fatal(err)
	}
	_, page = w.get(b, path)
	lacks(t, page, "These jobs reach all", "known of")
	submit("/zones/public", url.Values{"allowed": {"yes"}, "labels": {"outside, DMZ"}, "egress": {"none"}, "cpu": {"2.5"}, "memory": {""}}, http.StatusSeeOther)
	_, page = w.get(b, path)
	contains(t, page, "calm/app", `value="2.5"`, `value="dmz, outside"`, "Like all others")
	submit("/repositories", url.Values{"repository_id": {"77"}}, http.StatusSeeOther)
	if s := settings(); len(s.Shares) != 0 {
		t.Errorf("like all others: %+v", s.Shares)
	}
	log, err := w.Store.Org(w.Org.ID).Audit(t.Context(), store.AuditFilter{Action: "placement.changed"})
	if err != nil || len(log.Entries) != 7 {
		t.Errorf("%d entries in the audit log, %v", len(log.Entries), err)
	}

	viewer, _ := w.person(w.Org, millrace.RoleViewer)
	_, page = w.get(viewer, path)
	contains(t, page, "Public repositories", "dmz, outside", "2.5")
	lacks(t, page, "<form method=\"post\" action=\"/o/calm/placement", "Like all others")
}

// A repository that GitHub lists no more is treated like all others when that is asked for, and not the one that has its name now.
func TestShareOfAnUnlistedRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	w.confirmed(b)
	const path = "/o/calm/placement"
	lists := func(list ...millrace.Repository) {
		t.Helper()
		if err := w.Store.SaveRepositories(t.Context(), w.Org.Installation.ID, list); err != nil {
			t.Fatal(err)
		}
	}
	share := func(id int64, priority int) {
		t.Helper()
		change := millrace.PlacementChange{Shares: []millrace.ShareChange{{RepositoryID: id, Priority: &priority}}}
		if _, err := w.Store.Org(w.Org.ID).ChangePlacement(t.Context(), w.Org.Caller(), change); err != nil {
			t.Fatal(err)
		}
	}
	shares := func(want ...int64) {
		t.Helper()
		s, err := w.Store.Org(w.Org.ID).PlacementSettings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, s := range s.Shares {
			got = append(got, s.RepositoryID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the repositories %v have shares, want %v", got, want)
		}
	}
	reset := func(id string, want int, says ...string) {
		t.Helper()
		res, page := w.submit(b, path+"/repositories", url.Values{"repository_id": {id}})
		if res.StatusCode != want {
			t.Errorf("%q: %s, want %d", id, res.Status, want)
		}
		contains(t, page, says...)
	}
	lists(millrace.Repository{ID: 1, FullName: "calm/old"}, millrace.Repository{ID: 2, FullName: "calm/app"}, millrace.Repository{ID: 4, FullName: "calm/kept"})
	for _, id := range []int64{1, 2, 4} {
		share(id, 2)
	}
	lists(millrace.Repository{ID: 3, FullName: "calm/app"}, millrace.Repository{ID: 4, FullName: "calm/kept"}) // 2 was deleted, and made anew
	share(3, -1)
	shares(1, 2, 3, 4)
	_, page := w.get(b, path)
	contains(t, page, `name="repository_id" value="1"`, `name="repository_id" value="2"`, `name="repository_id" value="3"`, `name="repository_id" value="4"`)
	for _, id := range []string{"9", "-1", "99999999999999999999"} {
		reset(id, http.StatusUnprocessableEntity, "The org has no such repository.")
	}
	for _, id := range []string{"", "0", "x", "1x"} {
		reset(id, http.StatusUnprocessableEntity, "Which repository?")
	}
	rival := storetest.MustCreateOrg(t, w.Store, "rival")
	if err := w.Store.SaveRepositories(t.Context(), rival.Installation.ID, []millrace.Repository{{ID: 5, FullName: "rival/app"}}); err != nil {
		t.Fatal(err)
	}
	reset("5", http.StatusUnprocessableEntity, "The org has no such repository.")
	shares(1, 2, 3, 4)
	reset("2", http.StatusSeeOther)
	shares(1, 3, 4)
	reset("1", http.StatusSeeOther)
	reset("4", http.StatusSeeOther)
	shares(3)
	lacks(t, page, `name="repository" value=`)
}
