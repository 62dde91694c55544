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
	secrets [][]byte
	api     *url.URL
	app     *ghinstallation.AppsTransport

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
	transport, err := ghinstallation.NewAppsTransport(cfg.Transport, cfg.AppID, cfg.PrivateKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("the GitHub App's private key: %w", err)
	}
	transport.BaseURL = strings.TrimSuffix(api.String(), "/")
	a := &App{api: api, app: transport, clients: map[int64]*github.Client{}}
	for _, s := range cfg.WebhookSecrets {
		if s = strings.TrimSpace(s); s != "" {
			a.secrets = append(a.secrets, []byte(s))
		}
	}
	return a, nil
}

// client is the client of one installation; its token is fetched, kept and renewed by ghinstallation.
func (a *App) client(installation int64) *github.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.clients[installation]
	if !ok {
		transport := ghinstallation.NewFromAppsTransport(a.app, installation)
		transport.BaseURL = a.app.BaseURL
		c = github.NewClient(&http.Client{Transport: transport, Timeout: callTimeout})
		c.BaseURL = a.api
		a.clients[installation] = c
	}
	return c
}

// do makes one call and turns GitHub's refusals into our codes.
func (a *App) do(ctx context.Context, installation int64, method, path string, in, out any) error {
	c := a.client(installation)
	req, err := c.NewRequest(method, path, in)
	if err != nil {
		return err
	}
	_, err = c.Do(ctx, req, out)
	return translate(err)
}

// translate maps what GitHub answers to our codes; the chain is kept for the log.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	if errors.As(err, &limit) || errors.As(err, &abuse) {
		return fmt.Errorf("%w: %w", millrace.Errorf(millrace.LimitReached, "GitHub's rate limit is used up."), err)
	}
	var refused *github.ErrorResponse
	if errors.As(err, &refused) && refused.Response != nil {
		switch code := refused.Response.StatusCode; code {
		case http.StatusNotFound, http.StatusGone:
			return fmt.Errorf("%w: %w", millrace.Errorf(millrace.NotFound, "GitHub does not know it."), err)
		case http.StatusConflict, http.StatusUnprocessableEntity:
			return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Conflict, "GitHub refused: %s", refused.Message), err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Forbidden, "GitHub refused: %s", refused.Message), err)
		}
	}
	return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Unavailable, "GitHub could not be reached."), err)
}
