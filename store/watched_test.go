package store_test

import (
	"slices"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Whichever server a console is read from, the one that holds its host's poll hears of it.
func TestWatchIsHeardEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	read, other := w.vm(w.place(w.queue(1))), w.vm(w.place(w.queue(2)))
	for _, st := range []*store.Store{w.st, second} {
		if got := st.Watched([]millrace.VM{read, other}); len(got) != 0 {
			t.Errorf("before anybody reads: %v", got)
		}
	}
	w.st.Watch(read)
	for _, st := range []*store.Store{w.st, second} {
		for { // as a poll does: what woke it may have been that the VM was placed
			poll := st.Bus.On(store.TopicHost(read.HostID))
			if slices.Equal(st.Watched([]millrace.VM{read, other}), []millrace.VMID{read.ID}) {
				break
			}
			closed(t, poll, "that it is watched")
		}
	}
	other.State = millrace.VMGone
	w.st.Watch(other)
	if got := w.st.Watched([]millrace.VM{other}); len(got) != 0 {
		t.Errorf("one that is gone: %v", got)
	}
}
