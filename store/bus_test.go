package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// heard waits until st has heard all that was announced so far: announcements come in the order of their commits.
func (w *world) heard(st *store.Store) {
	w.t.Helper()
	mark := st.Bus.On("mark")
	if _, err := w.root.Exec(w.t.Context(), `SELECT pg_notify('millrace', 'mark')`); err != nil {
		w.t.Fatal(err)
	}
	closed(w.t, mark, "the mark")
}

// When the listening connection breaks, what was announced meanwhile is lost: everyone is woken, and listens again.
func TestReconnectWakesEveryone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topics := []string{store.TopicOrg(w.ID), store.TopicOrg(12345), store.TopicDemand(w.ID), store.TopicHost(w.host.ID), store.TopicTasks()}
	var woken []<-chan struct{}
	for _, topic := range topics {
		woken = append(woken, w.st.Bus.On(topic))
	}
	w.st.Bus.TakeDemand()
	cut := scalar[int](t, w.root, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = 'millrace_system' AND query = 'LISTEN millrace'`)
	if cut != 1 {
		t.Fatalf("%d listening connections", cut)
	}
	for i, ch := range woken {
		closed(t, ch, topics[i])
	}
	<-w.st.Bus.Demands()
	if _, all := w.st.Bus.TakeDemand(); !all {
		t.Error("the placer isn't told to look at every org")
	}
	again := w.st.Bus.On(store.TopicDemand(w.ID))
	w.queue(1)
	closed(t, again, "demand after the reconnection")
}

// Announcements reach every server, with the commit that makes them true; what is rolled back is not announced.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	for _, st := range []*store.Store{w.st, second} {
		w.heard(st)
		st.Bus.TakeDemand()
	}
	here, there, elsewhere := w.st.Bus.On(store.TopicDemand(w.ID)), second.Bus.On(store.TopicDemand(w.ID)), second.Bus.On(store.TopicDemand(w.ID+1))
	if _, err := w.st.Intake(t.Context(), storetest.Delivery(w.Tenant, 1, "no such status")); err == nil {
		t.Fatal("a status that doesn't exist was stored")
	}
	select {
	case <-here:
		t.Error("a commit that failed was announced")
	default:
	}
	w.queue(1)
	closed(t, here, "demand on the server that stored it")
	closed(t, there, "demand on the other server")
	select {
	case <-elsewhere:
		t.Error("another org's demand was announced")
	default:
	}
	<-second.Bus.Demands()
	demand, all := second.Bus.TakeDemand()
	if asked := demand[w.ID]; all || len(demand) != 1 || asked.Urgency != store.AtOnce || len(asked.Commits) != 1 || !asked.Known() {
		t.Errorf("demand %v, all %t", demand, all)
	}
}

// Placement is woken by what may change what it decides, and by nothing else: most deliveries tell it nothing.
func TestDemandIsAnnouncedForNewsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.heard(w.st)
	deliver := func(id int64, status millrace.JobStatus, runner int64) (woken string) {
		t.Helper()
		w.st.Bus.TakeDemand()
		shown := w.st.Bus.On(store.TopicOrg(w.ID))
		storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, id, status, func(j *millrace.Job) { j.RunnerID = runner }))
		w.heard(w.st)
		closed(t, shown, "what people see")
		demand, _ := w.st.Bus.TakeDemand()
		switch asked, ok := demand[w.ID]; {
		case !ok:
			return "not"
		case asked.Urgency == store.CanWait:
			return "soon"
		default:
			return "at once"
		}
	}
	for _, step := range []struct {
		what   string
		id     int64
		status millrace.JobStatus
		runner int64
		want   string
	}{
		{"a job waits", 1, millrace.JobQueued, 0, "at once"},
		{"the same once more", 1, millrace.JobQueued, 0, "not"},
		{"a runner took it", 1, millrace.JobInProgress, 5, "soon"},
		{"late, that it waits", 1, millrace.JobQueued, 0, "not"},
		{"it is over", 1, millrace.JobCompleted, 5, "not"},
		{"another, of which the end is told first", 2, millrace.JobCompleted, 6, "soon"},
		{"that it began", 2, millrace.JobInProgress, 6, "not"},
		{"one that waits", 3, millrace.JobQueued, 0, "at once"},
		{"it is cancelled", 3, millrace.JobCompleted, 0, "soon"},
	} {
		if got := deliver(step.id, step.status, step.runner); got != step.want {
			t.Errorf("%s: placement woken %s, want %s", step.what, got, step.want)
		}
	}
}

// More topics than a payload holds wake everyone: none may be cut off.
func TestOverlongAnnouncementWakesEveryone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := new(millrace.Source)
	var topics []string
	for range 200 {
		topics = append(topics, store.TopicHost(millrace.NewHostID(ids, w.now())))
	}
	if got := store.Payload(topics); len(got) == 0 || len(got) > 7999 {
		t.Errorf("200 hosts make %d bytes", len(got))
	}
	for range 100 {
		topics = append(topics, store.TopicHost(millrace.NewHostID(ids, w.now())))
	}
	if got := store.Payload(topics); got != "" {
		t.Errorf("300 hosts make %d bytes; Postgres refuses more than 7999", len(got))
	}
	idle := w.st.Bus.On(store.TopicHost(millrace.NewHostID(ids, w.now())))
	if _, err := w.root.Exec(t.Context(), `SELECT pg_notify('millrace', '')`); err != nil {
		t.Fatal(err)
	}
	closed(t, idle, "an empty payload")
}

// When the telling connection breaks, other servers may have missed something: they are woken, all of them, once it is back.
func TestTellingIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	there := second.Bus.On(store.TopicDemand(w.ID))
	w.queue(1)
	closed(t, there, "the first demand")
	elsewhere := second.Bus.On(store.TopicDemand(w.ID + 1))
	if cut := scalar[int](t, w.root, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = 'millrace_system' AND query LIKE 'SELECT pg_notify(%'`); cut != 1 {
		t.Fatalf("%d connections that told something", cut)
	}
	w.queue(2)
	closed(t, elsewhere, "everyone")
	there = second.Bus.On(store.TopicDemand(w.ID))
	w.queue(3)
	closed(t, there, "demand after the reconnection")
}

// Who goes away while a transaction waits costs it neither its connection nor its end.
func TestTransactionOutlastsItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.org.RestartAgent(t.Context(), w.Caller(), w.host.ID); err != nil {
		t.Fatal(err)
	}
	blocker := w.hold(`SELECT FROM hosts WHERE host_id = $1 FOR UPDATE`, w.host.ID.UUID())
	before := w.st.AppPool().Stat().NewConnsCount()
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.org.RotateKeys(ctx, w.Caller(), w.host.ID) }()
	w.waiting(1)
	leave()
	if err := blocker.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if desired, err := w.org.Desired(t.Context(), w.host.ID); err != nil || !desired.Rotate {
		t.Errorf("%+v, %v", desired, err)
	}
	if n := w.st.AppPool().Stat().NewConnsCount() - before; n != 0 {
		t.Errorf("%d new connections", n)
	}
	if err := w.org.RotateKeys(ctx, w.Caller(), w.host.ID); !errors.Is(err, context.Canceled) {
		t.Errorf("begun after its caller left: %v", err)
	}
}
