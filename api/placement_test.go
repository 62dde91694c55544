package api_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store/storetest"
)

func TestPlacementOverREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.calm, 1, millrace.JobQueued))
	token := storetest.MustCreateToken(t, w.st, w.calm)
	const path = "/api/v1/orgs/calm/placement"
	want := client.Placement{Strategy: millrace.Pack, Repositories: []client.Share{}, Zones: []client.ZoneRule{
		{Zone: millrace.ZonePrivate, Allowed: true, HostLabels: []string{}, Egress: millrace.EgressInternet},
		{Zone: millrace.ZonePublic, HostLabels: []string{}, Egress: millrace.EgressInternet},
		{Zone: millrace.ZoneFork, HostLabels: []string{}, Egress: millrace.EgressInternet},
	}}
	same := func(a answer) {
		t.Helper()
		var got client.Placement
		if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	same(w.get(path, token))
	same(w.ask(http.MethodPatch, path, token, `{}`))
	want.Strategy = millrace.Spread
	want.Repositories = []client.Share{{RepositoryID: 77, Repository: "calm/app", Priority: -1, Limit: 4}}
	want.Zones[1] = client.ZoneRule{Zone: millrace.ZonePublic, Allowed: true, HostLabels: []string{"outside"}, Egress: millrace.EgressNone, MaxMilliCPU: 2000}
	same(w.ask(http.MethodPatch, path, token, `{"strategy":"spread","repositories":[{"repository":"calm/app","priority":-1,"limit":4}],
		"zones":[{"zone":"public","allowed":true,"host_labels":["Outside"],"egress":"none","max_milli_cpu":2000,"max_memory_mb":0}]}`))
	want.Zones[1].Allowed = false
	same(w.ask(http.MethodPatch, path, token, `{"zones":[{"zone":"public","allowed":false}]}`))
	want.Repositories = []client.Share{}
	same(w.ask(http.MethodPatch, path, token, `{"repositories":[{"repository_id":77,"priority":0,"limit":0}]}`))
	for body, status := range map[string]int{
		`{"strategy":"random"}`: 422, `{"zones":[{"zone":"dmz"}]}`: 422, `{"zones":[{"zone":"private","allowed":false}]}`: 422,
		`{"zones":[{"zone":"public","max_milli_cpu":1}]}`: 422, `{"zones":[{"zone":"public","egress":"lan"}]}`: 422,
		`{"repositories":[{"repository":"calm/none","priority":1}]}`: 404, `{"repositories":[{"repository":"calm/app","priority":6}]}`: 422, `{"plan":"large"}`: 422,
	} {
		if a := w.ask(http.MethodPatch, path, token, body); a.status != status {
			t.Errorf("%s: %d %s, want %d", body, a.status, a.body, status)
		}
	}
	same(w.get(path, token))
}
