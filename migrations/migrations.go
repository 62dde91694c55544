// Package migrations holds the schema: SQL files that goose applies in order as the role that owns the tables, and the
// roles themselves. River's tables live in a schema of their own, made by River's migrations.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed 0*.sql
var files embed.FS

//go:embed roles.sql
var roles string

// RiverSchema is where the task queue's tables live; the app role has no right on it.
const RiverSchema = "river"

// Roles makes the database, if it is missing, and the three roles. url is a superuser's, of any database of the cluster.
func Roles(ctx context.Context, superuser, database string) error {
	conn, err := pgx.Connect(ctx, superuser)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize()); err != nil {
			return err
		}
	}
	u, err := url.Parse(superuser)
	if err != nil {
		return err
	}
	u.Path = "/" + database
	inside, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return err
	}
	defer inside.Close(context.WithoutCancel(ctx))
	if _, err := inside.Exec(ctx, roles); err != nil {
		return fmt.Errorf("making the roles: %w", err)
	}
	return nil
}

// Up applies every migration that is missing. url is millrace_migrate's. It may run in several processes at once.
func Up(ctx context.Context, url string) error {
	return with(ctx, url, func(pool *pgxpool.Pool, provider *goose.Provider) error {
		if _, err := provider.Up(ctx); err != nil {
			return err
		}
		if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+RiverSchema); err != nil {
			return err
		}
		river, err := riverMigrator(pool)
		if err != nil {
			return err
		}
		if _, err := river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		_, err = pool.Exec(ctx, `
			GRANT USAGE ON SCHEMA river TO millrace_system;
			GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO millrace_system;
			GRANT USAGE ON ALL SEQUENCES IN SCHEMA river TO millrace_system`)
		if err != nil {
			return err
		}
		_, err = pool.Exec(ctx, `SELECT keep_partitions($1)`, time.Now())
		return err
	})
}

// Down takes back the last migration.
func Down(ctx context.Context, url string) error {
	return with(ctx, url, func(_ *pgxpool.Pool, provider *goose.Provider) error {
		_, err := provider.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		return err
	})
}

// Status lists the migrations and when each was applied.
func Status(ctx context.Context, url string, w io.Writer) error {
	return with(ctx, url, func(_ *pgxpool.Pool, provider *goose.Provider) error {
		statuses, err := provider.Status(ctx)
		if err != nil {
			return err
		}
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, s := range statuses {
			applied := "missing"
			if s.State == goose.StateApplied {
				applied = s.AppliedAt.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(out, "%s\t%s\n", s.Source.Path, applied)
		}
		return out.Flush()
	})
}

// Latest is the version that Up brings the schema to.
func Latest() int64 {
	sources, err := goose.NewProvider(goose.DialectPostgres, nopDB(), files)
	if err != nil {
		panic("migrations: " + err.Error()) // the embedded files are ours
	}
	all := sources.ListSources()
	return all[len(all)-1].Version
}

func nopDB() *sql.DB { return stdlib.OpenDB(pgx.ConnConfig{}) }

func riverMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: RiverSchema, Logger: slog.New(slog.DiscardHandler)})
}

func with(ctx context.Context, url string, do func(*pgxpool.Pool, *goose.Provider) error) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return err
	}
	// One process at a time: the key is this program's own.
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reaching the database as its owner: %w", err)
	}
	defer conn.Release()
	const key = 0x6d696c6c // "mill"
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return err
	}
	defer conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key) //nolint:errcheck // the session's end unlocks too
	return do(pool, provider)
}
