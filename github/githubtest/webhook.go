package githubtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// delivery is one webhook delivery, as GitHub lists it.
type delivery struct {
	ID             int64     `json:"id"`
	GUID           string    `json:"guid"`
	DeliveredAt    time.Time `json:"delivered_at"`
	Redelivery     bool      `json:"redelivery"`
	Duration       float64   `json:"duration"`
	Status         string    `json:"status"`
	StatusCode     int       `json:"status_code"`
	Event          string    `json:"event"`
	Action         string    `json:"action"`
	InstallationID int64     `json:"installation_id"`
	RepositoryID   int64     `json:"repository_id"`
}

// send delivers a workflow_job event for j in the background: once, as GitHub does, whatever the answer.
func (g *GitHub) send(o *owner, j *job, action string) {
	g.touch()
	if g.cfg.WebhookURL == "" || o == nil { // a loaded job's owner may not be there any more
		return
	}
	body, err := json.Marshal(g.event(o, j, action))
	if err != nil {
		panic("githubtest: " + err.Error()) // the payload is ours
	}
	d := &delivery{
		ID: g.nextID(), GUID: guid(), Event: "workflow_job", Action: action, InstallationID: o.Installation, RepositoryID: repositoryID(j), Status: "pending",
	}
	g.deliveries = append(g.deliveries, d)
	if len(g.deliveries) > 10_000 {
		g.deliveries = g.deliveries[1000:]
	}
	g.working.Go(func() {
		select {
		case g.sending <- struct{}{}:
			defer func() { <-g.sending }()
		case <-g.ctx.Done():
			return
		}
		began := time.Now()
		status := g.deliver(d.Event, d.GUID, body)
		g.mu.Lock()
		defer g.mu.Unlock()
		d.DeliveredAt, d.Duration, d.StatusCode = g.cfg.Now().UTC(), time.Since(began).Seconds(), status
		if d.Status = "OK"; status < 200 || status > 299 {
			d.Status = cmp.Or(http.StatusText(status), "failed to connect to host")
		}
	})
}

// deliver posts one signed delivery and returns the answer's status; 0 when there was none.
func (g *GitHub) deliver(event, guid string, body []byte) int {
	req, err := http.NewRequestWithContext(g.ctx, http.MethodPost, g.cfg.WebhookURL, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	SetHeaders(req.Header, g.secret, event, guid, body)
	resp, err := g.cfg.Client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) //nolint:errcheck // the answer's text says nothing to GitHub
	return resp.StatusCode
}

// SetHeaders sets the headers of a delivery as GitHub does, signature included.
func SetHeaders(h http.Header, secret, event, guid string, body []byte) {
	sum256 := hmac.New(sha256.New, []byte(secret))
	sum256.Write(body)
	sum1 := hmac.New(sha1.New, []byte(secret))
	sum1.Write(body)
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "GitHub-Hookshot/0d1f2a3")
	h.Set("Accept", "*/*")
	h.Set("X-GitHub-Delivery", guid)
	h.Set("X-GitHub-Event", event)
	h.Set("X-GitHub-Hook-ID", "400000001")
	h.Set("X-GitHub-Hook-Installation-Target-ID", strconv.Itoa(appID))
	h.Set("X-GitHub-Hook-Installation-Target-Type", "integration")
	h.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(sum1.Sum(nil)))
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum256.Sum(nil)))
}

// guid is a random UUID, which is what X-GitHub-Delivery holds.
func guid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newestFirst are the deliveries as GET /app/hook/deliveries lists them.
func (g *GitHub) newestFirst() []*delivery {
	list := make([]*delivery, 0, len(g.deliveries))
	for i := len(g.deliveries) - 1; i >= 0; i-- {
		list = append(list, g.deliveries[i])
	}
	return list
}

func (g *GitHub) listHookDeliveries(r *http.Request, _ *owner) (int, any, error) {
	list := slices.DeleteFunc(g.newestFirst(), func(d *delivery) bool { return d.Status == "pending" }) // GitHub lists what it has tried
	return http.StatusOK, listing{len(list), paged(r, list)}, nil
}

// Settled waits until every delivery that was begun has been answered, or ctx ends. For tests.
func (g *GitHub) Settled(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		pending := 0
		for _, d := range g.deliveries {
			if d.Status == "pending" {
				pending++
			}
		}
		g.mu.Unlock()
		if pending == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
