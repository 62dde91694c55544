package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func TestChangePlacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 1, millrace.JobQueued))
	rival := storetest.MustCreateOrg(t, w.st, "rival")
	at := func(change millrace.PlacementChange) (millrace.PlacementSettings, error) {
		return w.org.ChangePlacement(t.Context(), w.Caller(), change)
	}
	before, err := w.org.PlacementSettings(t.Context())
	if diff := cmp.Diff(millrace.PlacementSettings{Strategy: millrace.Pack, Shares: []millrace.Share{}, Zones: []millrace.ZoneRule{}}, before); diff != "" || err != nil {
		t.Errorf("at first: %s, %v", diff, err)
	}
	if before.Zone(millrace.ZonePublic).Allowed || before.Zone(millrace.ZoneFork).Allowed || !before.Zone(millrace.ZonePrivate).Allowed {
		t.Errorf("at first %+v", before)
	}
	fork := millrace.ZoneRule{Zone: millrace.ZoneFork, Allowed: true, HostLabels: []string{"outside", "spare"}, Egress: millrace.EgressNone, MaxSize: millrace.Size{MilliCPU: 2000, MemoryMB: 4096}}
	share := millrace.Share{RepositoryID: 77, Repository: "calm/app", Priority: 2, Limit: 3}
	want := millrace.PlacementSettings{Strategy: millrace.Spread, Shares: []millrace.Share{share}, Zones: []millrace.ZoneRule{fork}}
	for range 2 { // the second time nothing changes
		got, err := at(millrace.PlacementChange{
			Strategy: new(millrace.Spread), Shares: []millrace.ShareChange{{Repository: "Calm/App", Priority: new(2), Limit: new(3)}},
			Zones: []millrace.ZoneChange{{
				Zone: millrace.ZoneFork, Allowed: new(true), HostLabels: &[]string{" Spare", "outside", "spare", ""}, Egress: new(millrace.EgressNone), MaxSize: &fork.MaxSize,
			}},
		})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("changed: %s, %v", diff, err)
		}
	}
	page, err := w.org.Audit(t.Context(), store.AuditFilter{Action: "placement.changed"})
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("audit %+v, %v", page.Entries, err)
	}
	if diff := cmp.Diff([]millrace.Change{
		{Field: "strategy", Before: "pack", After: "spread"},
		{Field: "calm/app priority", Before: "0", After: "2"},
		{Field: "calm/app limit", Before: "no limit", After: "3"},
		{Field: "pull requests from forks", Before: "off", After: "on"},
		{Field: "host labels of pull requests from forks", After: "outside, spare"},
		{Field: "egress of pull requests from forks", Before: "internet", After: "none"},
		{Field: "largest vCPU of pull requests from forks", Before: "no limit", After: "2"},
		{Field: "largest memory of pull requests from forks", Before: "no limit", After: "4096"},
	}, page.Entries[0].Changes); diff != "" {
		t.Errorf("audit: %s", diff)
	}

	viewer := w.Caller()
	viewer.Role = millrace.RoleMember
	_, err = w.org.ChangePlacement(t.Context(), viewer, millrace.PlacementChange{Strategy: new(millrace.Pack)})
	code(t, err, millrace.Forbidden)
	_, err = w.st.Org(rival.ID).ChangePlacement(t.Context(), rival.Caller(), millrace.PlacementChange{Strategy: new(millrace.Pack), Shares: []millrace.ShareChange{{RepositoryID: 77, Priority: new(0)}}})
	code(t, err, millrace.NotFound)
	for name, change := range map[string]millrace.PlacementChange{
		"strategy":      {Strategy: new(millrace.Strategy("random"))},
		"priority":      {Shares: []millrace.ShareChange{{RepositoryID: 77, Priority: new(6)}}},
		"limit":         {Shares: []millrace.ShareChange{{RepositoryID: 77, Limit: new(-1)}}},
		"zone":          {Zones: []millrace.ZoneChange{{Zone: "dmz"}}},
		"private off":   {Zones: []millrace.ZoneChange{{Zone: millrace.ZonePrivate, Allowed: new(false)}}},
		"egress":        {Zones: []millrace.ZoneChange{{Zone: millrace.ZoneFork, Egress: new(millrace.Egress("lan"))}}},
		"negative size": {Zones: []millrace.ZoneChange{{Zone: millrace.ZoneFork, MaxSize: &millrace.Size{MemoryMB: -1}}}},
		"label":         {Strategy: new(millrace.Pack), Zones: []millrace.ZoneChange{{Zone: millrace.ZoneFork, HostLabels: &[]string{"a b"}}}},
	} {
		if _, err := at(change); millrace.CodeOf(err) != millrace.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := w.org.PlacementSettings(t.Context()); !cmp.Equal(want, got) || err != nil {
		t.Errorf("after what was refused: %+v, %v", got, err)
	}
}
