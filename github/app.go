// Package github is our GitHub App: it verifies and decodes webhooks, registers runners, and reads repositories, their jobs,
// members of organisations and the App's deliveries. Everything that knows GitHub's shapes is here, with those of go-github
// where it has them; the rest of the product knows the ports of package millrace.
//
// A call starts no goroutine and reads no clock but Config.Now, but for its time-out: with a Transport that starts none
// either, a simulator that has one thread and a clock of its own can drive it. go-github's client can't be, which counts
// down rate limits by the machine's clock; so the calls are our own.
package github

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
)

// Config is the App's identity.
type Config struct {
	APIURL         string // REST API, e.g. https://api.github.com/ or https://HOST/api/v3/
	AppID          int64
	PrivateKeyPEM  []byte
	WebhookSecrets []string          // more than one while rotating
	Transport      http.RoundTripper // nil: one of its own
	Now            func() time.Time  // nil: time.Now
	Pauses         Pauses            // nil: none are kept
}

// Pauses remember, for all processes, until when GitHub has asked the App not to call as itself.
type Pauses interface {
	AppPause(ctx context.Context) (until time.Time, err error) // zero: it may
	PauseApp(ctx context.Context, until time.Time) error
}

// App speaks to GitHub as the App and as its installations. It is a [millrace.WebhookSource] and a [millrace.GitHub].
type App struct {
	cfg     Config
	key     *rsa.PrivateKey
	secrets [][]byte
	api     *url.URL
	tokens  *tokens
	answers *answers

	signing sync.Mutex
	jwt     token // the App's own
}

var (
	_ millrace.WebhookSource = (*App)(nil)
	_ millrace.GitHub        = (*App)(nil)
)

// Bounds of what is remembered for conditional calls: a run is 15 KB, a job 3 KB.
const (
	maxAnswers     = 20_000
	maxAnswerBytes = 64 << 20
)

// callTimeout bounds one call: GitHub answers within 10 s or not at all.
const callTimeout = 15 * time.Second

// keeping keeps as many connections as GitHub serves requests at the same time
// (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits). By default two would be
// kept, and most calls of a burst connect anew where it speaks HTTP/1.1.
var keeping = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 100
	return t
}()

// New makes the App. It makes no call.
func New(cfg Config) (*App, error) {
	api, err := url.Parse(strings.TrimSuffix(cfg.APIURL, "/") + "/")
	if err != nil || api.Host == "" {
		return nil, fmt.Errorf("GitHub's API URL %q is not a URL", cfg.APIURL)
	}
	if cfg.Transport == nil {
		cfg.Transport = keeping
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM(cfg.PrivateKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("the GitHub App's private key: %w", err)
	}
	a := &App{cfg: cfg, key: key, api: api, answers: newAnswers(maxAnswers, maxAnswerBytes)}
	a.tokens = &tokens{now: cfg.Now, create: a.createToken, kept: map[int64]token{}, renewals: map[int64]*renewal{}}
	for _, s := range cfg.WebhookSecrets {
		if s = strings.TrimSpace(s); s != "" {
			a.secrets = append(a.secrets, []byte(s))
		}
	}
	return a, nil
}

// answer is what is read of an answer beside its body; zero when there was none.
type answer struct {
	status int
	header http.Header
}

// quota is what the answer says of the rate limit; zero when it says nothing.
func (r answer) quota() millrace.Quota {
	limit, err := strconv.Atoi(r.header.Get("X-RateLimit-Limit"))
	remaining, err2 := strconv.Atoi(r.header.Get("X-RateLimit-Remaining"))
	if err != nil || err2 != nil || limit <= 0 {
		return millrace.Quota{}
	}
	return millrace.Quota{Limit: limit, Remaining: max(0, remaining), Reset: unix(r.header.Get("X-RateLimit-Reset"))}
}

// do makes one call, as the App or as an installation, and turns GitHub's refusals into our codes and conditions. A kept token
// may have been revoked (a suspended installation that is back): the call is made once more with a new one.
func (a *App) do(ctx context.Context, installation int64, method, path string, in, out any) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for again := installation != asApp; ; again = false {
		var got answer
		credential, err := a.credential(bounded, installation)
		if err == nil {
			got, err = a.call(bounded, installation, credential, method, path, in, out)
		}
		if got.status == http.StatusUnauthorized && again {
			a.tokens.drop(installation, credential)
			continue
		}
		return got, a.translate(ctx, err)
	}
}

// maxAnswer is far above the largest answer, a page of 100 runs.
const maxAnswer = 32 << 20

// readAnswer reads a body of at most maxAnswer.
func readAnswer(body io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(content) > maxAnswer {
		err = errors.New("GitHub's answer is too large")
	}
	return content, err
}

// call makes one call. Its error is a *refusal when the answer isn't 2xx, *unreachable when there was none, and *pause when
// it was not made.
func (a *App) call(ctx context.Context, installation int64, credential, method, path string, in, out any) (answer, error) {
	if installation == asApp {
		if err := a.paused(ctx); err != nil {
			return answer{}, err
		}
	}
	u, err := a.api.Parse(path)
	if err != nil {
		return answer{}, err
	}
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return answer{}, err
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return answer{}, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	got, err := send(&http.Client{Transport: conditional{a.cfg.Transport, installation, a.answers}}, req, credential, out)
	var refused *refusal
	if installation == asApp && errors.As(err, &refused) {
		if got.status == http.StatusUnauthorized {
			a.dropJWT(credential)
		}
		return got, errors.Join(err, a.notePause(ctx, refused))
	}
	return got, err
}

// send makes a call with a credential, "" for one that needs none. Its error is a *refusal when the answer isn't 2xx, and *unreachable when there was
// none.
func send(client *http.Client, req *http.Request, credential string, out any) (answer, error) {
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	req.Header.Set("User-Agent", "millrace")
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential) // on the request: a redirect to another host loses it
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, &unreachable{err}
	}
	defer resp.Body.Close()
	got := answer{resp.StatusCode, resp.Header}
	content, err := readAnswer(resp.Body)
	switch {
	case got.status < 200 || got.status > 299:
		return got, &refusal{call: req.Method + " " + req.URL.Path, status: got.status, header: got.header, message: messageOf(content)}
	case err != nil:
		return got, &unreachable{err}
	case out == nil:
		return got, nil
	}
	if err := json.Unmarshal(content, out); err != nil {
		return got, fmt.Errorf("%s %s: GitHub's answer is not what was asked for: %w", req.Method, req.URL.Path, err)
	}
	return got, nil
}
