package store_test

import (
	"context"
	"sync"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Of requests that overtook each other between two writings the highest sequence is kept: what is below it is a replay.
func TestHeardKeepsTheHighestSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, sequence := range []int64{3, 9, 5} {
		w.st.Heard(w.ID, w.host.ID, w.host.Epoch, sequence)
	}
	w.st.Heard(w.ID, w.host.ID, w.host.Epoch-1, 100)
	if err := w.st.FlushHeard(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := w.st.HostCredentials(t.Context(), w.host.ID)
	if err != nil || c.Sequence != 9 {
		t.Errorf("sequence %d, %v", c.Sequence, err)
	}
}

// What can't be written is not forgotten: hosts must not seem silent because the database was.
func TestFlushHeardTriesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.advance(millrace.OfflineAfter)
	w.st.Heard(w.ID, w.host.ID, w.host.Epoch, 7)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.st.FlushHeard(ended); err == nil {
		t.Fatal("flushed without a database")
	}
	if err := w.st.FlushHeard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.markLost(); n != 0 {
		t.Errorf("%d VMs are lost", n)
	}
	c, err := w.st.HostCredentials(t.Context(), w.host.ID)
	if err != nil || c.Sequence != 7 {
		t.Errorf("sequence %d, %v", c.Sequence, err)
	}
}

// Servers that heard the same hosts write them at the same time.
func TestFlushHeardFromServersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	hosts := []millrace.HostID{w.host.ID}
	for n := byte(10); n < 40; n++ {
		hosts = append(hosts, storetest.MustEnroll(t, w.st, w.Tenant, "rack-"+string('a'+rune(n)), key(n), key(n)).ID)
	}
	var flushes sync.WaitGroup
	for _, st := range []interface {
		Heard(millrace.OrgID, millrace.HostID, int64, int64)
		FlushHeard(context.Context) error
	}{w.st, second} {
		flushes.Go(func() {
			for sequence := range int64(50) {
				for _, host := range hosts {
					st.Heard(w.ID, host, 1, sequence)
				}
				if err := st.FlushHeard(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	flushes.Wait()
}
