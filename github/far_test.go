package github_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
)

// far is GitHub as one test needs it: it knows the App, gives tokens, and answers other calls as the test says. Its clock
// stands still.
type far struct {
	*http.ServeMux
	App *github.App

	mu     sync.Mutex
	now    time.Time
	token  string // the one that is good, of any installation
	tokens int
	calls  []string // "GET /path?query If-None-Match"
}

const (
	farApp          = 77
	farInstallation = 5
)

var farKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// newFar answers with routes, by pattern of [http.ServeMux].
func newFar(t *testing.T, routes map[string]http.HandlerFunc) *far {
	t.Helper()
	f := &far{ServeMux: http.NewServeMux(), now: time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)}
	if routes["POST /app/installations/{id}/access_tokens"] == nil {
		f.HandleFunc("POST /app/installations/{id}/access_tokens", f.giveToken)
	}
	for pattern, handler := range routes {
		f.HandleFunc(pattern, handler)
	}
	f.App = f.newApp(t, roundTripper(f.roundTrip))
	return f
}

func (f *far) newApp(t *testing.T, transport http.RoundTripper) *github.App {
	t.Helper()
	app, err := github.New(github.Config{
		APIURL: "https://github.test/", AppID: farApp, WebhookSecrets: []string{"s"}, Transport: transport, Now: f.clock,
		PrivateKeyPEM: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(farKey())}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func (f *far) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *far) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *far) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = ""
}

func (f *far) tokensGiven() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens
}

// asked are the calls since it was last asked for them, without those for tokens.
func (f *far) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *far) giveToken(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	f.token = fmt.Sprintf("ghs_%d", f.tokens)
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"token":%q,"expires_at":%q}`, f.token, f.now.Add(time.Hour).Format(time.RFC3339))
}

// roundTrip answers on the caller's goroutine, as a simulator's network does.
func (f *far) roundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	credential, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	app := strings.HasPrefix(r.URL.Path, "/app/")
	f.mu.Lock()
	good := credential != "" && credential == f.token
	if app {
		good = f.checkJWT(credential) == nil
	}
	if !strings.HasSuffix(r.URL.Path, "/access_tokens") {
		f.calls = append(f.calls, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("If-None-Match")))
	}
	f.mu.Unlock()
	if good {
		f.ServeHTTP(rec, r)
	} else {
		rec.WriteHeader(http.StatusUnauthorized)
		io.WriteString(rec, `{"message":"Bad credentials"}`)
	}
	return response(rec, r), nil
}

// checkJWT holds the App's JWT against GitHub's rules, by a clock that is up to a minute off.
func (f *far) checkJWT(text string) error {
	var c jwt.RegisteredClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(text, &c, func(*jwt.Token) (any, error) { return &farKey().PublicKey, nil }); err != nil {
		return err
	}
	if c.Issuer != "77" || c.IssuedAt.After(f.now.Add(-time.Minute)) || !c.ExpiresAt.After(f.now.Add(time.Minute)) || c.ExpiresAt.After(f.now.Add(9*time.Minute)) {
		return errors.New("the claims are wrong")
	}
	return nil
}

func (f *far) at() millrace.RepositoryTarget {
	return millrace.RepositoryTarget{InstallationID: farInstallation, FullName: "calm/engine"}
}

func (f *far) org() millrace.RunnerTarget {
	return millrace.RunnerTarget{InstallationID: farInstallation, Owner: "calm"}
}

// says answers with a status, headers ("Name: value") and a body.
func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}
