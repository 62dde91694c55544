package agent

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	healthEvery = 30 * time.Second

	// A host whose disk has less free takes no VM: those that run will want what is left.
	minFreeBytes = 2 << 30
	minFreeShare = 0.05
)

// refuses says why no VM can be started on this host now; "" when one can. A driver that failed is tried again.
func (r *runner) refuses(ctx context.Context) string {
	if err := r.Driver.Prepare(ctx); err != nil {
		r.Log.Error("The VM driver does not work.", "driver", r.Driver.Name(), "error", err)
		return "its VM driver does not work: " + err.Error()
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(cmp.Or(r.Disk, r.Dir), &disk); err != nil {
		return "its disk can't be looked at: " + err.Error()
	}
	return nearlyFull(disk.Bavail*uint64(disk.Bsize), disk.Blocks*uint64(disk.Bsize))
}

// nearlyFull says that a disk is; "" when it is not.
func nearlyFull(free, size uint64) string {
	if float64(free) >= max(minFreeBytes, minFreeShare*float64(size)) {
		return ""
	}
	return fmt.Sprintf("its disk is nearly full (%.1f GB free)", float64(free)/(1<<30))
}

// watchHealth tells the loop whether VMs can be started, until this process ends.
func (r *runner) watchHealth() {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.tell(Refusal{Why: r.refuses(r.base)})
		case <-r.base.Done():
			return
		}
	}
}
