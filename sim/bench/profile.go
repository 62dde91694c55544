package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"

	"github.com/jackc/pgx/v5"
)

// profileWhile begins to profile the server, Postgres and this process, if that is asked for. The function it returns writes what
// came of it: NAME.pprof, NAME.bench.pprof, and NAME.sql, the statements that took the longest and, since the start, what was written.
func (f *fleet) profileWhile(ctx context.Context, name string) (func() error, error) {
	if f.o.profile == "" {
		return func() error { return nil }, nil
	}
	conn, err := pgx.Connect(ctx, f.postgres.URL("postgres", database))
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	if _, err := conn.Exec(ctx, `SELECT pg_stat_statements_reset()`); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	profiledSelf, err := profileSelf(filepath.Join(f.o.profile, name+".bench.pprof"))
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	profiled := make(chan error, 1)
	go func() { profiled <- f.profileServer(ctx, name) }()
	return func() error {
		defer conn.Close(ctx)
		return errors.Join(profiledSelf(), f.writeStatements(ctx, conn, name), <-profiled)
	}, nil
}

// profileSelf profiles this process until the function it returns is called.
func profileSelf(path string) (stop func() error, err error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// profileServer has the server profile itself for a part of the time.
func (f *fleet) profileServer(ctx context.Context, name string) error {
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", f.metrics, max(1, int(f.o.length.Seconds()*0.8)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.o.profile, name+".pprof"), content, 0o600)
}

func (f *fleet) writeStatements(ctx context.Context, conn *pgx.Conn, name string) error {
	rows, err := conn.Query(ctx, `
		SELECT calls, total_exec_time, total_plan_time, jit_functions, shared_blks_hit + shared_blks_read, query FROM pg_stat_statements ORDER BY total_exec_time + total_plan_time DESC LIMIT 40`)
	if err != nil {
		return err
	}
	var text strings.Builder
	var calls, jit, pages int64
	var exec, plan float64
	var query string
	_, err = pgx.ForEachRow(rows, []any{&calls, &exec, &plan, &jit, &pages, &query}, func() error {
		fmt.Fprintf(&text, "%6d calls, %.3f ms each, %.0f ms, of which %.0f planned; %.1f pages each; jit %d\t%s\n", calls, (exec+plan)/float64(calls), exec+plan, plan, float64(pages)/float64(calls), jit, strings.Join(strings.Fields(query), " "))
		return nil
	})
	if err != nil {
		return err
	}
	rows, err = conn.Query(ctx, `
		SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd > 100 ORDER BY n_tup_ins + n_tup_upd DESC`)
	if err != nil {
		return err
	}
	var table string
	var inserted, updated, hot int64
	_, err = pgx.ForEachRow(rows, []any{&table, &inserted, &updated, &hot}, func() error {
		fmt.Fprintf(&text, "%-24s %7d rows inserted, %7d updated, of which %7d without their indexes\n", table, inserted, updated, hot)
		return nil
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.o.profile, name+".sql"), []byte(text.String()), 0o600)
}
