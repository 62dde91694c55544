// Package githubtest is a stand-in GitHub: a small, stateful one, for development and tests. It has the REST calls that
// the product makes, in GitHub's shapes; signed webhooks with GitHub's headers and full-size payloads; and a broker that,
// like GitHub's, gives a queued job to any idle runner that has its labels, so that jobs do get stolen.
//
// Its parts: the REST API (api.go, runners.go, run.go), who gets which job (assign.go), the broker that runners speak to
// (broker.go) and the same without a network (machine.go), webhooks (webhook.go, payload.go), people and how they sign in
// (person.go, member.go, login.go, token.go, device.go, user.go, install.go, manifest.go), and the control interface with its pages (standin.go,
// page.go).
package githubtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"hash/fnv"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

// Config is how a stand-in is set up. Its zero value but URL is useful.
type Config struct {
	URL          string           // where it is served
	RunnerURL    string           // where runners reach it, if elsewhere: a guest's way to its host
	WebhookURL   string           // where deliveries go; "" sends none
	SetupURL     string           // where a browser goes after an installation; "": it stays
	CallbackURLs []string         // where the sign-in may lead; the first unless it says
	StateFile    string           // jobs, people, installations and IDs outlive a restart; "" keeps them in memory
	Demo         bool             // sample workflows on the front page
	Now          func() time.Time // nil: time.Now
	Rand         *mathrand.Rand   // all that is left to chance: who gets a job, GUIDs, tokens, faults; nil: random
	Key          *rsa.PrivateKey  // the App's; nil: a new one
	Client       *http.Client     // delivers webhooks; nil: one with GitHub's time-out of 10 s
	// LosesJobAfter is how long a runner that runs a job may be silent until the job is lost; 0: GitHub's ten minutes.
	LosesJobAfter time.Duration

	// Send takes over the deliveries, whatever WebhookURL says, for a loop that owns time: the stand-in then posts
	// nothing, starts no goroutine and writes no StateFile. Whoever sends a delivery later tells [GitHub.Answered]; whoever owns time calls
	// [GitHub.Tidy]. The lock is held: Send may only enqueue.
	Send func(Outgoing)
	// Assigned hears that the broker gave a job to a runner, which may now [GitHub.PickUp] it. The lock is held: it may
	// only enqueue.
	Assigned func(runnerID, jobID int64)
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

	mu            sync.Mutex
	lastID        int64
	owners        map[string]*owner // by login in lower case
	installations map[int64]*owner
	repos         map[string]*repo // by owner/name in lower case
	moved         map[string]*repo // by what they were called before
	runs          map[int64]*run
	jobs          map[int64]*job
	order         []*job // all, as they were queued
	open          []*job // those that are not completed, by id
	pools         map[string]*pool
	runners       map[int64]*runner
	registered    []*runner // all, by id
	byToken       map[string]*runner
	scopes        map[string]*scope
	tokens        map[string]*token
	people        []*person                // by id
	logins        map[string]*person       // by login in lower case
	orgs          map[string]*organisation // by login in lower case
	codes         map[string]*code
	userTokens    map[string]*userToken // by either of their texts
	devices       map[string]*device
	manifests     map[string]*manifestCode
	calls         []Call
	sequence      int
	violations    []Violation
	faults        Faults
	chance        *mathrand.Rand // what faults draw from
	app, nobody   *quota
	etags         map[string]etag // of answers, by path and query
	rendered      map[account]json.RawMessage
	hooks         hooks
	sending       chan struct{}
	dirty         chan struct{} // the state file is behind
}

// owner is a GitHub organisation or personal account with the App installed.
type owner struct {
	ID           int64
	Login        string
	Type         millrace.OwnerType
	Installation int64
	Sender       int64
	byPerson     bool // somebody installed it by hand, or changed something of it since

	repos       []*repo // by name
	quota       *quota
	uninstalled bool      // by somebody, not by a fault
	paused      bool      // suspended by somebody, not by a fault
	suspended   time.Time // when it last was
}

type token struct {
	installation int64
	expires      time.Time
	failed       bool // an injected fault refused it, which happens once
}

// appID is the App's id.
const appID = 4242

// New makes a stand-in; [GitHub.Close] ends it. With [Config.Send] it does nothing by itself; otherwise it has a janitor.
func New(cfg Config) (*GitHub, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: answerWithin}
	}
	if cfg.RunnerURL == "" {
		cfg.RunnerURL = cfg.URL
	}
	cfg.LosesJobAfter = cmp.Or(cfg.LosesJobAfter, silentAtMost)
	if cfg.Rand == nil {
		var seed [32]byte
		rand.Read(seed[:])
		cfg.Rand = mathrand.New(mathrand.NewChaCha8(seed)) // it makes secrets, too
	}
	if cfg.Key == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		cfg.Key = key
	}
	g := &GitHub{
		cfg: cfg, key: cfg.Key, owners: map[string]*owner{}, installations: map[int64]*owner{}, repos: map[string]*repo{}, moved: map[string]*repo{}, runs: map[int64]*run{},
		jobs: map[int64]*job{}, pools: map[string]*pool{}, runners: map[int64]*runner{}, byToken: map[string]*runner{}, scopes: map[string]*scope{},
		tokens: map[string]*token{}, logins: map[string]*person{}, orgs: map[string]*organisation{}, codes: map[string]*code{},
		userTokens: map[string]*userToken{}, devices: map[string]*device{}, manifests: map[string]*manifestCode{}, hooks: hooks{pending: map[int64]*delivery{}}, sending: make(chan struct{}, sendsAtOnce), dirty: make(chan struct{}, 1),
		chance: cfg.Rand, app: newQuota(0, perHour), nobody: newQuota(0, 60), etags: map[string]etag{}, rendered: map[account]json.RawMessage{},
	}
	g.secret = g.randomHex(20)
	// IDs never repeat, not even over restarts, and stay below 2^53 as GitHub's do.
	g.lastID = cfg.Now().UnixMilli() * 1000
	g.ctx, g.close = context.WithCancel(context.Background())
	g.routes()
	if err := g.load(); err != nil {
		return nil, err
	}
	if cfg.Send == nil {
		g.working.Go(g.janitor)
		g.working.Go(g.saver)
	}
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

func (g *GitHub) randomHex(n int) string { return hex.EncodeToString(g.randomBytes(n)) }

func (g *GitHub) randomBytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, g.cfg.Rand.Uint64())
	}
	return b[:n]
}
