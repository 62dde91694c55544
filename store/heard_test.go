package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
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

func TestFlushHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stored := func() (c store.HostCredentials) {
		t.Helper()
		c, err := w.st.HostCredentials(t.Context(), w.host.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w.beat(w.host.ID, w.host.Epoch, 9)
	w.beat(w.host.ID, w.host.Epoch, 5) // a request that was overtaken
	if got := stored().Sequence; got != 9 {
		t.Errorf("the highest sequence is %d, want 9", got)
	}
	if _, err := w.org.StartHost(t.Context(), w.host.ID, "", storetest.Facts()); err != nil {
		t.Fatal(err)
	}
	w.beat(w.host.ID, w.host.Epoch, 50) // of the epoch before
	if got := stored(); got.Sequence != 0 || got.Epoch != w.host.Epoch+1 {
		t.Errorf("epoch %d, sequence %d; want %d, 0", got.Epoch, got.Sequence, w.host.Epoch+1)
	}
	w.advance(millrace.OfflineAfter)
	woken := w.st.Bus.On(store.TopicDemand(w.ID))
	w.beat(w.host.ID, w.host.Epoch+1, 1)
	closed(t, woken, "the return of a host")
	if err := w.st.FlushHeard(t.Context()); err != nil {
		t.Errorf("with nothing heard: %v", err)
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

// A host's history says for how long it wasn't heard, unless it was this service that didn't hear.
func TestReturnOfAHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	returns := func() (list [][]millrace.Change) {
		t.Helper()
		page, err := w.org.Audit(t.Context(), store.AuditFilter{Action: "host.returned", Subject: w.host.ID.String()})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			if e.Actor.Kind != millrace.ActorHost || e.Actor.Name != "rack-1" || e.Actor.ID != w.host.ID.String() {
				t.Errorf("by %+v", e.Actor)
			}
			list = append(list, e.Changes)
		}
		return list
	}
	change := func(before, after time.Time) []millrace.Change {
		return []millrace.Change{{Field: "heard", Before: before.UTC().Format(time.RFC3339), After: after.UTC().Format(time.RFC3339)}}
	}
	start := func() {
		t.Helper()
		if _, err := w.org.StartHost(t.Context(), w.host.ID, "", storetest.Facts()); err != nil {
			t.Fatal(err)
		}
	}
	w.advance(millrace.OfflineAfter - time.Second)
	start()
	w.advance(millrace.OfflineAfter - time.Second)
	w.beat(w.host.ID, w.host.Epoch+1, 1)
	if got := returns(); len(got) != 0 {
		t.Errorf("it was heard all the time, but for pauses: %v", got)
	}
	first := w.now()
	w.advance(millrace.OfflineAfter)
	second := w.now()
	w.beat(w.host.ID, w.host.Epoch+1, 2)
	w.advance(time.Hour)
	start()
	w.beat(w.host.ID, w.host.Epoch+2, 1)
	want := [][]millrace.Change{change(second, w.now()), change(first, second)}
	if diff := cmp.Diff(want, returns()); diff != "" {
		t.Error(diff)
	}
	w.advance(time.Hour)
	again := storetest.OpenAt(t, w.db, w.now)
	again.Heard(w.ID, w.host.ID, w.host.Epoch+2, 2)
	if err := again.FlushHeard(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.advance(time.Hour)
	if _, err := storetest.OpenAt(t, w.db, w.now).Org(w.ID).StartHost(t.Context(), w.host.ID, "", storetest.Facts()); err != nil {
		t.Fatal(err)
	}
	if got := returns(); len(got) != 2 {
		t.Errorf("a service that was away says so of the host: %v", got)
	}
}

// A service that was down for long doesn't take its own silence for its hosts'.
func TestRestartLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.st.Close()
	w.advance(time.Hour)
	again := storetest.OpenAt(t, w.db, w.now)
	lost := func() int {
		t.Helper()
		n, err := again.MarkLost(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := lost(); n != 0 {
		t.Errorf("%d VMs are lost at the start", n)
	}
	w.advance(millrace.Heartbeat)
	again.Heard(w.ID, w.host.ID, w.host.Epoch, 1)
	if err := again.FlushHeard(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.advance(millrace.OfflineAfter - millrace.Heartbeat)
	if n := lost(); n != 0 {
		t.Errorf("%d VMs of a host that spoke are lost", n)
	}
	w.advance(millrace.Heartbeat)
	if n := lost(); n != 1 {
		t.Errorf("%d VMs of a host that stays silent are lost", n)
	}
	row, err := again.Org(w.ID).VM(t.Context(), vm)
	if err != nil || row.State != millrace.VMLost {
		t.Errorf("%+v, %v", row, err)
	}
}

// While the database is away nobody can be heard: nobody is silent, then, nor gone.
func TestOutageLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.place(w.queue(1))
	w.exec(`UPDATE hosts SET ephemeral = true`)
	w.advance(millrace.OfflineAfter)
	silent := func(when string, lost, removed int) {
		t.Helper()
		if n := w.markLost(); n != lost {
			t.Errorf("%s: %d VMs are lost, want %d", when, n, lost)
		}
		if n, err := w.st.RemoveVanished(t.Context()); err != nil || n != removed {
			t.Errorf("%s: %d hosts are removed, want %d; %v", when, n, removed, err)
		}
	}
	w.beat(w.host.ID, w.host.Epoch, 1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	w.advance(time.Hour)
	if err := w.st.FlushHeard(ended); err == nil {
		t.Fatal("flushed without a database")
	}
	silent("a database that refused is back", 0, 0)

	w.advance(millrace.OfflineAfter - time.Second)
	w.beat(w.host.ID, w.host.Epoch, 2)
	lock, err := w.root.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), `LOCK TABLE host_beats`); err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error)
	go func() { flushed <- w.st.FlushHeard(t.Context()) }()
	for waits := false; !waits; {
		if err := lock.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'host_beats'::regclass AND NOT granted)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	w.advance(time.Hour)
	silent("a database doesn't answer", 0, 0) // nor would these be answered
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	silent("it answers again", 0, 0)

	w.advance(millrace.OfflineAfter)
	silent("its hosts stay silent", 1, 1)
}
