package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Connections are shared by all tenants: 10,000 requests of fifty, some of which are given up on the way or panic in the midst
// of a transaction, and none sees another's.
func TestInterleavedTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const tenants, workers, each = 50, 20, 500
	all := make([]storetest.Tenant, tenants)
	for i := range all {
		all[i] = storetest.MustCreateOrg(t, w.st, fmt.Sprintf("tenant-%d", i))
		storetest.MustIntake(t, w.st, storetest.Delivery(all[i], int64(10_000+i), millrace.JobQueued))
	}
	var looks, panics atomic.Int64
	st := storetest.OpenAt(t, w.db, func() time.Time { // which a transaction looks at once it has its tenant
		if looks.Add(1)%50 == 0 {
			panic("the clock fell from the wall")
		}
		return w.now()
	})
	read := func(ctx context.Context, org millrace.OrgID) (page store.JobPage, err error) {
		defer func() {
			if p := recover(); p != nil {
				panics.Add(1)
				err = context.Canceled
			}
		}()
		return st.Org(org).Jobs(ctx, store.JobFilter{})
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
				page, err := read(ctx, me.ID)
				given := ctx.Err() != nil
				cancel()
				switch {
				case err != nil && (given || errors.Is(err, context.Canceled)):
				case err != nil:
					t.Error(err)
				case len(page.Jobs) != 1 || page.Jobs[0].Repository != me.Slug+"/app":
					t.Errorf("%s sees %+v", me.Slug, page.Jobs)
				}
			}
		})
	}
	group.Wait()
	if panics.Load() < 100 {
		t.Errorf("only %d requests panicked", panics.Load())
	}
}
