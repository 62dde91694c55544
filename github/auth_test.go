package github_test

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
)

var noRunners = map[string]http.HandlerFunc{"GET /orgs/calm/actions/runners": says(200, `{"total_count":0,"runners":[]}`)}

// TestTokensByTheAppsClock: a token is kept until a minute before it expires, by Config.Now alone.
func TestTokensByTheAppsClock(t *testing.T) {
	t.Parallel()
	f := newFar(t, noRunners)
	for _, step := range []struct {
		advance time.Duration
		want    int
	}{{0, 1}, {time.Minute, 1}, {58*time.Minute - time.Second, 1}, {time.Second, 2}, {time.Hour - time.Minute - time.Second, 2}, {48 * time.Hour, 3}} {
		f.advance(step.advance)
		if _, err := f.App.ListRunners(t.Context(), f.org()); err != nil {
			t.Fatal(err)
		}
		if got := f.tokensGiven(); got != step.want {
			t.Errorf("%v later: %d tokens, want %d", step.advance, got, step.want)
		}
	}
}

// The App's own token is kept too, until it may be close to its end, or GitHub refuses it.
func TestTheAppsOwnTokenIsKept(t *testing.T) {
	t.Parallel()
	refuse := false
	used := map[string]bool{}
	f := newFar(t, map[string]http.HandlerFunc{"GET /app/installations/{id}": func(w http.ResponseWriter, r *http.Request) {
		used[r.Header.Get("Authorization")] = true
		if refuse {
			says(401, `{"message":"A JSON web token could not be decoded"}`)(w, r)
			return
		}
		says(200, `{"id":5,"account":{"id":1,"login":"calm","type":"Organization"}}`)(w, r)
	}})
	for _, step := range []struct {
		advance time.Duration
		refuse  bool
		want    int
	}{{0, false, 1}, {7 * time.Minute, false, 1}, {time.Minute, false, 2}, {time.Minute, true, 2}, {time.Second, false, 3}} {
		f.advance(step.advance)
		refuse = step.refuse
		_, err := f.App.Installation(t.Context(), farInstallation)
		if (err != nil) != step.refuse || len(used) != step.want {
			t.Errorf("%v later: %d tokens, want %d (%v)", step.advance, len(used), step.want, err)
		}
	}
}

func TestARefusedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	refuse := false
	f := newFar(t, map[string]http.HandlerFunc{"GET /orgs/calm/actions/runners": func(w http.ResponseWriter, r *http.Request) {
		if refuse {
			says(401, `{"message":"Bad credentials"}`)(w, r)
			return
		}
		noRunners["GET /orgs/calm/actions/runners"](w, r)
	}})
	list := func() error {
		_, err := f.App.ListRunners(t.Context(), f.org())
		return err
	}
	if err := list(); err != nil {
		t.Fatal(err)
	}
	f.revoke()
	if err := list(); err != nil {
		t.Errorf("a revoked token: %v", err)
	}
	f.asked()
	refuse = true
	err := list()
	wantCode(t, err, millrace.Forbidden)
	if c := millrace.ConditionOf(err); c != nil {
		t.Errorf("a fresh token that is refused is no condition: %v", c)
	}
	if calls := f.asked(); len(calls) != 2 || f.tokensGiven() != 3 {
		t.Errorf("calls %q with %d tokens", calls, f.tokensGiven())
	}
}

// TestCallersShareARenewal, and one that gives up does not take the others with it.
func TestCallersShareARenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f *far
		answer, first := make(chan struct{}), true
		f = newFar(t, map[string]http.HandlerFunc{
			"GET /orgs/calm/actions/runners": noRunners["GET /orgs/calm/actions/runners"],
			"POST /app/installations/{id}/access_tokens": func(w http.ResponseWriter, r *http.Request) {
				<-answer
				f.giveToken(w, r)
			},
		})
		app := f.newApp(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			if first && strings.HasSuffix(r.URL.Path, "/access_tokens") {
				first = false
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return f.roundTrip(r)
		}))
		ctx, giveUp := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			_, err := app.ListRunners(ctx, f.org())
			wantCode(t, err, millrace.Unavailable)
			if c := millrace.ConditionOf(err); c != nil {
				t.Errorf("a caller that gave up: %v", c)
			}
		})
		synctest.Wait()
		for range 20 {
			all.Go(func() {
				if _, err := app.ListRunners(t.Context(), f.org()); err != nil {
					t.Error(err)
				}
			})
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		all.Go(func() {
			_, err := app.ListRunners(impatient, f.org())
			wantCode(t, err, millrace.Unavailable)
		})
		synctest.Wait()
		giveUp()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		close(answer)
		all.Wait()
		if n := f.tokensGiven(); n != 1 {
			t.Errorf("%d tokens for 20 callers, want 1", n)
		}
	})
}

// TestACallStaysOnItsGoroutine: a simulator has but one.
func TestACallStaysOnItsGoroutine(t *testing.T) {
	t.Parallel()
	me := func() string {
		buf := make([]byte, 64)
		name, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), " [")
		return name
	}
	f := newFar(t, noRunners)
	caller := me()
	app := f.newApp(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		if got := me(); got != caller {
			t.Errorf("%s %s was called on %s, by %s", r.Method, r.URL, got, caller)
		}
		return f.roundTrip(r)
	}))
	if _, err := app.ListRunners(t.Context(), f.org()); err != nil {
		t.Error(err)
	}
}
