package api_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestWebhook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	queued := func(owner string, labels ...string) []byte {
		id, err := w.github.Queue(githubtest.QueueRequest{Owner: owner, Repo: "app", Labels: labels, Actor: "mona"})
		if err != nil {
			t.Fatal(err)
		}
		return w.github.Event(id, "queued")
	}
	good := queued("calm", "millrace")
	w.github.AddOwner("stranger", millrace.Organization)
	none := func(http.Header) {}
	resign := func(algorithm, secret string, body []byte) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		return algorithm + "=" + hex.EncodeToString(mac.Sum(nil))
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	deep := bytes.Replace(good, []byte(`{`), []byte(`{"deep":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`,`), 1)
	typed := func(old, with string) []byte {
		body := bytes.Replace(good, []byte(old), []byte(with), 1)
		if bytes.Equal(body, good) {
			t.Fatalf("%s is not in the event", old)
		}
		return body
	}
	for _, c := range []struct {
		name   string
		body   []byte // signed as it is here
		change func(http.Header)
		sent   []byte // instead of body
		want   int
	}{
		{name: "unsigned", body: good, change: func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Del("X-Hub-Signature") }, want: 401},
		{name: "SHA-1 only", body: good, change: func(h http.Header) { h.Del("X-Hub-Signature-256") }, want: 401},
		{name: "SHA-1 as SHA-256", body: good, change: func(h http.Header) { h.Set("X-Hub-Signature-256", h.Get("X-Hub-Signature")) }, want: 401},
		{name: "another secret", body: good, change: func(h http.Header) { h.Set("X-Hub-Signature-256", resign("sha256", "guessed", good)) }, want: 401},
		{name: "empty secret", body: good, change: func(h http.Header) { h.Set("X-Hub-Signature-256", resign("sha256", "", good)) }, want: 401},
		{name: "another algorithm", body: good, change: func(h http.Header) {
			h.Set("X-Hub-Signature-256", resign("sha512", w.github.WebhookSecret(), good))
		}, want: 401},
		{name: "half a signature", body: good, change: func(h http.Header) { h.Set("X-Hub-Signature-256", h.Get("X-Hub-Signature-256")[:39]) }, want: 401},
		{name: "one bit flipped", body: good, sent: flipped, want: 401},
		{name: "truncated after signing", body: good, sent: good[:len(good)-1], want: 401},
		{name: "unsigned garbage", body: good, sent: []byte("{"), want: 401},
		{name: "truncated", body: good[:len(good)-1], want: 400},
		{name: "deep", body: deep, want: 400},
		{name: "not UTF-8", body: typed(`"mona"`, "\"mon\xff\""), want: 400},
		{name: "garbage", body: []byte("garbage"), want: 400},
		{name: "empty", body: nil, want: 400},
		{name: "two values", body: append(bytes.Clone(good), "{}"...), want: 400},
		{name: "an array", body: []byte(`[]`), want: 400},
		{name: "no event's shape", body: []byte(`{}`), want: 400},
		{name: "a job without an ID", body: []byte(`{"action":"queued","workflow_job":{},"repository":{"id":1,"full_name":"a/b"},"installation":{"id":1}}`), want: 400},
		{name: "an unknown status", body: typed(`"status":"queued"`, `"status":"dancing"`), want: 400},
		{name: "an attempt that no column holds", body: typed(`"run_attempt":1`, `"run_attempt":1099511627776`), want: 400},
		{name: "a form", body: good, change: func(h http.Header) { h.Set("Content-Type", "application/x-www-form-urlencoded") }, want: 400},
		{name: "too large", body: append(bytes.Clone(good), bytes.Repeat([]byte(" "), 25<<20)...), want: 413},
		{name: "unknown event", body: good, change: func(h http.Header) { h.Set("X-GitHub-Event", "star") }, want: 202},
		{name: "unknown installation", body: queued("stranger", "millrace"), want: 202},
		{name: "labels that aren't ours", body: queued("calm", "ubuntu-latest"), want: 202},
	} {
		r := w.request(http.MethodPost, "/webhooks/github", c.body)
		if c.sent != nil {
			r = w.request(http.MethodPost, "/webhooks/github", c.sent)
		}
		githubtest.SetHeaders(r.Header, w.github.WebhookSecret(), "workflow_job", "guid", c.body)
		if c.change == nil {
			c.change = none
		}
		c.change(r.Header)
		a := w.send(r)
		if c.want >= 400 {
			problem(t, c.name, a, c.want)
		} else if a.status != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, a.status, a.body, c.want)
		}
		if n := scalar[int](w, `SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM repositories)`); n != 0 {
			t.Fatalf("%s: %d rows were written", c.name, n)
		}
	}

	for name, guid := range map[string]string{"good": "guid-1", "again": "guid-1", "a strange GUID": "\xff\xfe"} {
		r := w.request(http.MethodPost, "/webhooks/github", good)
		githubtest.SetHeaders(r.Header, w.github.WebhookSecret(), "workflow_job", guid, good)
		if a := w.send(r); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if n := scalar[int](w, `SELECT count(*) FROM jobs`); n != 1 {
		t.Errorf("%d jobs, want 1", n)
	}
	a := w.send(w.request(http.MethodGet, "/webhooks/github", nil))
	problem(t, "GET", a, http.StatusMethodNotAllowed)
	if a.header.Get("Allow") != http.MethodPost {
		t.Errorf("GET: Allow is %q; RFC 9110 §15.5.6 asks for it", a.header.Get("Allow"))
	}
}

// A client that sends all before it reads hears that its body is too large, and not that the connection was reset.
func TestTooLargeIsHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, length := range []string{"Content-Length: 27000000", "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := strings.Repeat(" ", 27_000_000)
		if !strings.HasPrefix(length, "Content") {
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		if _, err := fmt.Fprintf(conn, "POST /webhooks/github HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s", length, body); err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %s", length, resp.Status)
		}
	}
}

// A secret is rotated by accepting two for a while.
func TestWebhookSecretsRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, err := w.github.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "app", Labels: []string{"millrace"}})
	if err != nil {
		t.Fatal(err)
	}
	body := w.github.Event(id, "queued")
	r := w.request(http.MethodPost, "/webhooks/github", body)
	githubtest.SetHeaders(r.Header, "an older one", "workflow_job", "guid", body)
	if a := w.send(r); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}
