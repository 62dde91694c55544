package pg_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace/pg"
)

func TestStartKeepsData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exec := func(sql string) {
		t.Helper()
		s, err := pg.Start(t.Context(), pg.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}()
		conn, err := pgx.Connect(t.Context(), s.URL("postgres", "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Error(err)
		}
	}
	exec("CREATE TABLE kept (x int)")
	exec("INSERT INTO kept VALUES (1)")
}

func TestStartTakesOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := pg.Start(t.Context(), pg.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	second, err := pg.Start(t.Context(), pg.Options{Dir: dir}) // as after a SIGKILL of whoever started the first
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	if err := first.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/data/postmaster.pid"); err == nil {
		t.Error("a server is left")
	}
}
