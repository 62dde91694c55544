package main

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/store"
)

// A server that is started while Postgres is away waits for it; one that has the wrong database's name says so at once.
func TestOpenStoreWaitsForPostgres(t *testing.T) {
	t.Parallel()
	postgres, err := pg.Start(t.Context(), pg.Options{Dir: t.TempDir(), Fsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := migrations.Roles(t.Context(), postgres.URL("postgres", "postgres"), "millrace"); err != nil {
		t.Fatal(err)
	}
	cfg := Config{DatabaseURL: postgres.URL("millrace_app", "millrace"), DatabaseSystemURL: postgres.URL("millrace_system", "millrace"), BlobURL: "mem://"}
	log := slog.New(slog.DiscardHandler)

	wrong := cfg
	wrong.DatabaseURL = postgres.URL("millrace_app", "nowhere")
	if _, err := openStore(t.Context(), wrong, log); err == nil || store.Away(err) {
		t.Errorf("a database that there isn't: %v", err)
	}

	pid, err := postgres.PID()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := openStore(short, cfg, log); !store.Away(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it did not wait: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		st, err := openStore(t.Context(), cfg, log)
		if err == nil {
			st.Close()
		}
		opened <- err
	}()
	for err = postgres.Restart(t.Context()); err != nil && t.Context().Err() == nil; {
		err = postgres.Restart(t.Context()) // processes of the killed one are left
	}
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("Postgres is back, and the store was not opened")
	}
}
