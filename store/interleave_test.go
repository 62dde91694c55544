package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Connections are shared by all tenants: 10,000 requests of fifty, some of which are given up on the way, and none sees another's.
func TestInterleavedTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const tenants, workers, each = 50, 20, 500
	all := make([]storetest.Tenant, tenants)
	for i := range all {
		all[i] = storetest.MustCreateOrg(t, w.st, fmt.Sprintf("tenant-%d", i))
		storetest.MustIntake(t, w.st, storetest.Delivery(all[i], int64(10_000+i), millrace.JobQueued))
	}
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			dice := rand.New(rand.NewPCG(1, uint64(worker)))
			for range each {
				me := all[dice.IntN(tenants)]
				ctx, cancel := context.WithCancel(t.Context())
				if dice.IntN(10) == 0 {
					go cancel()
				}
				page, err := w.st.Org(me.ID).Jobs(ctx, store.JobFilter{})
				given := ctx.Err() != nil
				cancel()
				switch {
				case err != nil && given:
				case err != nil:
					t.Error(err)
				case len(page.Jobs) != 1 || page.Jobs[0].Repository != me.Slug+"/app":
					t.Errorf("%s sees %+v", me.Slug, page.Jobs)
				}
			}
		})
	}
	group.Wait()
}
