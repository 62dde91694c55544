package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
)

// The App signs a JWT for calls of its own, and with one of them gets each installation's token
// (https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app). It is done here and not by
// ghinstallation, which reads the machine's clock, so that nothing could drive it through a simulated day, and which
// writes to the App's transport when it renews a token, so that installations shared state.

// asApp is the installation of calls that the App makes as itself.
const asApp = 0

// jwtLife is how far ahead a JWT expires. GitHub takes 10 minutes and no more, by its clock; ours may be a minute ahead, as
// it may for the time of issue, a minute back.
const jwtLife = 9 * time.Minute

// tokenMargin is how long before its end a token is no longer used: a call may take a while to get there.
const tokenMargin = time.Minute

// appJWT is a token of the App itself. It is kept, for to sign it costs a millisecond (RS256).
func (a *App) appJWT() (string, error) {
	a.signing.Lock()
	defer a.signing.Unlock()
	now := a.cfg.Now()
	if now.Before(a.jwt.expires.Add(-tokenMargin)) {
		return a.jwt.text.Reveal(), nil
	}
	expires := now.Add(jwtLife)
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: strconv.FormatInt(a.cfg.AppID, 10), IssuedAt: jwt.NewNumericDate(now.Add(-time.Minute)), ExpiresAt: jwt.NewNumericDate(expires),
	}).SignedString(a.key)
	if err == nil {
		a.jwt = token{millrace.Secret(text), expires}
	}
	return text, err
}

// dropJWT forgets a token that GitHub refused: the clock that it was made by may have been wrong.
func (a *App) dropJWT(text string) {
	a.signing.Lock()
	defer a.signing.Unlock()
	if a.jwt.text.Reveal() == text {
		a.jwt = token{}
	}
}

// credential is what a call carries: the App's JWT, or the installation's token.
func (a *App) credential(ctx context.Context, installation int64) (string, error) {
	if installation == asApp {
		return a.appJWT()
	}
	return a.tokens.get(ctx, installation)
}

// createToken asks for a token of an installation (POST /app/installations/{id}/access_tokens).
func (a *App) createToken(ctx context.Context, installation int64) (token, error) {
	var out struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	signed, err := a.appJWT()
	if err != nil {
		return token{}, err
	}
	_, err = a.call(ctx, asApp, signed, http.MethodPost, fmt.Sprintf("app/installations/%d/access_tokens", installation), nil, &out)
	var refused *refusal
	if errors.As(err, &refused) {
		refused.ofToken = true
	}
	if err != nil {
		return token{}, fmt.Errorf("a token of installation %d: %w", installation, err)
	}
	if out.Token == "" {
		return token{}, errors.New("GitHub answered without a token")
	}
	return token{millrace.Secret(out.Token), out.ExpiresAt}, nil
}

// pause is an answer to a call that was not made: GitHub has asked not to.
type pause struct{ until time.Time }

// Error says until when.
func (p *pause) Error() string { return "GitHub is not called before " + p.until.Format(time.RFC3339) }

// paused is a *pause while GitHub has asked the App not to call.
func (a *App) paused(ctx context.Context) error {
	if a.cfg.Pauses == nil {
		return nil
	}
	until, err := a.cfg.Pauses.AppPause(ctx)
	if err != nil || until.IsZero() {
		return err
	}
	return &pause{until}
}

// notePause keeps what a refusal of a call as the App says of when to call again.
func (a *App) notePause(ctx context.Context, r *refusal) error {
	until, limited := r.rateLimit(strings.ToLower(r.message), a.cfg.Now())
	if a.cfg.Pauses == nil || !limited {
		return nil
	}
	return a.cfg.Pauses.PauseApp(ctx, until)
}

// token is an installation's token.
type token struct {
	text    millrace.Secret
	expires time.Time
}

// tokens keeps one token for each installation until shortly before it expires. Callers that need a new one at the same
// time share it: the first gets it, on its own goroutine, the others wait.
type tokens struct {
	now    func() time.Time
	create func(ctx context.Context, installation int64) (token, error)

	mu       sync.Mutex
	kept     map[int64]token
	renewals map[int64]*renewal
}

// renewal is a token on its way; what comes of it may be read once done is closed.
type renewal struct {
	done  chan struct{}
	token token
	err   error
}

func (s *tokens) get(ctx context.Context, installation int64) (string, error) {
	for {
		s.mu.Lock()
		if t, ok := s.kept[installation]; ok && s.now().Before(t.expires.Add(-tokenMargin)) {
			s.mu.Unlock()
			return t.text.Reveal(), nil
		}
		r, follow := s.renewals[installation]
		if !follow {
			r = &renewal{done: make(chan struct{}), err: errors.New("the renewal of a token panicked")}
			s.renewals[installation] = r
		}
		s.mu.Unlock()
		if !follow {
			s.renew(ctx, installation, r)
			return r.token.text.Reveal(), r.err
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return "", &unreachable{ctx.Err()}
		}
		// That the first caller gave up says nothing of the others' calls.
		if !errors.Is(r.err, context.Canceled) && !errors.Is(r.err, context.DeadlineExceeded) {
			return r.token.text.Reveal(), r.err
		}
	}
}

func (s *tokens) renew(ctx context.Context, installation int64, r *renewal) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.err == nil {
			s.kept[installation] = r.token
		}
		delete(s.renewals, installation)
		close(r.done)
	}()
	r.token, r.err = s.create(ctx, installation)
}

// drop forgets a token that GitHub refused, unless another call did so first.
func (s *tokens) drop(installation int64, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[installation].text.Reveal() == text {
		delete(s.kept, installation)
	}
}
