// Package githubtest is a stand-in GitHub: a small, stateful one, for development and tests. It has the REST calls that
// the product makes, in GitHub's shapes; signed webhooks with GitHub's headers and full-size payloads; and a broker that,
// like GitHub's, gives a queued job to any idle runner that has its labels, so that jobs do get stolen.
//
// Its parts: the REST API (api.go, runners.go, jobs.go), the broker that runners speak to (broker.go), webhooks
// (webhook.go, payload.go), and the control interface with its pages (standin.go, page.go).
package githubtest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"hash/fnv"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

// Config is how a stand-in is set up. Its zero value but URL is useful.
type Config struct {
	URL        string           // where it is served
	RunnerURL  string           // where runners reach it, if elsewhere: a guest's way to its host
	WebhookURL string           // where deliveries go; "" sends none
	StateFile  string           // jobs and IDs outlive a restart; "" keeps them in memory
	Demo       bool             // sample workflows on the front page
	Now        func() time.Time // nil: time.Now
	Rand       *mathrand.Rand   // picks the runner of a job; nil: random
	Client     *http.Client     // delivers webhooks; nil: one with GitHub's time-out of 10 s
}

// GitHub is the stand-in. It is an [http.Handler].
type GitHub struct {
	cfg     Config
	key     *rsa.PrivateKey
	secret  string
	mux     *http.ServeMux
	ctx     context.Context //nolint:containedctx // ends the deliveries and the janitor; Close ends it
	close   context.CancelFunc
	working sync.WaitGroup

	mu         sync.Mutex
	lastID     int64
	owners     map[string]*owner // by login in lower case
	jobs       map[int64]*job
	runners    map[int64]*runner
	tokens     map[string]token
	deliveries []*delivery
	calls      []Call
	sequence   int // of calls, for rate-limit headers
	sending    chan struct{}
	dirty      chan struct{} // the state file is behind
}

// owner is a GitHub organisation or personal account with the App installed.
type owner struct {
	ID           int64
	Login        string
	Type         millrace.OwnerType
	Installation int64
	Sender       int64
}

type token struct {
	installation int64
	expires      time.Time
}

// appID is the App's id.
const appID = 4242

// New makes a stand-in and its janitor; [GitHub.Close] ends it.
func New(cfg Config) (*GitHub, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 10 * time.Second}
	}
	if cfg.RunnerURL == "" {
		cfg.RunnerURL = cfg.URL
	}
	if cfg.Rand == nil {
		cfg.Rand = mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64()))
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	g := &GitHub{
		cfg: cfg, key: key, secret: randomHex(20), owners: map[string]*owner{}, jobs: map[int64]*job{}, runners: map[int64]*runner{},
		tokens: map[string]token{}, sending: make(chan struct{}, 16), dirty: make(chan struct{}, 1),
	}
	// IDs never repeat, not even over restarts, and stay below 2^53 as GitHub's do.
	g.lastID = cfg.Now().UnixMilli() * 1000
	g.ctx, g.close = context.WithCancel(context.Background())
	g.routes()
	if err := g.load(); err != nil {
		return nil, err
	}
	g.working.Go(g.janitor)
	g.working.Go(g.saver)
	return g, nil
}

// Close ends deliveries and writes the state file.
func (g *GitHub) Close() {
	g.close()
	g.working.Wait()
}

// ServeHTTP serves the API, the broker, the control interface and the pages.
func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// URL is where the stand-in is served; the REST API is below it as on GitHub Enterprise Server.
func (g *GitHub) URL() string { return g.cfg.URL }

// APIURL is the REST API's base.
func (g *GitHub) APIURL() string { return g.cfg.URL + apiPath + "/" }

const apiPath = "/api/v3"

// AppID is the App's id.
func (g *GitHub) AppID() int64 { return appID }

// PrivateKeyPEM is the App's private key.
func (g *GitHub) PrivateKeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(g.key)})
}

// WebhookSecret signs the deliveries.
func (g *GitHub) WebhookSecret() string { return g.secret }

// Owner is an account with the App installed, and the id of the person who triggers its workflows.
type Owner struct {
	millrace.Installation
	SenderID int64
}

// AddOwner adds an account and installs the App on it. An account has the same ids in every run.
func (g *GitHub) AddOwner(login string, kind millrace.OwnerType) Owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.owners[strings.ToLower(login)]
	if !ok {
		o = &owner{ID: idOf("owner/" + login), Login: login, Type: kind, Installation: idOf("installation/" + login), Sender: idOf("user/" + login)}
		g.owners[strings.ToLower(login)] = o
	}
	return Owner{
		Installation: millrace.Installation{ID: o.Installation, OwnerID: o.ID, OwnerLogin: o.Login, OwnerType: o.Type},
		SenderID:     o.Sender,
	}
}

// idOf is an id that depends on a name alone.
func idOf(name string) int64 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return 1_000_000 + int64(h.Sum32())
}

func (g *GitHub) nextID() int64 {
	g.lastID++
	return g.lastID
}

func (g *GitHub) now() time.Time { return g.cfg.Now().UTC().Truncate(time.Second) } // GitHub's clock has whole seconds

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
