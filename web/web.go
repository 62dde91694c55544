// Package web is the dashboard: pages made on the server, which read and work without JavaScript. With it, htmx fetches
// a page's live part anew whenever the server announces that something of the org changed.
//
// A handler returns an error and a page says what went wrong, why and what to do next. Whoever isn't signed in is asked
// to; another org's page and a page that doesn't exist look the same.
package web

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/assets"
)

// Config is what the dashboard needs.
type Config struct {
	Store  *store.Store
	SignIn millrace.SignIn  // at GitHub; nil: by one-use links alone
	Log    *slog.Logger     // nil: none
	URL    string           // where people and agents reach this server, without a trailing slash
	Secure bool             // URL is https: cookies are bound to it
	Now    func() time.Time // nil: the wall clock. It is used to show ages, never to decide.
}

// SignInCallback is the path that GitHub sends people back to: the App must list it.
const SignInCallback = "/sign-in/github/callback"

// server is the dashboard.
type server struct {
	Config
}

// New makes the dashboard's handler, which answers every path that no other part of the server claims.
func New(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	s := &server{cfg}

	mux := http.NewServeMux()
	mux.Handle("GET "+assets.Prefix, assets.Handler())
	mux.Handle("GET /{$}", s.page(s.landing))
	mux.Handle("GET /pricing", s.page(s.pricing))
	mux.Handle("GET /sign-in", s.page(s.askToSignIn))
	mux.Handle("GET /sign-in/github", s.page(s.toGitHub))
	mux.Handle("GET "+SignInCallback, s.page(s.fromGitHub))
	mux.Handle("GET /sign-in/{secret}", s.page(s.signIn))
	mux.Handle("POST /sign-out", s.page(s.signOut))
	mux.Handle("GET /confirm", s.user(s.confirm))
	mux.Handle("POST /confirm", s.user(s.beginConfirm))
	mux.Handle("POST /confirm/done", s.user(s.endConfirm))
	mux.Handle("GET /o/{org}/{$}", s.page(s.toJobs))
	mux.Handle("GET /o/{org}/jobs", s.org(millrace.JobsRead, s.jobs))
	mux.Handle("GET /o/{org}/jobs/{job}", s.org(millrace.JobsRead, s.job))
	mux.Handle("GET /o/{org}/hosts", s.org(millrace.HostsRead, s.hosts))
	mux.Handle("POST /o/{org}/hosts/enrollment-tokens", s.org(millrace.HostsWrite, s.makeEnrollmentToken))
	mux.Handle("GET /o/{org}/incidents", s.org(millrace.IncidentsRead, s.incidents))
	mux.Handle("GET /o/{org}/usage", s.org(millrace.UsageRead, s.usage))
	mux.Handle("GET /o/{org}/events", s.org(millrace.OrgRead, s.events))
	mux.Handle("GET /o/{org}", s.page(s.toJobs))
	mux.Handle("/", s.page(s.noPage))

	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(s.page(func(http.ResponseWriter, *http.Request) error { return errCrossOrigin }))
	return headers(cfg.Secure, protection.Handler(mux))
}

// policy allows our own files and GitHub's avatars, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https://avatars.githubusercontent.com data:; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func headers(secure bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store") // assets say otherwise
		if secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}
