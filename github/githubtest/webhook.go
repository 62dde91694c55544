package githubtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// Outgoing is a delivery to be sent: Body with Header, after Delay.
type Outgoing struct {
	DeliveryID int64
	GUID       string
	Event      string
	Delay      time.Duration
	Header     http.Header // signed, as GitHub sends it
	Body       []byte
}

// send delivers a workflow_job event for j: once, as GitHub does, whatever the answer.
func (g *GitHub) send(j *job, action string) {
	g.touch()
	o := g.owners[strings.ToLower(j.Owner)]
	if o == nil { // a loaded job's owner may not be there any more
		return
	}
	was := *j // a redelivery has the same body
	was.Log, was.Steps = "", make([]*step, len(j.Steps))
	for i, s := range j.Steps {
		was.Steps[i] = new(*s)
	}
	g.emit("workflow_job", action, o, j.run.repo.ID, func() []byte { return g.event(&was, action) })
}

// sendInstallation delivers an installation event of what sender did.
func (g *GitHub) sendInstallation(o *owner, action string, sender map[string]any) {
	e := map[string]any{"action": action, "installation": g.installation(o), "sender": sender, "requester": nil}
	if action == "created" {
		list := []any{}
		for _, r := range o.repos {
			list = append(list, shortJSON(r))
		}
		e["repositories"] = list
	}
	body := mustJSON(e)
	g.emit("installation", action, o, 0, func() []byte { return body })
}

// sendRepositories delivers that the installation may see a repository from now on, or no more
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#installation_repositories).
func (g *GitHub) sendRepositories(o *owner, action string, r *repo) {
	lists := map[string][]any{"added": {}, "removed": {}}
	lists[action] = append(lists[action], shortJSON(r))
	body := mustJSON(map[string]any{
		"action": action, "installation": g.installation(o), "repository_selection": "all", "repositories_added": lists["added"],
		"repositories_removed": lists["removed"], "requester": nil, "sender": g.senderOf(o),
	})
	g.emit("installation_repositories", action, o, 0, func() []byte { return body })
}

// sendRepository delivers what was done to a repository (https://docs.github.com/en/webhooks/webhook-events-and-payloads#repository).
func (g *GitHub) sendRepository(o *owner, action string, r *repo, changes map[string]any) {
	e := map[string]any{"repository": g.repositoryJSON(o, r, r.Public)}
	if changes != nil {
		e["changes"] = changes
	}
	g.tell(o, "repository", action, r.ID, e)
}

// tell delivers an event in whose body the installation is only named.
func (g *GitHub) tell(o *owner, event, action string, repository int64, e map[string]any) {
	e["action"], e["sender"] = action, g.senderOf(o)
	e["installation"] = map[string]any{"id": o.Installation, "node_id": nodeID("I", o.Installation)}
	if o.Type == millrace.Organization {
		e["organization"] = g.organizationJSON(o.ID, o.Login)
	}
	body := mustJSON(e)
	g.emit(event, action, o, repository, func() []byte { return body })
}

// senderOf is who does what nobody in particular does at an owner: who installed the App there.
func (g *GitHub) senderOf(o *owner) map[string]any {
	if at, ok := find(g.people, o.Sender); ok {
		return g.user(g.people[at].Login)
	}
	return g.account(o)
}

// shortJSON is a repository as the events of an installation list it.
func shortJSON(r *repo) map[string]any {
	return map[string]any{"id": r.ID, "node_id": nodeID("R", r.ID), "name": r.Name, "full_name": r.fullName(), "private": !r.Public}
}

// emit makes a delivery and dispatches it, unless a fault swallows it. A suspended App is told nothing but that it is.
// What happens to a person has no owner.
func (g *GitHub) emit(event, action string, o *owner, repository int64, body func() []byte) {
	f := &g.faults
	switch {
	case g.cfg.WebhookURL == "" && g.cfg.Send == nil:
		return
	case o != nil && event != "installation" && (g.isSuspended(o) || g.isUninstalled(o)):
		return
	case f.HooksOff || g.roll(f.Drop):
		return
	}
	d := delivery{GUID: g.guid(), Event: event, Action: action, RepositoryID: repository, body: body}
	if o != nil {
		d.InstallationID = o.Installation
	}
	again := d
	g.dispatch(&d)
	if g.roll(f.Duplicate) {
		g.dispatch(&again)
	}
}

// dispatch sends a delivery on its way.
func (g *GitHub) dispatch(d *delivery) {
	f := &g.faults
	d.ID, d.Status = g.nextID(), "pending"
	if f.HooksOff || g.roll(f.Fail) {
		g.hooks.tried(d, 0, 0, g.cfg.Now().UTC())
		return
	}
	out := Outgoing{DeliveryID: d.ID, GUID: d.GUID, Event: d.Event, Header: http.Header{}, Body: d.body()}
	SetHeaders(out.Header, g.secret, d.Event, d.GUID, out.Body)
	if g.roll(f.Truncate) {
		out.Body = out.Body[:g.chance.IntN(len(out.Body))]
	}
	if g.roll(f.Reorder) {
		out.Delay = time.Duration(g.chance.Float64() * cmp.Or(f.DelayMaxS, 30) * float64(time.Second))
	}
	g.hooks.pending[d.ID] = d
	if g.cfg.Send != nil {
		g.cfg.Send(out)
		return
	}
	g.working.Go(func() { g.post(out) })
}

// sendsAtOnce is how many deliveries are on their way at the same time. GitHub has no known bound that one App would meet; with a
// low one, whoever is slow to answer would be told late what happened, and have more to do for it.
const sendsAtOnce = 256

// post waits for a delivery's time and its turn, delivers it and notes the answer.
func (g *GitHub) post(out Outgoing) {
	if out.Delay > 0 {
		timer := time.NewTimer(out.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			return
		}
	}
	select {
	case g.sending <- struct{}{}:
		defer func() { <-g.sending }()
	case <-g.ctx.Done():
		return
	}
	began := time.Now()
	status := g.deliver(out)
	g.Answered(out.DeliveryID, status, time.Since(began))
}

// answerWithin is how long GitHub waits for an answer.
const answerWithin = 10 * time.Second

// Answered says what became of a delivery that [Config.Send] was given: the answer's status, 0 when there was none, and
// how long it took. GitHub counts an answer after 10 s as none.
func (g *GitHub) Answered(deliveryID int64, status int, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if took > answerWithin {
		status, took = 0, answerWithin
	}
	if d, ok := g.hooks.pending[deliveryID]; ok {
		g.hooks.tried(d, status, took, g.cfg.Now().UTC())
	}
}

// deliver posts one delivery and returns the answer's status; 0 when there was none.
func (g *GitHub) deliver(out Outgoing) int {
	req, err := http.NewRequestWithContext(g.ctx, http.MethodPost, g.cfg.WebhookURL, bytes.NewReader(out.Body))
	if err != nil {
		return 0
	}
	req.Header = out.Header
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
func (g *GitHub) guid() string {
	b := g.randomBytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Settled waits until every delivery that was begun has been answered, or ctx ends. For tests.
func (g *GitHub) Settled(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		pending := len(g.hooks.pending)
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
