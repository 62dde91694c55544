package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace/migrations"
)

func newMigrateCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up or down, or show where it is",
		Long: "Works as the role of MILLRACE_DATABASE_MIGRATE_URL, which owns the tables. The three roles are made once,\n" +
			"by a superuser, with migrations/roles.sql.",
		Args: cobra.NoArgs,
	}
	add := func(name, short string, do func(cmd *cobra.Command, url string) error) {
		cmd.AddCommand(&cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readConfig(environ)
			if err != nil {
				return err
			}
			if cfg.DatabaseMigrateURL == "" {
				return errors.New("MILLRACE_DATABASE_MIGRATE_URL is not set; give the URL of the role that owns the tables")
			}
			return do(cmd, cfg.DatabaseMigrateURL)
		}})
	}
	add("up", "Apply all migrations that are missing", func(cmd *cobra.Command, url string) error {
		return migrations.Up(cmd.Context(), url)
	})
	add("down", "Take back the last migration", func(cmd *cobra.Command, url string) error {
		return migrations.Down(cmd.Context(), url)
	})
	add("status", "List the migrations and which are applied", func(cmd *cobra.Command, url string) error {
		return migrations.Status(cmd.Context(), url, cmd.OutOrStdout())
	})
	return cmd
}
