package store_test

import (
	"testing"
	"time"
)

// However many VMs there are, each of them is looked at.
func TestWatchVMsLooksAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for job := range int64(4) {
		w.place(w.queue(job + 1))
	}
	w.advance(4 * time.Minute)
	w.beat(w.host.ID, w.host.Epoch, 1)
	for i, want := range []int{4, 0} {
		if n, err := w.st.WatchVMsAtOnce(t.Context(), 2); n != want || err != nil {
			t.Errorf("time %d: %d are overdue, want %d; %v", i+1, n, want, err)
		}
	}
}
