package pg_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

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
		defer stop(t, s)
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

// stop stops a server, and fails the test if its postmaster still runs then.
func stop(t *testing.T, s *pg.Server) {
	t.Helper()
	pid, err := s.PID()
	if err == nil {
		err = s.Stop()
	}
	if err != nil {
		t.Error(err)
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		t.Errorf("%s is left", exe)
	}
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

// A server that was killed comes back where it was, with what it had committed.
func TestRestart(t *testing.T) {
	t.Parallel()
	s, err := pg.Start(t.Context(), pg.Options{Dir: t.TempDir(), Fsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	exec := func(sql string) {
		t.Helper()
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
	pid, err := s.PID()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for err = s.Restart(t.Context()); err != nil && time.Now().Before(deadline); { // its children go by themselves
		err = s.Restart(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	exec("INSERT INTO kept VALUES (1)")
}
