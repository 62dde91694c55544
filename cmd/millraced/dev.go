package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web"
)

// devOptions are the flags of `millraced dev`.
type devOptions struct {
	listen    string
	data      string
	readyFile string
	driver    string
	noDemo    bool
	verbose   bool
}

func newDevCmd() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole system on this machine, with a stand-in GitHub",
		Long: "Starts Postgres from the binaries on this machine, a stand-in GitHub, the control plane and one enrolled host,\n" +
			"and prints a one-use sign-in link. Ctrl-C stops everything it started, VMs included.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dev(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address of the dashboard; port 0 takes a free one")
	flags.StringVar(&o.data, "data", ".data", "directory of all state; remove it to start over")
	flags.StringVar(&o.readyFile, "ready-file", "", "write URLs and tokens to this file, as JSON, once everything answers")
	flags.StringVar(&o.driver, "driver", "auto", "what runs VMs: auto, qemu or fake")
	flags.BoolVar(&o.noDemo, "no-demo", false, "no sample repositories or jobs")
	flags.BoolVar(&o.verbose, "verbose", false, "log every request and decision")
	return cmd
}

// dev runs the whole system until ctx ends. What it starts it stops, in reverse order.
func dev(ctx context.Context, o devOptions, stdout, stderr io.Writer) (err error) {
	began := time.Now()
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(tint.NewTextHandler(stderr, &tint.Options{Level: level, TimeFormat: time.TimeOnly}))
	data, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	unlock, err := agent.Lock(data) // pg.Start takes over whatever Postgres runs there
	if millrace.CodeOf(err) == millrace.Conflict {
		return fmt.Errorf("another millraced dev works in %s: end it, or give --data another directory", data)
	} else if err != nil {
		return err
	}
	defer unlock()
	if o.readyFile != "" {
		if err := os.Remove(o.readyFile); err != nil && !errors.Is(err, os.ErrNotExist) { // an earlier run's tells of what is no more
			return err
		}
	}

	postgres, err := pg.Start(ctx, pg.Options{Dir: filepath.Join(data, "pg"), Fsync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postgres.Stop()) }()
	const database = "millrace"
	if err := migrations.Roles(ctx, postgres.URL("postgres", "postgres"), database); err != nil {
		return err
	}
	if err := migrations.Up(ctx, postgres.URL("millrace_migrate", database)); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("%w (another millraced? --listen takes another address)", err)
	}
	url := "http://" + listener.Addr().String()
	metrics, err := listenNear(listener.Addr(), 2)
	if err != nil {
		return err
	}
	forge, err := listenNear(listener.Addr(), 1)
	if err != nil {
		return err
	}

	machines, err := chooseDriver(o.driver, filepath.Join(data, "agent"), log)
	if err != nil {
		return err
	}
	github, err := githubtest.New(githubtest.Config{
		URL:          "http://" + forge.Addr().String(),
		RunnerURL:    machines.fromGuest(forge.Addr()),
		WebhookURL:   url + "/webhooks/github",
		CallbackURLs: []string{url + web.SignInCallback},
		SetupURL:     url + web.SetupPath,
		StateFile:    filepath.Join(data, "github.json"),
		Demo:         !o.noDemo,
	})
	if err != nil {
		return err
	}
	defer github.Close()

	cfg := Config{
		URL:                 url,
		DatabaseURL:         postgres.URL("millrace_app", database),
		DatabaseSystemURL:   postgres.URL("millrace_system", database),
		BlobURL:             "file://" + filepath.Join(data, "blobs"),
		LabelPrefixes:       []string{"millrace"},
		GitHubURL:           github.URL(),
		GitHubAPIURL:        github.APIURL(),
		GitHubAppID:         github.AppID(),
		GitHubPrivateKey:    string(github.PrivateKeyPEM()),
		GitHubWebhookSecret: []string{github.WebhookSecret()},
		GitHubClientID:      github.ClientID(),
		GitHubClientSecret:  github.ClientSecret(),
		GitHubAppSlug:       "millrace",
	}

	// The parts run under one context; the first that fails ends the others. The control plane outlives the agent, so
	// that the agent's last words are heard.
	group, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		server := &http.Server{Handler: github, ReadHeaderTimeout: 10 * time.Second}
		context.AfterFunc(serving, func() { server.Close() })
		if err := server.Serve(forge); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		st, err := openStore(serving, cfg, log)
		if err != nil {
			return err
		}
		defer st.Close()
		return serve(serving, cfg, st, log, listener, metrics)
	})
	group.Go(func() error {
		defer stopServing()
		seeded, err := seed(ctx, cfg, github)
		if err != nil {
			return err
		}
		return host{url: url, dir: filepath.Join(data, "agent"), machines: machines, log: log}.run(ctx, seeded.enrollment, func() error {
			ready := Ready{
				URL: url, GitHubURL: github.URL(), MetricsURL: "http://" + metrics.Addr().String() + "/metrics",
				Org: seeded.orgs[0].Slug, Owner: seeded.owners[0], APIToken: seeded.tokens[0].Reveal(),
				OtherOrg: seeded.orgs[1].Slug, OtherAPIToken: seeded.tokens[1].Reveal(),
				SignInURL: url + "/sign-in/" + seeded.signIn.Reveal(), WebhookSecret: github.WebhookSecret(),
				DatabaseURL: postgres.URL("postgres", database), PID: os.Getpid(),
			}
			if o.readyFile != "" {
				if err := ready.write(o.readyFile); err != nil {
					return err
				}
			}
			github.Resume()
			if !o.noDemo {
				if err := github.QueueDemo(); err != nil {
					return err
				}
			}
			ready.print(stdout, machines, time.Since(began))
			return nil
		})
	})
	return group.Wait()
}

// listenNear listens on the port that lies offset after addr's, so that a bookmark keeps working, or on any free one.
func listenNear(addr net.Addr, offset int) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil, err
	}
	if n, err := strconv.Atoi(port); err == nil {
		if l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n+offset))); err == nil {
			return l, nil
		}
	}
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

// seeded is what dev found or made in the database.
type seeded struct {
	orgs       []millrace.Org
	owners     []string
	tokens     []millrace.Secret
	signIn     millrace.Secret
	enrollment millrace.Secret
}

// tenants are the two orgs of dev: one to work with, and one that must never see it.
var tenants = []struct{ slug, name, owner string }{
	{"calm", "Calm Robotics", "calm"},
	{"other", "Other People", "other"},
}

// seed makes the two tenants, and fresh credentials for them: secrets are stored hashed, so yesterday's can't be shown.
func seed(ctx context.Context, cfg Config, github *githubtest.GitHub) (*seeded, error) {
	st, err := store.Open(ctx, store.Config{AppURL: cfg.DatabaseURL, SystemURL: cfg.DatabaseSystemURL, BlobURL: cfg.BlobURL, Prefixes: cfg.LabelPrefixes})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var s seeded
	system := millrace.Actor{Kind: millrace.ActorSystem}
	for i, tenant := range tenants {
		installation := github.AddOwner(tenant.owner, millrace.Organization)
		org, owner, err := st.CreateOrg(ctx, store.NewOrg{
			Slug: tenant.slug, Name: tenant.name, Concurrency: 8,
			DefaultSize:   millrace.Size{MilliCPU: 1000, MemoryMB: 512},
			Owner:         millrace.User{GitHubID: installation.SenderID, Login: tenant.owner + "-admin", Name: tenant.name + " admin"},
			Installations: []millrace.Installation{installation.Installation},
		})
		if millrace.CodeOf(err) == millrace.Conflict {
			return nil, fmt.Errorf("the org %s was deleted here, and its short name is kept for a while: remove the --data directory to start over", tenant.slug)
		} else if err != nil {
			return nil, err
		}
		by := millrace.Caller{Actor: system, UserID: owner.ID, Role: millrace.RoleOwner}
		_, token, err := st.Org(org.ID).CreateAPIToken(ctx, by, millrace.NewAPIToken{Name: "dev", Scopes: millrace.Scopes()})
		if err != nil {
			return nil, err
		}
		s.orgs, s.owners, s.tokens = append(s.orgs, org), append(s.owners, tenant.owner), append(s.tokens, token)
		if i > 0 {
			continue
		}
		if s.signIn, err = st.CreateSignInLink(ctx, owner.ID); err != nil {
			return nil, err
		}
		if _, s.enrollment, err = st.Org(org.ID).CreateEnrollmentToken(ctx, system, store.NewEnrollmentToken{}); err != nil {
			return nil, err
		}
	}
	return &s, nil
}
