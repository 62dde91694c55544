package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/millrace-ci/millrace"
)

// OAuthConfig is the App as people sign in with it.
type OAuthConfig struct {
	URL          string // GitHub itself, e.g. https://github.com
	APIURL       string // REST API, e.g. https://api.github.com/
	ClientID     string
	ClientSecret millrace.Secret
	RedirectURL  string            // where GitHub sends browsers back to: one that the App has registered
	Transport    http.RoundTripper // nil: http.DefaultTransport
}

// OAuth signs people in at GitHub: https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/
// generating-a-user-access-token-for-a-github-app. It is a [millrace.SignIn]. It keeps nothing: a person's token is used for
// the calls that say who they are and is dropped with them.
type OAuth struct {
	config oauth2.Config
	api    *url.URL
	client *http.Client
}

var _ millrace.SignIn = (*OAuth)(nil)

// deviceGrant is RFC 8628's.
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// NewOAuth makes the sign-in. It makes no call.
func NewOAuth(cfg OAuthConfig) (*OAuth, error) {
	site := strings.TrimSuffix(cfg.URL, "/")
	api, err := url.Parse(strings.TrimSuffix(cfg.APIURL, "/") + "/")
	if err != nil || api.Host == "" {
		return nil, fmt.Errorf("GitHub's API URL %q is not a URL", cfg.APIURL)
	}
	for name, text := range map[string]string{"GitHub's URL": site, "the sign-in's redirect URL": cfg.RedirectURL} {
		if u, err := url.Parse(text); err != nil || u.Host == "" {
			return nil, fmt.Errorf("%s %q is not a URL", name, text)
		}
	}
	if cfg.ClientID == "" || cfg.ClientSecret.Reveal() == "" {
		return nil, errors.New("the GitHub App's client id or secret is missing: they are on the App's settings page")
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	return &OAuth{
		config: oauth2.Config{
			ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret.Reveal(), RedirectURL: cfg.RedirectURL,
			Endpoint: oauth2.Endpoint{
				AuthURL: site + "/login/oauth/authorize", TokenURL: site + "/login/oauth/access_token", DeviceAuthURL: site + "/login/device/code",
				AuthStyle: oauth2.AuthStyleInParams,
			},
		},
		api: api, client: &http.Client{Transport: cfg.Transport},
	}, nil
}

// AuthCodeURL is where a browser is sent to sign in. The challenge is PKCE's: a code that somebody else gets hold of is of no
// use without the verifier.
func (o *OAuth) AuthCodeURL(state, verifier string, selectAccount bool) string {
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if selectAccount {
		options = append(options, oauth2.SetAuthURLParam("prompt", "select_account"))
	}
	return o.config.AuthCodeURL(state, options...)
}

// Exchange trades a code for who it stands for.
func (o *OAuth) Exchange(ctx context.Context, code, verifier string) (millrace.GitHubPerson, error) {
	if code == "" || verifier == "" {
		return millrace.GitHubPerson{}, millrace.Errorf(millrace.Gone, "%s", saysAgain)
	}
	return o.personOf(ctx, &o.config, code, oauth2.VerifierOption(verifier))
}

// DeviceCode begins the sign-in of a device.
func (o *OAuth) DeviceCode(ctx context.Context) (millrace.DeviceCode, error) {
	login, cancel := o.login(ctx)
	defer cancel()
	d, err := o.config.DeviceAuth(login)
	if err != nil {
		return millrace.DeviceCode{}, fmt.Errorf("beginning a device's sign-in: %w", translateLogin(err))
	}
	if d.DeviceCode == "" || d.UserCode == "" || httpURL(d.VerificationURI) == "" { // {"error": "device_flow_disabled"}, with 200
		return millrace.DeviceCode{}, errors.New("GitHub gave no code for a device; the App's settings must enable the device flow")
	}
	return millrace.DeviceCode{
		Code: millrace.Secret(d.DeviceCode), UserCode: clean(d.UserCode), VerificationURL: httpURL(d.VerificationURI),
		ExpiresIn: max(0, time.Until(d.Expiry)).Round(time.Second), Interval: time.Duration(max(5, d.Interval)) * time.Second,
	}, nil
}

// PollDevice asks once whether somebody confirmed a device's code. A device's sign-in takes no client secret.
func (o *OAuth) PollDevice(ctx context.Context, code millrace.Secret) (millrace.GitHubPerson, error) {
	if code.Reveal() == "" {
		return millrace.GitHubPerson{}, millrace.Errorf(millrace.Gone, "%s", saysAgain)
	}
	public := o.config
	public.ClientSecret, public.RedirectURL = "", ""
	return o.personOf(ctx, &public, "", oauth2.SetAuthURLParam("grant_type", deviceGrant), oauth2.SetAuthURLParam("device_code", code.Reveal()))
}

// login is the context of one call of GitHub's login, bounded as every call is.
func (o *OAuth) login(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, o.client), callTimeout)
}

// personOf gets a token and reads whose it is.
func (o *OAuth) personOf(ctx context.Context, config *oauth2.Config, code string, options ...oauth2.AuthCodeOption) (millrace.GitHubPerson, error) {
	login, cancel := o.login(ctx)
	defer cancel()
	t, err := config.Exchange(login, code, options...)
	if err != nil {
		return millrace.GitHubPerson{}, fmt.Errorf("signing a person in: %w", translateLogin(err))
	}
	p, err := o.read(ctx, millrace.Secret(t.AccessToken))
	if err != nil {
		return millrace.GitHubPerson{}, fmt.Errorf("reading who has signed in: %w", translateLogin(err))
	}
	return p, nil
}

// What a person is told when a sign-in comes to nothing.
const (
	saysAgain   = "This sign-in was used already or has expired. Begin again."
	saysRefused = "You did not let us know at GitHub who you are. Begin again if you want to."
	saysAway    = "GitHub does not answer. Try again in a moment."
)

// loginErrors are what GitHub's login answers when that says something of the person or of their code; every other error of it
// is our configuration's (https://docs.github.com/en/apps/oauth-apps/maintaining-oauth-apps/
// troubleshooting-oauth-app-access-token-request-errors).
var loginErrors = map[string]error{
	"access_denied":         millrace.Errorf(millrace.Forbidden, "%s", saysRefused),
	"unverified_user_email": millrace.Errorf(millrace.Forbidden, "GitHub wants you to verify your email address there first."),
	"bad_verification_code": millrace.Errorf(millrace.Gone, "%s", saysAgain),
	"expired_token":         millrace.Errorf(millrace.Gone, "%s", saysAgain),
	"token_expired":         millrace.Errorf(millrace.Gone, "%s", saysAgain), // as GitHub's documentation calls it elsewhere
	"incorrect_device_code": millrace.Errorf(millrace.Gone, "%s", saysAgain),
	"authorization_pending": millrace.Errorf(millrace.Conflict, "Nobody has confirmed the code at GitHub yet."),
	"slow_down":             millrace.Errorf(millrace.LimitReached, "GitHub was asked too soon again. Wait five seconds longer from now on."),
}

// translateLogin maps what went wrong to our codes; the chain is kept for the log. What has no code is our mistake.
func translateLogin(err error) error {
	var said *oauth2.RetrieveError
	if errors.As(err, &said) && said.ErrorCode != "" {
		if known, ok := loginErrors[said.ErrorCode]; ok {
			return fmt.Errorf("%w: %w", known, err)
		}
		return err
	}
	var refused *refusal
	switch {
	case said != nil: // its text is the whole page
		refused = &refusal{call: "GitHub's login", status: said.Response.StatusCode, header: said.Response.Header, message: messageOf(said.Body)}
		err = refused
	case errors.As(err, &refused):
	case millrace.CodeOf(err) != millrace.Internal:
		return err
	default:
		return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Unavailable, "%s", saysAway), err)
	}
	_, limited := refused.rateLimit(strings.ToLower(refused.message), time.Now())
	switch {
	case refused.status >= 500 || limited:
		return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Unavailable, "%s", saysAway), err)
	case refused.status == http.StatusUnauthorized: // the person took it back at once
		return fmt.Errorf("%w: %w", millrace.Errorf(millrace.Gone, "%s", saysAgain), err)
	}
	return err
}
