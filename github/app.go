// Package github is our GitHub App: it verifies and decodes webhooks and registers runners. Everything that knows
// GitHub's shapes is here, on go-github; the rest of the product knows the ports of package millrace.
package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Config is the App's identity.
type Config struct {
	APIURL         string // REST API, e.g. https://api.github.com/ or https://HOST/api/v3/
	AppID          int64
	PrivateKeyPEM  []byte
	WebhookSecrets []string // more than one while rotating
	Transport      http.RoundTripper
}

// App speaks to GitHub as the App and as its installations. It is a [millrace.WebhookSource] and a [millrace.Runners].
type App struct {
	cfg     Config
	secrets [][]byte
	api     *url.URL

	mu      sync.Mutex
	clients map[int64]*github.Client
}

var (
	_ millrace.WebhookSource = (*App)(nil)
	_ millrace.Runners       = (*App)(nil)
)

// callTimeout bounds one call: GitHub answers within 10 s or not at all.
const callTimeout = 15 * time.Second

// New makes the App. It makes no call.
func New(cfg Config) (*App, error) {
	api, err := url.Parse(strings.TrimSuffix(cfg.APIURL, "/") + "/")
	if err != nil || api.Host == "" {
		return nil, fmt.Errorf("GitHub's API URL %q is not a URL", cfg.APIURL)
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if _, err := ghinstallation.NewAppsTransport(cfg.Transport, cfg.AppID, cfg.PrivateKeyPEM); err != nil {
		return nil, fmt.Errorf("the GitHub App's private key: %w", err)
	}
	a := &App{cfg: cfg, api: api, clients: map[int64]*github.Client{}}
	for _, s := range cfg.WebhookSecrets {
		if s = strings.TrimSpace(s); s != "" {
			a.secrets = append(a.secrets, []byte(s))
		}
	}
	return a, nil
}

// client is the client of one installation; its token is fetched, kept and renewed by ghinstallation. Each has an App
// transport of its own, because ghinstallation writes to the one that it renews a token with.
func (a *App) client(installation int64) (*github.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.clients[installation]; ok {
		return c, nil
	}
	transport, err := ghinstallation.New(a.cfg.Transport, a.cfg.AppID, installation, a.cfg.PrivateKeyPEM)
	if err != nil {
		return nil, err
	}
	transport.BaseURL = strings.TrimSuffix(a.api.String(), "/")
	c := github.NewClient(&http.Client{Transport: transport})
	c.BaseURL = a.api
	a.clients[installation] = c
	return c, nil
}

// forget drops an installation's client and with it the token, unless another call did so first.
func (a *App) forget(installation int64, c *github.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[installation] == c {
		delete(a.clients, installation)
	}
}

// do makes one call, returns the answer's status, 0 when there was none, and turns GitHub's refusals into our codes. A
// kept token may have been revoked (a suspended installation that is back): the call is made once more with a new one.
func (a *App) do(ctx context.Context, installation int64, method, path string, in, out any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for again := true; ; again = false {
		c, err := a.client(installation)
		if err != nil {
			return 0, err
		}
		req, err := c.NewRequest(method, path, in)
		if err != nil {
			return 0, err
		}
		resp, err := c.Do(ctx, req, out)
		if resp != nil {
			status = resp.StatusCode
		}
		if status == http.StatusUnauthorized && again {
			a.forget(installation, c)
			continue
		}
		return status, translate(err)
	}
}

// translate maps what GitHub answers to our codes; the chain is kept for the log.
func translate(err error) error {
	if err == nil {
		return nil
	}
	code, sentence := millrace.Unavailable, "GitHub could not be reached."
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	var refused *github.ErrorResponse
	var token *ghinstallation.HTTPError
	switch {
	case errors.As(err, &limit), errors.As(err, &abuse):
		code, sentence = millrace.LimitReached, "GitHub's rate limit is used up."
	case errors.As(err, &refused) && refused.Response != nil:
		if c, known := refusals[refused.Response.StatusCode]; known {
			code, sentence = c, "GitHub refused: "+refused.Message
		}
		if overLimit(refused.Response) {
			code, sentence = millrace.LimitReached, "GitHub's rate limit is used up."
		}
	case errors.As(err, &token) && token.Response != nil:
		token.Response.Body.Close() // ghinstallation leaves that to us
		// 404 here says nothing of a runner: the App may not ask.
		if c := token.Response.StatusCode; c >= 400 && c < 500 {
			code, sentence = millrace.Forbidden, "The GitHub App may not act for this owner: it was uninstalled or suspended there, or its key is not GitHub's."
		}
		if overLimit(token.Response) {
			code, sentence = millrace.LimitReached, "GitHub's rate limit is used up."
		}
	}
	return fmt.Errorf("%w: %w", millrace.Errorf(code, "%s", sentence), err)
}

// refusals are the statuses that say something of the request; any other is GitHub's own trouble.
var refusals = map[int]millrace.Code{
	http.StatusUnauthorized:        millrace.Forbidden,
	http.StatusForbidden:           millrace.Forbidden,
	http.StatusNotFound:            millrace.NotFound,
	http.StatusConflict:            millrace.Conflict,
	http.StatusUnprocessableEntity: millrace.Unprocessable,
}

// overLimit reports whether an answer is about a rate limit. go-github v53 knows 403 alone, and of the secondary limit the
// old documentation link alone: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api.
func overLimit(r *http.Response) bool {
	return r.StatusCode == http.StatusTooManyRequests ||
		r.StatusCode == http.StatusForbidden && (r.Header.Get("Retry-After") != "" || r.Header.Get("X-RateLimit-Remaining") == "0")
}
