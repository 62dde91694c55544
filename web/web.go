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
	Store   *store.Store
	SignIn  millrace.SignIn  // at GitHub; nil: by one-use links alone
	Log     *slog.Logger     // nil: none
	GitHub  string           // where people use GitHub, without a trailing slash
	Install string           // where at GitHub the App is installed; "": not known
	URL     string           // where people and agents reach this server, without a trailing slash
	Secure  bool             // URL is https: cookies are bound to it
	Now     func() time.Time // nil: the wall clock. It is used to show ages, never to decide.
}

// SignInCallback is the path that GitHub sends people back to: the App must list it.
const SignInCallback = "/sign-in/github/callback"

// SetupPath is where GitHub sends people after they installed the App: the App's setup URL.
const SetupPath = "/github/setup"

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
	for _, r := range s.routes() {
		mux.Handle(r.pattern, r.handler)
	}
	protection := http.NewCrossOriginProtection()
	refused := s.page(func(http.ResponseWriter, *http.Request) error { return errCrossOrigin })
	protection.SetDenyHandler(refused)
	return headers(cfg.Secure, sentByBrowser(protection.Handler(mux), refused))
}

// sentByBrowser refuses what would change something and doesn't say which page sent it. Every browser says so, and what
// isn't one has the API; [http.CrossOriginProtection] alone lets it pass.
func sentByBrowser(next, refused http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		if !safe && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
			refused.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// route is a path and what answers it.
type route struct {
	pattern string
	handler http.Handler
}

// routes are all of the dashboard's; a test has what each answers to whom.
func (s *server) routes() []route {
	return []route{
		{"GET " + assets.Prefix, assets.Handler()},
		{"GET /{$}", s.page(s.landing)},
		{"GET /pricing", s.page(s.pricing)},
		{"GET /sign-in", s.page(s.askToSignIn)},
		{"GET /sign-in/github", s.page(s.toGitHub)},
		{"GET " + SignInCallback, s.page(s.fromGitHub)},
		{"GET /sign-in/{secret}", s.page(s.signIn)},
		{"POST /sign-out", s.page(s.signOut)},
		{"POST " + violationPath, s.user(s.violation)},
		{"GET /account", s.user(s.account)},
		{"POST /account/sessions/{session}/end", s.user(s.endSession)},
		{"POST /account/sign-out-everywhere", s.user(s.signOutEverywhere)},
		{"GET " + SetupPath, s.page(s.setUp)},
		{"GET /new", s.user(s.newOrg)},
		{"POST /new", s.user(s.foundOrg)},
		{"POST /o/{org}/installations", s.org(millrace.OrgWrite, s.linkInstallation)},
		{"GET " + millrace.DevicePath, s.user(s.dangerousForUser(s.device))},
		{"POST " + millrace.DevicePath, s.user(s.dangerousForUser(s.findDevice))},
		{"POST " + millrace.DevicePath + "/decide", s.user(s.dangerousForUser(s.decideDevice))},
		{"GET /confirm", s.user(s.confirm)},
		{"POST /confirm", s.user(s.beginConfirm)},
		{"POST /confirm/done", s.user(s.endConfirm)},
		{"GET /o/{org}/{$}", s.org(millrace.OrgRead, s.overview)},
		{"POST /o/{org}/checklist", s.org(millrace.OrgWrite, s.hideChecklist)},
		{"GET /o/{org}/jobs", s.org(millrace.JobsRead, s.jobs)},
		{"GET /o/{org}/jobs/{job}", s.org(millrace.JobsRead, s.job)},
		{"GET /o/{org}/vms/{vm}", s.org(millrace.JobsRead, s.vm)},
		{"GET /o/{org}/hosts", s.org(millrace.HostsRead, s.hosts)},
		{"GET /o/{org}/hosts/new", s.org(millrace.HostsWrite, s.newEnrollmentToken)},
		{"POST /o/{org}/hosts/enrollment-tokens", s.org(millrace.HostsWrite, s.makeEnrollmentToken)},
		{"POST /o/{org}/hosts/enrollment-tokens/{token}/revoke", s.org(millrace.HostsWrite, s.revokeEnrollmentToken)},
		{"GET /o/{org}/hosts/{host}", s.org(millrace.HostsRead, s.host)},
		{"GET /o/{org}/hosts/{host}/log", s.org(millrace.HostsRead, s.agentLog)},
		{"POST /o/{org}/hosts/{host}", s.org(millrace.HostsWrite, s.changeHost)},
		{"GET /o/{org}/incidents", s.org(millrace.IncidentsRead, s.incidents)},
		{"GET /o/{org}/usage", s.org(millrace.UsageRead, s.usage)},
		{"GET /o/{org}/settings", s.org(millrace.OrgRead, s.settings)},
		{"POST /o/{org}/settings", s.org(millrace.OrgWrite, s.rename)},
		{"POST /o/{org}/settings/export", s.org(millrace.OrgExport, s.dangerous(s.export))},
		{"GET /o/{org}/settings/delete", s.org(millrace.OrgDelete, s.dangerous(s.askToDelete))},
		{"POST /o/{org}/settings/delete", s.org(millrace.OrgDelete, s.dangerous(s.deleteOrg))},
		{"GET /o/{org}/placement", s.org(millrace.OrgRead, s.placement)},
		{"POST /o/{org}/placement", s.org(millrace.OrgWrite, s.setStrategy)},
		{"POST /o/{org}/placement/repositories", s.org(millrace.OrgWrite, s.setShare)},
		{"POST /o/{org}/placement/zones/{zone}", s.org(millrace.OrgWrite, s.dangerous(s.setZone))},
		{"GET /o/{org}/members", s.org(millrace.MembersRead, s.members)},
		{"POST /o/{org}/members/{user}", s.org(millrace.MembersWrite, s.dangerous(s.setRole))},
		{"GET /o/{org}/tokens", s.org(millrace.TokensWrite, s.tokens)},
		{"GET /o/{org}/tokens/new", s.org(millrace.TokensWrite, s.dangerous(s.newToken))},
		{"POST /o/{org}/tokens", s.org(millrace.TokensWrite, s.dangerous(s.makeToken))},
		{"POST /o/{org}/tokens/{token}/revoke", s.org(millrace.TokensWrite, s.revokeToken)},
		{"GET /o/{org}/audit", s.org(millrace.AuditRead, s.audit)},
		{"GET /o/{org}/events", s.org(millrace.OrgRead, s.events)},
		{"GET /o/{org}", s.page(s.home)},
		{"/", s.page(s.noPage)},
	}
}

// policy allows our own files and GitHub's avatars, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https://avatars.githubusercontent.com data:; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; report-uri " + violationPath

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
