package web_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web"
)

// A path that another way leads to an org leads nowhere.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	for _, path := range []string{
		"/o/calm/../rival/jobs", "/o/calm/%2e%2e/rival/jobs", "/o/CALM/jobs", "/o/calm./jobs", "/o/calm%00/jobs", "/o/calm%20/jobs", "/o/calm%2fjobs",
		"/o/calm;x/jobs", "/o/%63alm%0d%0a/jobs", "/o/calm/jobs%2f..%2fhosts", "/o/calm/jobs/", "/o/calm/jobs.", "/O/calm/jobs", "/o//calm/jobs",
	} {
		res, page := w.get(b, path)
		moved := res.StatusCode == http.StatusMovedPermanently || res.StatusCode == http.StatusTemporaryRedirect || res.StatusCode == http.StatusPermanentRedirect
		if moved { // to the same without the trick
			res, page = w.get(b, res.Header.Get("Location"))
			if res.StatusCode == http.StatusOK && !strings.Contains(path, "rival") {
				continue
			}
		}
		if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusBadRequest || strings.Contains(page, "calm/app") {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

// Cookies that another host could have set, other methods, other sites and what hides behind a header open nothing.
func TestBrowserTricks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := func() string {
		res, _ := w.get(browser(t), w.link())
		return sessionOf(res)
	}()
	secure := w.secure()
	for name, cookie := range map[string]string{
		"without the prefix": "millrace=" + secret, "another prefix": "__Secure-millrace=" + secret, "another case": "__host-millrace=" + secret,
		"the first of two": "__Host-millrace=x; __Host-millrace=" + secret, "none": "",
	} {
		if res, _ := w.get(browser(t), secure+"/o/calm/jobs", "Cookie", cookie); res.StatusCode != http.StatusSeeOther {
			t.Errorf("a cookie %s: %s", name, res.Status)
		}
	}
	res, _ := w.get(browser(t), secure+"/o/calm/jobs", "Cookie", "__Host-millrace="+secret)
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Strict-Transport-Security"), "max-age=31536000") {
		t.Errorf("the session's cookie: %s", res.Status)
	}
	res, _ = w.get(browser(t), "/o/calm/jobs", "Cookie", "millrace="+secret, "Origin", "https://evil.example")
	for name := range res.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("another site is told %s", name)
		}
	}
	if res.Header.Get("Cache-Control") != "no-store" || !strings.Contains(res.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Errorf("the page can be kept or framed: %v", res.Header)
	}
	for _, method := range []string{"TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "BREW"} {
		req, err := http.NewRequestWithContext(t.Context(), method, w.URL+"/o/calm/jobs", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		req.Header.Set("Cookie", "millrace="+secret)
		if res, page := w.do(browser(t), req); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed || strings.Contains(page, "calm/app") {
			t.Errorf("%s: %s", method, res.Status)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/.git/config", "/metrics", "/.env"} {
		if res, _ := w.get(browser(t), path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

// What two servers in a row could read as two requests is refused as one.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := strings.TrimPrefix(w.URL, "http://")
	for name, raw := range map[string]string{
		"two lengths":       "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"an odd encoding":   "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two encodings":     "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"a space in a name": "GET / HTTP/1.1\r\nHost: h\r\nX-A : b\r\n\r\n",
		"a folded header":   "GET / HTTP/1.1\r\nHost: h\r\n X-A: b\r\n\r\n",
		"two hosts":         "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host":           "GET / HTTP/1.1\r\n\r\n",
		"a negative length": "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
		"a NUL in a header": "GET / HTTP/1.1\r\nHost: h\r\nX-A: \x00\r\n\r\n",
		"no such request":   "\r\n\r\nGARBAGE\r\n\r\n",
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, raw)
		status, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if err != nil || !strings.Contains(status, " 400 ") && !strings.Contains(status, " 501 ") {
			t.Errorf("%s: %q, %v", name, status, err)
		}
	}
}

// lines is a log that many write to.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write keeps a line.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// broken is a sign-in that panics with a secret in hand.
type broken struct{ millrace.SignIn }

func (broken) AuthCodeURL(string, string, bool) string { panic("a canary: s3cr3t-canary") }

func (broken) DeviceCode(context.Context) (millrace.DeviceCode, error) {
	return millrace.DeviceCode{}, fmt.Errorf("a canary: %s", millrace.Secret("s3cr3t-canary"))
}

// A page that breaks says which request it was, and nothing else; no log holds a secret; who was refused is logged.
func TestFailuresTellNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &lines{}
	server := httptest.NewServer(web.New(web.Config{Store: w.Store, SignIn: broken{}, URL: w.URL, Now: w.now, Log: slog.New(slog.NewJSONHandler(log, nil))}))
	t.Cleanup(server.Close)
	res, page := w.get(browser(t), server.URL+"/sign-in/github")
	if res.StatusCode != http.StatusInternalServerError || strings.Contains(page, "canary") || strings.Contains(page, ".go:") || !strings.Contains(page, res.Header.Get("X-Request-Id")) {
		t.Errorf("a page that panics: %s %s", res.Status, page)
	}
	w.URL = server.URL
	b, _ := w.person(w.Org, millrace.RoleViewer)
	w.get(b, "/o/calm/audit")
	res, page = w.submit(b, "/confirm", url.Values{})
	if res.StatusCode != http.StatusInternalServerError || strings.Contains(page, "canary") {
		t.Errorf("a page that fails: %s", res.Status)
	}
	link := w.link()
	w.get(b, link)
	log.mu.Lock()
	defer log.mu.Unlock()
	text := log.b.String()
	contains(t, text, `"msg":"refused"`, `"path":"/o/calm/audit"`, `"address":"127.0.0.1"`, "[redacted]", `"request":"req_`)
	_, secret, _ := strings.Cut(link, "/sign-in/")
	for _, canary := range []string{secret, "mrss_"} {
		if strings.Contains(text, canary) {
			t.Errorf("the log holds %s", canary)
		}
	}
	if n := strings.Count(text, "s3cr3t-canary"); n != 1 { // of the panic, whose text is not ours to redact
		t.Errorf("the log has the canary %d times", n)
	}
}
