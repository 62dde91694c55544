package migrations_test

import (
	"os"
	"testing"

	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
)

// Up may be repeated, and every migration can be taken back and applied again.
func TestUpDownUp(t *testing.T) {
	t.Parallel()
	server, err := pg.Start(t.Context(), pg.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		if err := migrations.Roles(t.Context(), server.URL("postgres", "postgres"), "millrace"); err != nil {
			t.Fatal(err)
		}
	}
	url := server.URL("millrace_migrate", "millrace")
	for range 2 {
		if err := migrations.Up(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	for range migrations.Latest() {
		if err := migrations.Down(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Status(t.Context(), url, os.Stdout); err != nil {
		t.Fatal(err)
	}
}
