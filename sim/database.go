package sim

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
)

// Cluster is a Postgres of the simulator's own, without fsync: each day gets a copy of a migrated database.
type Cluster struct {
	dir    string
	server *pg.Server
	made   atomic.Int64
}

const template = "sim_template"

// NewCluster starts the Postgres.
func NewCluster(ctx context.Context) (_ *Cluster, err error) {
	c := &Cluster{}
	if c.dir, err = os.MkdirTemp("", "mrsim"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Stop()
		}
	}()
	settings := map[string]string{
		"autovacuum": "off", "jit": "off",
		"track_counts": "off", "update_process_title": "off", "wal_level": "minimal", "max_wal_senders": "0", // nobody reads them
	}
	if c.server, err = pg.Start(ctx, pg.Options{Dir: c.dir, Settings: settings}); err != nil {
		return nil, err
	}
	superuser := c.server.URL("postgres", "postgres")
	if err := migrations.Roles(ctx, superuser, template); err != nil {
		return nil, err
	}
	return c, migrations.Up(ctx, c.server.URL("millrace_migrate", template))
}

// New makes a migrated, empty database, and returns what drops it.
func (c *Cluster) New(ctx context.Context) (Database, func() error, error) {
	name := fmt.Sprintf("day_%d", c.made.Add(1))
	do := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, c.server.URL("postgres", "postgres"))
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	if err := do(ctx, `CREATE DATABASE `+name+` TEMPLATE `+template+` STRATEGY wal_log`); err != nil {
		return Database{}, nil, err
	}
	drop := func() error { return do(context.WithoutCancel(ctx), `DROP DATABASE `+name+` WITH (FORCE)`) }
	return Database{
		Superuser: c.server.URL("postgres", name), App: c.server.URL("millrace_app", name), System: c.server.URL("millrace_system", name),
	}, drop, nil
}

// Stop ends the Postgres and removes its files.
func (c *Cluster) Stop() (err error) {
	if c.server != nil {
		err = c.server.Stop()
	}
	os.RemoveAll(c.dir)
	return err
}
