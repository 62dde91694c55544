package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// WatchVMs follows up the VMs that should have got further by now: what [millrace.VM.Overdue] says of each. It returns how
// many were overdue.
func (s *Store) WatchVMs(ctx context.Context) (n int, err error) { return s.watchVMs(ctx, 1000) }

// watchVMs looks at all of them, so many at a time: those that run on as they should may be any number.
func (s *Store) watchVMs(ctx context.Context, atOnce int) (n int, err error) {
	for last := (millrace.VM{}); ; {
		overdue, looked, err := s.watchNext(ctx, &last, atOnce)
		n += overdue
		if err != nil || looked < atOnce {
			return n, err
		}
	}
}

// watchNext looks at those after the last, which it moves on, and returns how many of how many were overdue.
func (s *Store) watchNext(ctx context.Context, last *millrace.VM, atOnce int) (n, looked int, err error) {
	type watched struct {
		millrace.VM
		seen      *time.Time
		completed *time.Time
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		list, err := many(ctx, tx, func(row pgx.CollectableRow) (w watched, err error) {
			return w, row.Scan(append(vmTargets(&w.VM), &w.seen, &w.completed)...)
		}, `
			SELECT `+vmColumns+`, CASE WHEN h.removed_at IS NULL THEN b.seen_at END, j.completed_at
			FROM vms v JOIN host_beats b ON (b.org_id, b.host_id) = (v.org_id, v.host_id) JOIN hosts h ON (h.org_id, h.host_id) = (v.org_id, v.host_id)
				LEFT JOIN jobs j ON (j.org_id, j.job_id) = (v.org_id, v.ran_job)
			WHERE v.gone_at IS NULL AND v.changed_at <= $1 AND (v.org_id, v.vm_id) > ($2, $3)
			ORDER BY v.org_id, v.vm_id LIMIT $4 FOR UPDATE OF v SKIP LOCKED`, tx.now.Add(-millrace.OverdueAtLeast), last.OrgID, last.ID, atOnce)
		if err != nil || len(list) == 0 {
			return err
		}
		looked, *last = len(list), list[len(list)-1].VM
		var b pgx.Batch
		failed := map[millrace.OrgID]*failures{}
		for _, w := range list {
			v := w.VM
			overdue := v.Overdue(val(w.seen), val(w.completed), tx.now)
			switch overdue.Do {
			case millrace.OverdueNothing:
				continue
			case millrace.OverdueForget:
				if err := v.To(millrace.VMGone, tx.now); err != nil {
					return err
				}
			case millrace.OverdueRetire, millrace.OverdueRetry:
				if v.RetireReason != "" {
					continue // it is being retired; the task is repeated until it is done
				}
				v.RetireReason = overdue.Reason
				tx.queueTask(&b, v.OrgID, millrace.RetireVM{OrgID: v.OrgID, VMID: v.ID})
				if overdue.Do == millrace.OverdueRetry {
					if v.State == millrace.VMOnline {
						tx.queueTask(&b, v.OrgID, millrace.CheckRunnerGroup{OrgID: v.OrgID, JobID: v.ForJob})
					}
					f := failed[v.OrgID]
					if f == nil {
						f = &failures{}
						failed[v.OrgID] = f
					}
					f.jobs, f.reasons = append(f.jobs, v.ForJob.UUID()), append(f.reasons, overdue.Reason)
				}
			}
			n++
			tx.queueVM(&b, v)
			tx.announceDemand(v.OrgID)
		}
		for _, w := range list { // in order
			if f := failed[w.OrgID]; f != nil {
				tx.queueFailures(&b, w.OrgID, *f)
				delete(failed, w.OrgID)
			}
		}
		if b.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	return n, looked, err
}
