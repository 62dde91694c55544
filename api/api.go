// Package api serves programs: GitHub's webhooks in, the agents on customers' hosts, and the REST API that the CLI and
// automation use, with its OpenAPI document. Pages are package web's.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/singleflight"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// Config is what the API needs.
type Config struct {
	Store    *store.Store
	Webhooks millrace.WebhookSource
	Runners  millrace.Runners
	URL      string                   // where people reach this server, without a trailing slash
	Bundles  map[millrace.Arch][]byte // what hosts install: gzipped tar archives, see package release
	Log      *slog.Logger
	Now      func() time.Time // nil: time.Now; what agents' signatures are checked against
}

// Server is the API.
type Server struct {
	store    *store.Store
	webhooks millrace.WebhookSource
	runners  millrace.Runners
	url      string
	bundles  map[millrace.Arch]bundle
	log      *slog.Logger
	now      func() time.Time
	jits     singleflight.Group

	mu      sync.Mutex
	windows map[millrace.HostID]*client.Window
}

// New is the API's handler. It serves whole paths: mount it at the root.
func New(cfg Config) http.Handler {
	s := &Server{
		store: cfg.Store, webhooks: cfg.Webhooks, runners: cfg.Runners, url: strings.TrimSuffix(cfg.URL, "/"), bundles: digested(cfg.Bundles), log: cfg.Log, now: cfg.Now, windows: map[millrace.HostID]*client.Window{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	r := chi.NewRouter()
	r.Use(withOrigin, s.logged, s.recovered)
	r.NotFound(s.handle(func(http.ResponseWriter, *http.Request) error {
		return millrace.Errorf(millrace.NotFound, "There is nothing at this path; /docs/api lists what there is.")
	}))
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		p := client.NewProblem(millrace.Errorf(millrace.Invalid, "This path does not take %s.", req.Method), requestID(req.Context()))
		p.Status, p.Title = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if r.Match(chi.NewRouteContext(), method, req.URL.Path) {
				w.Header().Add("Allow", method)
			}
		}
		writeProblem(w, p)
	})
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	r.Get("/readyz", s.handle(s.ready))
	r.Get("/install.sh", s.handle(s.install))
	r.Get("/agent/v1/bundles/linux-{arch}.tar.gz", s.handle(s.sendBundle))
	r.Post("/webhooks/github", s.handle(s.githubWebhook))
	r.Post("/agent/v1/enroll", s.handle(s.enroll))
	r.Post("/agent/v1/start", s.handle(s.start))
	r.Post("/agent/v1/sync", s.handle(s.sync))
	r.Post("/agent/v1/vms/{vm}/jit", s.handle(s.jit))
	r.Post("/agent/v1/vms/{vm}/console", s.handle(s.appendConsole))
	r.Post("/agent/v1/log", s.handle(s.appendLog))
	r.Post("/agent/v1/keys", s.handle(s.setKeys))
	r.Post("/agent/v1/vms/{vm}/samples", s.handle(s.appendSamples))
	s.rest(r)
	return r
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := s.store.Ready(ctx); err != nil {
		s.log.Warn("not ready", "error", err)
		return millrace.Errorf(millrace.Unavailable, "Not ready: the database cannot commit, or lacks migrations.")
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	return nil
}

// handler answers a request or returns why it doesn't.
type handler func(w http.ResponseWriter, r *http.Request) error

// handle answers a handler's error as a problem. What is internal is logged here, once, and nowhere else.
func (s *Server) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	}
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, s.problem(r.Context(), err))
}

// problem is what err looks like from outside.
func (s *Server) problem(ctx context.Context, err error) client.Problem {
	switch code := millrace.CodeOf(err); {
	case code == millrace.Unauthenticated, code == millrace.Forbidden:
		s.refused(ctx, err)
	case errors.Is(err, store.ErrAway):
		s.log.Warn("Postgres is away", "request_id", requestID(ctx), "error", err)
	case code != millrace.Internal:
	case ctx.Err() != nil:
		err = millrace.Errorf(millrace.Unavailable, "The request ended before its answer.")
	default:
		s.log.Error("a request failed", "request_id", requestID(ctx), "error", err)
	}
	return client.NewProblem(err, requestID(ctx))
}

// refused logs who was refused what.
func (s *Server) refused(ctx context.Context, why error) {
	r, _ := ctx.Value(originKey{}).(origin)
	org, _ := ctx.Value(tenantKey{}).(tenant)
	s.log.Warn("refused", "request_id", r.id, "token", org.by.Actor.ID, "address", r.address, "method", r.method, "path", millrace.Redact(r.path), "why", millrace.MessageOf(why))
}

func writeProblem(w http.ResponseWriter, p client.Problem) {
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="millrace"`)
	}
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", client.ProblemType)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) //nolint:errcheck // the peer is gone
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the peer is gone
}

// origin is what a context knows of its request.
type origin struct{ id, address, method, path string }

type originKey struct{}

// requestID names a request in answers and in the log.
func requestID(ctx context.Context) string {
	r, _ := ctx.Value(originKey{}).(origin)
	return r.id
}

// withOrigin gives each request an ID, and each answer the headers that all have.
func withOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b [10]byte
		rand.Read(b[:])
		id := "req_" + hex.EncodeToString(b[:])
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originKey{}, origin{id, address(r.RemoteAddr), r.Method, r.URL.Path})))
	})
}

// status is a writer that remembers what was answered.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	if s.code == 0 {
		s.code = code
	}
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// logged logs one line a request, without its body or its secrets.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		sw := &status{ResponseWriter: w}
		next.ServeHTTP(sw, r)
		took := time.Since(began)
		observe(r, sw.code, took)
		s.log.Debug("request", "request_id", requestID(r.Context()), "method", r.Method, "path", millrace.Redact(r.URL.Path), "status", sw.code, "ms", took.Milliseconds())
	})
}

// recovered turns a panic into a 500 that says nothing but the request's ID.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.log.Error("a request panicked", "request_id", requestID(r.Context()), "panic", millrace.Redact(fmt.Sprint(p)), "stack", string(debug.Stack()))
			writeProblem(w, client.NewProblem(errors.New("panic"), requestID(r.Context())))
		}()
		next.ServeHTTP(w, r)
	})
}
