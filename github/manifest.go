package github

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
)

// A GitHub App that is made from a manifest, without typing
// (https://docs.github.com/en/apps/sharing-github-apps/registering-a-github-app-from-a-manifest).

// ManifestConfig is what an App's manifest depends on.
type ManifestConfig struct {
	Name             string // at most 34 characters, GitHub's limit; whoever makes the App may change it there
	URL              string // where people reach Millrace
	RedirectURL      string // where GitHub sends the browser with the code that [ConvertManifest] takes
	PersonalAccounts bool   // ask for what only these need, too
}

// Where the App leads to, below Millrace's URL; cmd/millraced has a test that holds them against who serves them.
const (
	webhookPath  = "/webhooks/github"
	callbackPath = "/sign-in/github/callback"
	setupPath    = "/github/setup"
)

// Manifest is our App's manifest, in JSON. The device flow is not in it: GitHub lets nobody but people enable that.
func Manifest(cfg ManifestConfig) []byte {
	type hook struct {
		URL    string `json:"url"`
		Active bool   `json:"active"`
	}
	site := strings.TrimSuffix(cfg.URL, "/")
	m := struct {
		Name                  string            `json:"name"`
		URL                   string            `json:"url"`
		HookAttributes        hook              `json:"hook_attributes"`
		RedirectURL           string            `json:"redirect_url"`
		CallbackURLs          []string          `json:"callback_urls"`
		SetupURL              string            `json:"setup_url"`
		SetupOnUpdate         bool              `json:"setup_on_update"`
		Public                bool              `json:"public"` // otherwise only its owner could install it
		RequestOAuthOnInstall bool              `json:"request_oauth_on_install"`
		DefaultPermissions    map[string]string `json:"default_permissions"`
		DefaultEvents         []string          `json:"default_events"`
	}{
		Name: cfg.Name, URL: site, HookAttributes: hook{site + webhookPath, true}, RedirectURL: cfg.RedirectURL, CallbackURLs: []string{site + callbackPath},
		SetupURL: site + setupPath, SetupOnUpdate: true, Public: true, DefaultPermissions: map[string]string{}, DefaultEvents: millrace.AppEvents,
	}
	for _, p := range millrace.AppPermissions {
		if !p.Personal || cfg.PersonalAccounts {
			m.DefaultPermissions[p.Key] = p.Level()
		}
	}
	content, err := json.Marshal(m)
	if err != nil {
		panic(err) // it is text alone
	}
	return content
}

// NewApp is an App that was made from a manifest.
type NewApp struct {
	ID            int64
	Slug          string
	HTMLURL       string // its public page; people install it below
	ClientID      string
	ClientSecret  millrace.Secret
	WebhookSecret millrace.Secret
	PrivateKeyPEM millrace.Secret
}

// plain are GitHub's slugs and client ids, which go into files and links.
var plain = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// ConvertManifest trades the code for the App that it was made for (POST /app-manifests/{code}/conversions). It works once, and
// within an hour. Gone: the code was used, has expired or is none. Unavailable: GitHub is away, or its answer lacks something.
// A nil transport is [http.DefaultTransport].
func ConvertManifest(ctx context.Context, transport http.RoundTripper, apiURL, code string) (NewApp, error) {
	if !plain.MatchString(code) {
		return NewApp{}, millrace.Errorf(millrace.Gone, "%s", saysConverted)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(apiURL, "/")+"/app-manifests/"+url.PathEscape(code)+"/conversions", http.NoBody)
	if err != nil {
		return NewApp{}, err
	}
	var out struct {
		ID            int64  `json:"id"`
		Slug          string `json:"slug"`
		HTMLURL       string `json:"html_url"`
		ClientID      string `json:"client_id"`
		ClientSecret  string `json:"client_secret"`
		WebhookSecret string `json:"webhook_secret"`
		PEM           string `json:"pem"`
	}
	if _, err := send(&http.Client{Transport: cmp.Or(transport, http.DefaultTransport)}, req, "", &out); err != nil {
		return NewApp{}, fmt.Errorf("converting the manifest's code: %w", ofConversion(err))
	}
	app := NewApp{
		ID: out.ID, Slug: out.Slug, HTMLURL: httpURL(out.HTMLURL), ClientID: out.ClientID, ClientSecret: millrace.Secret(out.ClientSecret),
		WebhookSecret: millrace.Secret(out.WebhookSecret), PrivateKeyPEM: millrace.Secret(out.PEM),
	}
	_, err = jwt.ParseRSAPrivateKeyFromPEM([]byte(out.PEM))
	if err != nil || app.ID <= 0 || app.HTMLURL == "" || !plain.MatchString(app.Slug) || !plain.MatchString(app.ClientID) || app.ClientSecret == "" || app.WebhookSecret == "" {
		return NewApp{}, millrace.Errorf(millrace.Unavailable, "GitHub made the App and did not say all of its secrets. Delete it at GitHub and begin again.")
	}
	return app, nil
}

const saysConverted = "This code was used already or has expired. Begin again."

func ofConversion(err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		_, limited := refused.rateLimit(strings.ToLower(refused.message), time.Now())
		switch {
		case refused.status >= 500 || limited:
		case refused.status == http.StatusNotFound, refused.status == http.StatusUnprocessableEntity:
			return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Gone, "%s", saysConverted), err)
		default:
			return err
		}
	}
	return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Unavailable, "%s", saysAway), err)
}
