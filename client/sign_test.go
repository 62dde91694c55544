package client_test

import (
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

var signedAt = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

const signedBody = `{"have":3}`

func signKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(make([]byte, 31), seed))
}

// signed is a good request as the server reads it, the host that made it and the way to that host's key.
func signed(t testing.TB) (*http.Request, millrace.HostID, func(millrace.HostID) (ed25519.PublicKey, error)) {
	t.Helper()
	host := millrace.HostID{15: 1}
	r := httptest.NewRequest(http.MethodPost, "/agent/v1/sync?a=1&b=2", http.NoBody)
	client.Sign(r, []byte(signedBody), signKey(1), client.Claims{Host: host, Epoch: 3, Sequence: 17, Time: signedAt})
	return r, host, func(id millrace.HostID) (ed25519.PublicKey, error) {
		if id != host {
			return nil, millrace.Errorf(millrace.NotFound, "There is no host with this ID.")
		}
		return signKey(1).Public().(ed25519.PublicKey), nil
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r, host, keyOf := signed(t)
	for _, skew := range []time.Duration{0, time.Minute, -time.Minute} {
		c, err := client.Verify(r, []byte(signedBody), keyOf, signedAt.Add(skew))
		want := client.Claims{Host: host, Epoch: 3, Sequence: 17, Time: signedAt}
		if err != nil || c.Host != want.Host || c.Epoch != 3 || c.Sequence != 17 || !c.Time.Equal(signedAt) {
			t.Errorf("skew %v: got %+v, %v; want %+v", skew, c, err, want)
		}
	}
}

// The numbers are those of research/security.md.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	const name = client.SignatureHeader
	edit := func(old, repl string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, strings.Replace(r.Header.Get(name), old, repl, 1)) }
	}
	tests := []struct {
		name   string
		change func(*http.Request)
		body   string
		now    time.Duration
	}{
		{name: "H11 unsigned", change: func(r *http.Request) { r.Header.Del(name) }},
		{name: "H11 empty", change: func(r *http.Request) { r.Header.Set(name, "") }},
		{name: "H11 another host's id", change: edit("host=host_00000000000000000000000001", "host=host_00000000000000000000000002")},
		{name: "H11 a VM's id", change: edit("host=host_", "host=vm_")},
		{name: "H11 no host", change: edit("host=host_00000000000000000000000001", "host=")},
		{name: "H11 wrong key", change: func(r *http.Request) {
			client.Sign(r, []byte(signedBody), signKey(2), client.Claims{Host: millrace.HostID{15: 1}, Epoch: 3, Sequence: 17, Time: signedAt})
		}},
		{name: "H12 body", body: `{"have":4}`},
		{name: "H12 no body", body: " "},
		{name: "H13 other sequence", change: edit("seq=17", "seq=18")},
		{name: "H13 other epoch", change: edit("epoch=3", "epoch=4")},
		{name: "H14 late", now: 61 * time.Second},
		{name: "H14 early", now: -61 * time.Second},
		{name: "H14 a day", now: 24 * time.Hour},
		{name: "H14 other time", change: edit("time=", "time=1")},
		{name: "H15 algorithm", change: edit("v1 ", "v1 alg=none,")},
		{name: "H15 version", change: edit("v1 ", "v2 ")},
		{name: "H15 no fields", change: func(r *http.Request) { r.Header.Set(name, "v1 ") }},
		{name: "H15 empty signature", change: func(r *http.Request) {
			h := r.Header.Get(name)
			r.Header.Set(name, h[:strings.Index(h, "sig=")+len("sig=")])
		}},
		{name: "H15 duplicate field", change: edit("seq=17", "seq=17,seq=17")},
		{name: "H15 field after", change: func(r *http.Request) { r.Header.Set(name, r.Header.Get(name)+",x=1") }},
		{name: "H15 order", change: edit("epoch=3,seq=17", "seq=17,epoch=3")},
		{name: "H15 duplicate header", change: func(r *http.Request) { r.Header.Add(name, r.Header.Get(name)) }},
		{name: "H15 query order", change: func(r *http.Request) { r.RequestURI = "/agent/v1/sync?b=2&a=1" }},
		{name: "H15 path", change: func(r *http.Request) { r.RequestURI = "/agent/v1/start?a=1&b=2" }},
		{name: "H15 method", change: func(r *http.Request) { r.Method = http.MethodPut }},
		{name: "H15 leading zero", change: edit("seq=17", "seq=017")},
		{name: "H15 plus", change: edit("seq=17", "seq=+17")},
		{name: "H15 negative", change: edit("seq=17", "seq=-17")},
		{name: "H15 huge", change: edit("seq=17", "seq=99999999999999999999")},
		{name: "H15 space", change: edit(",seq", ", seq")},
		{name: "H15 upper case", change: edit("host=host_", "host=HOST_")},
		{name: "H15 padding", change: func(r *http.Request) { r.Header.Set(name, r.Header.Get(name)+"==") }},
		{name: "long", change: func(r *http.Request) { r.Header.Set(name, r.Header.Get(name)+strings.Repeat("A", 1<<16)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _, keyOf := signed(t)
			body := signedBody
			if tt.change != nil {
				tt.change(r)
			}
			if tt.body != "" {
				body = tt.body
			}
			c, err := client.Verify(r, []byte(body), keyOf, signedAt.Add(tt.now))
			if millrace.CodeOf(err) != millrace.Unauthenticated || c != (client.Claims{}) {
				t.Errorf("got %+v, %v; want nothing and %s", c, err, millrace.Unauthenticated)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	r, host, keyOf := signed(f)
	f.Add(r.Header.Get(client.SignatureHeader))
	good := r.Header.Get(client.SignatureHeader)
	f.Fuzz(func(t *testing.T, header string) {
		r, _, _ := signed(t)
		r.Header.Set(client.SignatureHeader, header)
		c, err := client.Verify(r, []byte(signedBody), keyOf, signedAt)
		if (err == nil) != (header == good) || err == nil && c.Host != host {
			t.Errorf("header %q: %+v, %v", header, c, err)
		}
	})
}

func TestWindow(t *testing.T) {
	t.Parallel()
	var w client.Window
	for _, step := range []struct {
		epoch, seq int64
		want       bool
	}{
		{2, 5, true},
		{2, 5, false},
		{2, 7, true},
		{2, 6, true}, // overtaken
		{2, 6, false},
		{2, 7, false},
		{2, 0, true},
		{1, 100, false}, // an older epoch
		{2, -1, false},
		{2, 71, true},
		{2, 7, false}, // too old to tell
		{2, 8, true},
		{2, 1000, true},
		{2, 999, true},
		{2, 71, false},
		{3, 1, true}, // a newer epoch
		{3, 1, false},
		{2, 1001, false},
	} {
		if got := w.Accept(step.epoch, step.seq); got != step.want {
			t.Errorf("epoch %d, sequence %d: got %v, want %v", step.epoch, step.seq, got, step.want)
		}
	}
}
