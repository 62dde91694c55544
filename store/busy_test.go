package store_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// GitHub, the placer and an agent whose VMs all fail, at the same time and over two servers: nothing fails for another's
// sake and nothing deadlocks.
func TestEverybodyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	servers := []*store.Store{w.st, second}
	const jobs = 60
	var intake, others sync.WaitGroup
	done := make(chan struct{})
	for i := range int64(jobs) {
		intake.Go(func() {
			for _, status := range []millrace.JobStatus{millrace.JobQueued, millrace.JobInProgress, millrace.JobCompleted} {
				d := storetest.Delivery(w.Tenant, i+1, status, func(j *millrace.Job) {
					j.RepositoryID = 1 + i%5
					if status != millrace.JobQueued {
						j.RunnerID = 1000 + i
					}
				})
				if _, err := servers[rand.N(2)].Intake(t.Context(), d); err != nil {
					t.Errorf("intake: %v", err)
				}
			}
		})
	}
	forever := func(what string, do func(*store.Store) error) {
		for _, st := range servers {
			others.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if err := do(st); err != nil {
						t.Errorf("%s: %v", what, err)
						return
					}
				}
			})
		}
	}
	forever("placing", func(st *store.Store) error {
		_, err := st.Place(t.Context(), w.ID, store.Unknown, func(p millrace.Pass) (d millrace.Decision) {
			covered := map[millrace.JobID]bool{}
			for _, v := range p.VMs {
				if v.RanJob.IsZero() && v.State != millrace.VMStopping {
					covered[v.ForJob] = true
				}
			}
			d.Wait = map[millrace.JobID]millrace.WaitReason{}
			for _, j := range p.Jobs {
				switch {
				case covered[j.ID]:
				case len(d.Place)+len(p.VMs) < 20:
					d.Place = append(d.Place, millrace.Placement{JobID: j.ID, HostID: w.host.ID, Arch: millrace.AMD64})
				default:
					d.Wait[j.ID] = millrace.WaitReason{Code: millrace.WaitPlanLimit, Text: fmt.Sprintf("%d VMs", len(p.VMs))}
				}
			}
			return d
		})
		return err
	})
	forever("observing", func(st *store.Store) error {
		desired, err := st.Org(w.ID).Desired(t.Context(), w.host.ID)
		if err != nil {
			return err
		}
		list := make([]millrace.Observation, len(desired.VMs))
		for i, v := range desired.VMs {
			list[i] = millrace.Observation{VMID: v.ID, Epoch: v.Epoch, State: millrace.VMGone, Reason: "no kernel"}
		}
		_, err = st.Org(w.ID).Observe(t.Context(), w.host.ID, w.host.Epoch, "", list)
		return err
	})
	intake.Wait()
	close(done)
	others.Wait()
	if n := scalar[int](t, w.root, `SELECT count(*) FROM jobs WHERE status = 'completed'`); n != jobs {
		t.Errorf("%d of %d jobs are completed", n, jobs)
	}
	w.st.Close()
	second.Close()
	if n := scalar[int](t, w.root, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}
