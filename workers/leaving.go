package workers

import (
	"context"
	"maps"
	"time"

	"github.com/riverqueue/river"

	"github.com/millrace-ci/millrace"
)

const (
	eraseRows   = 5_000           // of one transaction, which takes some 100 ms
	eraseAtOnce = 200             // transactions of one try: well within a task's minute
	vmPause     = 2 * time.Second // while they hold back the erasure
)

// eraseOrg erases a deleted org: once no VM of it is live, its blobs and then its rows. Whatever it is interrupted in, it
// goes on with what is left.
func (w *Workers) eraseOrg(ctx context.Context, t millrace.EraseOrg) error {
	live, err := w.store.EndVMs(ctx, t.OrgID)
	switch {
	case millrace.CodeOf(err) == millrace.Conflict: // the org is not deleted, and trying again will not make it so
		return river.JobCancel(err)
	case err != nil:
		return err
	case live > 0:
		return river.JobSnooze(vmPause)
	}
	// The place for uninstalling the App at GitHub: the installations are known until the rows are erased.
	blobs, err := w.store.EraseBlobs(ctx, t.OrgID)
	if err != nil {
		return err
	}
	counts := map[string]int64{}
	for range eraseAtOnce {
		erased, all, err := w.store.EraseOrg(ctx, t.OrgID, eraseRows)
		if err != nil {
			return err
		}
		for table, n := range erased {
			counts[table] += n
		}
		if !all {
			continue
		}
		// A console that was on its way while its VM's row was still there; none is accepted any more.
		late, err := w.store.EraseBlobs(ctx, t.OrgID)
		if err == nil && len(counts) > 0 {
			w.log.Info("a deleted org is erased; no table holds a row of it", "org", t.OrgID, "rows", sum(counts), "tables", counts, "blobs", blobs+late)
		}
		return err
	}
	w.log.Info("a deleted org is being erased", "org", t.OrgID, "rows", sum(counts), "tables", counts, "blobs", blobs)
	return river.JobSnooze(0)
}

func sum(counts map[string]int64) (total int64) {
	for n := range maps.Values(counts) {
		total += n
	}
	return total
}
