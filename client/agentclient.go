package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace-ci/millrace"
)

const (
	startPath = "/agent/v1/start"
	keysPath  = "/agent/v1/keys"
)

// IsFirst reports whether a request to path is signed in epoch 0, as its process has none yet.
func IsFirst(path string) bool { return path == startPath || path == keysPath }

// Time-outs of an agent's requests. A sync is held by the server for up to [millrace.LongestSync].
const (
	agentTimeout = 15 * time.Second
	syncTimeout  = millrace.LongestSync + 5*time.Second
	jitTimeout   = 30 * time.Second // GitHub is asked within it
)

// Agent speaks for one host. Its methods may be called at the same time. Errors that the server answered are
// *[millrace.Error]; all others mean that it wasn't reached or not understood.
type Agent struct {
	URL  string
	Host millrace.HostID
	Key  ed25519.PrivateKey
	HTTP *http.Client     // [NewHTTP], or a test's; not nil
	Now  func() time.Time // nil: time.Now

	epoch    atomic.Int64
	sequence atomic.Int64
	offset   atomic.Int64 // server's clock minus ours
	first    atomic.Int64 // the last sequence number in epoch 0
}

// Enroll turns this machine into a host of the token's org. It alone isn't signed.
func Enroll(ctx context.Context, c *http.Client, url string, in EnrollRequest) (EnrollResponse, error) {
	var out EnrollResponse
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+"/agent/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	r.Header.Set("Content-Type", "application/json")
	_, err = do(c, r, maxAgentBody, &out)
	out.Org = sentence(out.Org)
	return out, err
}

// Start begins a new epoch; all later requests are signed in it.
func (a *Agent) Start(ctx context.Context, in StartRequest) (StartResponse, error) {
	var out StartResponse
	err := a.post(ctx, agentTimeout, startPath, in, &out)
	if err == nil {
		a.epoch.Store(out.Epoch)
		a.offset.Store(int64(out.ServerTime.Sub(a.now())))
	}
	return out, err
}

// SetKeys replaces the host's keys; it is signed by [Agent.Key], the present one or, once that was done, the new one.
func (a *Agent) SetKeys(ctx context.Context, in KeysRequest) error {
	return a.post(ctx, agentTimeout, keysPath, in, nil)
}

// Sync reports what the host observes and returns what it should have; it takes up to [millrace.LongestSync].
func (a *Agent) Sync(ctx context.Context, in SyncRequest) (SyncResponse, error) {
	var out SyncResponse
	err := a.post(ctx, syncTimeout, "/agent/v1/sync", in, &out)
	if err == nil && out.VMs == nil { // a proxy's {} must not end all VMs
		err = errors.New("client: the server's answer has no list of VMs")
	}
	return out, err
}

// JIT asks for the registration of a VM's runner.
func (a *Agent) JIT(ctx context.Context, vm millrace.VMID, epoch int64) (JITResponse, error) {
	var out JITResponse
	return out, a.post(ctx, jitTimeout, "/agent/v1/vms/"+vm.String()+"/jit", JITRequest{Epoch: epoch}, &out)
}

// AppendConsole sends what a VM printed from byte offset on. A repeat of the same bytes changes nothing.
func (a *Agent) AppendConsole(ctx context.Context, vm millrace.VMID, offset int64, data []byte) error {
	path := fmt.Sprintf("/agent/v1/vms/%s/console?offset=%d", vm, offset)
	return a.send(ctx, agentTimeout, path, "application/octet-stream", data, nil)
}

// AppendLog sends what this agent's process said from byte offset on. A repeat of the same bytes changes nothing.
func (a *Agent) AppendLog(ctx context.Context, offset int64, data []byte) error {
	return a.send(ctx, agentTimeout, fmt.Sprintf("/agent/v1/log?offset=%d", offset), "application/octet-stream", data, nil)
}

// AppendSamples sends what a VM has used. A repeat changes nothing.
func (a *Agent) AppendSamples(ctx context.Context, vm millrace.VMID, in SamplesRequest) error {
	return a.post(ctx, agentTimeout, "/agent/v1/vms/"+vm.String()+"/samples", in, nil)
}

func (a *Agent) post(ctx context.Context, timeout time.Duration, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return a.send(ctx, timeout, path, "application/json", body, out)
}

// send signs and sends a request. A refusal is tried once more when the server's clock shows that ours is off.
func (a *Agent) send(ctx context.Context, timeout time.Duration, path, contentType string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for again := true; ; again = false {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.URL, "/")+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", contentType)
		Sign(r, body, a.Key, a.claims(IsFirst(path)))
		header, err := do(a.HTTP, r, maxAgentBody, out)
		if again && millrace.CodeOf(err) == millrace.Unauthenticated && a.adjust(header, IsFirst(path)) {
			continue
		}
		return err
	}
}

// claims are those of the next request.
func (a *Agent) claims(first bool) Claims {
	now := a.now().Add(time.Duration(a.offset.Load()))
	if first {
		last := a.first.Load()
		a.first.Store(max(last+1, now.UnixMilli()))
		return Claims{Host: a.Host, Sequence: a.first.Load(), Time: now}
	}
	return Claims{Host: a.Host, Epoch: a.epoch.Load(), Sequence: a.sequence.Add(1), Time: now}
}

// adjust takes the server's clock from an answer's Date, which is of a second, and reports whether ours was off enough to matter:
// for a first request, whose number is the time, that is less.
func (a *Agent) adjust(answer http.Header, first bool) bool {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return false
	}
	offset := date.Sub(a.now())
	matters := MaxSkew / 2
	if first {
		matters = 2 * time.Second
	}
	if (offset - time.Duration(a.offset.Load())).Abs() < matters {
		return false
	}
	a.offset.Store(int64(offset))
	a.first.Store(0) // what was refused used no number; one of a clock that was ahead would be the highest for hours
	return true
}

// Skew is how far the server's clock is ahead of ours, as of its last word on it.
func (a *Agent) Skew() time.Duration { return time.Duration(a.offset.Load()) }

func (a *Agent) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}
