package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/release"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web"
	"github.com/millrace-ci/millrace/workers"
)

func newServeCmd(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve the dashboard, the API, webhooks and agents, and run the workers",
		Long:  "Configured by environment only; docs/configuration.md lists the variables. Several replicas may serve one database.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readConfig(environ)
			if err != nil {
				return err
			}
			if err := cfg.forServing(); err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			// Only then listen: a balancer's connection is better refused than left waiting.
			st, err := openStore(cmd.Context(), cfg, log)
			if err != nil {
				return err
			}
			defer st.Close()
			listener, err := net.Listen("tcp", cfg.Listen)
			if err != nil {
				return err
			}
			metrics, err := net.Listen("tcp", cfg.MetricsListen)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, st, log, listener, metrics)
		},
	}
}

// openStore opens the store, and waits for a Postgres that is away: ending instead would leave the rest to the service
// manager, and systemd gives up after five starts within ten seconds.
func openStore(ctx context.Context, cfg Config, log *slog.Logger) (st *store.Store, err error) {
	err = store.Await(ctx, log, func() error {
		st, err = store.Open(ctx, store.Config{
			AppURL:    cfg.DatabaseURL,
			SystemURL: cfg.DatabaseSystemURL,
			BlobURL:   cfg.BlobURL,
			Prefixes:  cfg.LabelPrefixes,
			Log:       log,
		})
		return err
	})
	return st, err
}

// drain is how long requests that are under way may take to end at shutdown.
const drain = 10 * time.Second

// serve runs one replica of the control plane until ctx ends or a part of it fails. It closes both listeners.
func serve(ctx context.Context, cfg Config, st *store.Store, log *slog.Logger, listener, metrics net.Listener) error {
	app, err := github.New(github.Config{
		APIURL:         cfg.GitHubAPIURL,
		AppID:          cfg.GitHubAppID,
		PrivateKeyPEM:  []byte(cfg.GitHubPrivateKey),
		WebhookSecrets: cfg.GitHubWebhookSecret,
		Pauses:         st,
	})
	if err != nil {
		return err
	}

	work := workers.New(workers.Config{Store: st, GitHub: app, Log: log})
	rest := api.New(api.Config{Store: st, Webhooks: app, Runners: work.Gate(), URL: cfg.URL, Bundles: release.Bundles(), Log: log})
	signIn, err := signInAt(cfg)
	if err != nil {
		return err
	}
	atGitHub := strings.TrimSuffix(cfg.GitHubURL, "/")
	pages := web.New(web.Config{
		Store: st, SignIn: signIn, Log: log, URL: cfg.URL, GitHub: atGitHub, Install: atGitHub + "/apps/" + url.PathEscape(cfg.GitHubAppSlug) + "/installations/new",
		Secure: strings.HasPrefix(cfg.URL, "https://"),
	})
	mux := http.NewServeMux()
	for _, path := range []string{"/api/", "/agent/", "/webhooks/", "/healthz", "/readyz", "/openapi.json", "/docs/", "/install.sh"} {
		mux.Handle(path, rest)
	}
	mux.Handle("/", pages)

	group, ctx := errgroup.WithContext(ctx)
	listen := func(l net.Listener, handler http.Handler) {
		server := &http.Server{
			Handler:           handler,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := server.Shutdown(bounded); err != nil {
				return server.Close()
			}
			return nil
		})
	}
	listen(listener, closedAfterChunks(behindProxies(cfg.TrustedProxies, mux)))
	listen(metrics, operators(api.Metrics(st)))
	group.Go(func() error { return work.Run(ctx) })
	log.Info("serving", "url", cfg.URL, "listen", listener.Addr().String(), "metrics", metrics.Addr().String())
	return group.Wait()
}

// operators is what is served to operators alone. A build for profiling adds to it.
var operators = func(metrics http.Handler) http.Handler { return metrics }

// signInAt is the sign-in with GitHub; nil when it isn't configured.
func signInAt(cfg Config) (millrace.SignIn, error) {
	if cfg.GitHubClientID == "" {
		return nil, nil //nolint:nilnil // to be without is no error
	}
	return github.NewOAuth(github.OAuthConfig{
		URL: cfg.GitHubURL, APIURL: cfg.GitHubAPIURL, ClientID: cfg.GitHubClientID, ClientSecret: millrace.Secret(cfg.GitHubClientSecret),
		RedirectURL: strings.TrimSuffix(cfg.URL, "/") + web.SignInCallback,
	})
}
