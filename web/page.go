package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/a-h/templ"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

var (
	errNoPage = millrace.Errorf(millrace.NotFound,
		"There is nothing at this address, or it belongs to an org that you are not a member of.")
	errCrossOrigin = millrace.Errorf(millrace.Forbidden,
		"Another site sent this request in your name, so it was refused. Go to the page you want and try there.")
)

// page is a handler that may fail; what it returns is shown as a page.
type page func(http.ResponseWriter, *http.Request) error

// page serves p and shows its error.
func (s *server) page(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := "req_" + strings.ToLower(rand.Text()[:20])
		w.Header().Set("X-Request-Id", id)
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		err := s.recovered(p)(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		if errors.Is(err, store.ErrAway) {
			s.Log.WarnContext(r.Context(), "Postgres is away", "path", millrace.Redact(r.URL.Path), "request", id, "error", err)
		}
		code := millrace.CodeOf(err)
		if code == millrace.Unauthenticated {
			s.sendToSignIn(w, r, err)
			return
		}
		if code == millrace.Internal {
			s.Log.ErrorContext(r.Context(), "serving a page", "path", millrace.Redact(r.URL.Path), "request", id, "error", err)
		}
		if code == millrace.Forbidden || code == millrace.ReauthRequired {
			s.Log.WarnContext(r.Context(), "refused", "method", r.Method, "path", millrace.Redact(r.URL.Path), "address", device(r).Address, "request", id, "why", millrace.MessageOf(err))
		}
		if code == millrace.ReauthRequired && r.Method == http.MethodGet {
			http.Redirect(w, r, confirmPath(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		// Not found and forbidden look the same for everyone, so nobody learns from the frame which orgs there are.
		f := failure{Status: code.Status(), Code: code, Text: millrace.MessageOf(err), Request: id}
		if err := render(w, r, f.Status, errorPage(ui.Frame{Title: f.heading()}, f)); err != nil {
			s.Log.ErrorContext(r.Context(), "rendering an error page", "request", id, "error", err)
		}
	})
}

// recovered turns a panic into an error: its page says no more than any other's.
func (s *server) recovered(p page) page {
	return func(w http.ResponseWriter, r *http.Request) (err error) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				err = fmt.Errorf("panic: %s\n%s", millrace.Redact(fmt.Sprint(p)), debug.Stack())
			}
		}()
		return p(w, r)
	}
}

type requestIDKey struct{}

// requestID names a request in answers, in the log and in the audit log.
func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// device is what a request comes from.
func device(r *http.Request) millrace.Device {
	address := r.RemoteAddr
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	return millrace.Device{Address: address, UserAgent: r.UserAgent()}
}

// failure is what an error page shows.
type failure struct {
	Status  int
	Code    millrace.Code
	Text    string
	Request string
}

func (f failure) heading() string {
	if f.Code == millrace.ReauthRequired {
		return "Confirm that it is you"
	}
	switch f.Status {
	case http.StatusNotFound:
		return "Page not found"
	case http.StatusForbidden:
		return "Not allowed"
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return "That can't be read"
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return "Try again in a moment"
	default:
		if f.Status < 500 {
			return "That didn't work"
		}
		return "Something broke on our side"
	}
}

// next says what to do about it.
func (f failure) next() string {
	switch {
	case f.Code == millrace.ReauthRequired:
		return "Confirm it, then do it once more."
	case f.Status == http.StatusNotFound:
		return "Check the address, or ask an owner of the org to add you."
	case f.Status == http.StatusForbidden:
		return "An owner of the org can do it, or give you the right to."
	case f.Status >= 500:
		return "Jobs that run are not touched by this. Try again; if it stays, tell us the request below."
	default:
		return "Go back and try once more."
	}
}

// render writes a component, all of it or nothing.
func render(w http.ResponseWriter, r *http.Request, status int, c templ.Component) error {
	var b bytes.Buffer
	if err := c.Render(r.Context(), &b); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, err := b.WriteTo(w)
	if r.Context().Err() == context.Canceled {
		return nil // nobody waits for it
	}
	return err
}

// live answers htmx with a page's live part, and everybody else with the page.
func live(w http.ResponseWriter, r *http.Request, f ui.Frame, part, whole templ.Component) error {
	if partial(r) {
		return render(w, r, http.StatusOK, ui.Part(f, part))
	}
	return render(w, r, http.StatusOK, whole)
}

// partial reports whether htmx asks for a page's live part alone.
func partial(r *http.Request) bool { return r.Header.Get("HX-Request") != "" }

func (s *server) noPage(http.ResponseWriter, *http.Request) error { return errNoPage }
