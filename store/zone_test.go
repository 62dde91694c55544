package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A repository that is made public, or turns out to be a fork's, between two events of a job: the job is in the less
// trusted zone, whichever event comes first.
func TestZoneIsTheLessTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := int64(0)
	zone := func(zones ...millrace.Zone) string {
		n++
		for _, z := range zones {
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, n, millrace.JobQueued, func(j *millrace.Job) { j.Zone, j.Private = z, z == millrace.ZonePrivate }))
		}
		return scalar[string](t, w.root, `SELECT zone || ' ' || private FROM jobs WHERE github_job_id = $1`, n)
	}
	const a, b, c = millrace.ZonePrivate, millrace.ZonePublic, millrace.ZoneFork
	got := []string{zone(a), zone(b), zone(c), zone(a, b), zone(b, a), zone(a, c), zone(c, a), zone(b, c), zone(c, b), zone(c, a, b)}
	want := []string{"private true", "public false", "fork false", "public false", "public false", "fork false", "fork false", "fork false", "fork false", "fork false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
