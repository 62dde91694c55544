package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/store/storetest"
)

// Each task is handed on once, however many servers relay; what can't be handed on stays.
func TestRelayOutbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.OpenAt(t, w.db, w.now)
	const tasks = 450
	if _, err := w.root.Exec(t.Context(), `INSERT INTO outbox (org_id, kind, args, at) SELECT $1, 'vm.retire', to_jsonb(i), $2 FROM generate_series(1, $3::int) i`, w.ID, w.now(), tasks); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the queue is full")
	if _, err := w.st.RelayOutbox(t.Context(), func(context.Context, pgx.Tx, string, []byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("relaying into a full queue: %v", err)
	}
	if n := len(w.tasks()); n != tasks {
		t.Fatalf("%d tasks are left of %d", n, tasks)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	insert := func(_ context.Context, _ pgx.Tx, kind string, args []byte) error {
		mu.Lock()
		defer mu.Unlock()
		seen[kind+string(args)]++
		return nil
	}
	var relays sync.WaitGroup
	for i := range 6 {
		st := w.st
		if i%2 == 1 {
			st = second
		}
		relays.Go(func() {
			for {
				n, err := st.RelayOutbox(t.Context(), insert)
				if err != nil {
					t.Error(err)
				}
				if n == 0 {
					return
				}
			}
		})
	}
	relays.Wait()
	if len(seen) != tasks || len(w.tasks()) != 0 {
		t.Errorf("%d tasks were handed on, %d are left", len(seen), len(w.tasks()))
	}
	for task, n := range seen {
		if n != 1 {
			t.Errorf("%s was handed on %d times", task, n)
		}
	}
}

// A server is ready when it can commit and the schema is at least its own.
func TestReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.st.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.root.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id = $1`, migrations.Latest()); err != nil {
		t.Fatal(err)
	}
	if err := w.st.Ready(t.Context()); err == nil || millrace.CodeOf(err) != millrace.Internal {
		t.Errorf("with an older schema: %v", err)
	}
	if _, err := w.root.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, migrations.Latest()+1); err != nil {
		t.Fatal(err)
	}
	if err := w.st.Ready(t.Context()); err != nil {
		t.Errorf("with a newer schema: %v", err)
	}
	if _, err := w.root.Exec(t.Context(), `ALTER DATABASE `+w.db.Name+` SET default_transaction_read_only = on`); err != nil {
		t.Fatal(err)
	}
	standby := storetest.OpenAt(t, w.db, nil)
	if err := standby.Ready(t.Context()); err == nil {
		t.Error("a server that can't commit is ready")
	}
}
