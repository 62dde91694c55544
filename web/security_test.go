package web_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
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
		"a CR in a header":  "GET / HTTP/1.1\r\nHost: h\r\nX-A: a\rX-B: b\r\n\r\n",
		"a length with a +": "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc",
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

// broken is a sign-in that panics with a secret in hand.
type broken struct{ millrace.SignIn }

func (broken) AuthCodeURL(string, string, bool) string {
	panic("a canary: " + millrace.NewSecret(millrace.SessionPrefix, nil).Reveal())
}

func (broken) DeviceCode(context.Context) (millrace.DeviceCode, error) {
	return millrace.DeviceCode{}, fmt.Errorf("a canary: %s", millrace.NewSecret(millrace.APITokenPrefix, nil))
}

// A page that breaks says which request it was, and nothing else; no log holds a secret; who was refused is logged.
func TestFailuresTellNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := storetest.NewLog(t)
	server := httptest.NewServer(web.New(web.Config{Store: w.Store, SignIn: broken{}, URL: w.URL, Now: w.now, Log: log.Logger()}))
	t.Cleanup(server.Close)
	w.URL = server.URL
	tells := func(res *http.Response, page string) {
		t.Helper()
		if res.StatusCode != http.StatusInternalServerError || !strings.Contains(page, res.Header.Get("X-Request-Id")) {
			t.Errorf("a page that fails: %s %s", res.Status, page)
		}
		lacks(t, page, "canary", "mrss_", "mrat_", ".go:", "goroutine", "panic", "SQLSTATE", "closed pool")
		contains(t, log.String(), `"request":"`+res.Header.Get("X-Request-Id")+`"`)
	}
	tells(w.get(browser(t), "/sign-in/github"))
	b, _ := w.person(w.Org, millrace.RoleViewer)
	tells(w.submit(b, "/confirm", url.Values{}))
	contains(t, log.String(), "a canary: mrss_[redacted]", "a canary: [redacted]")

	for path, c := range map[string]struct {
		role millrace.Role
		why  string
	}{
		"/o/calm/members/x":       {millrace.RoleViewer, "may not"},
		"/o/calm/settings/delete": {millrace.RoleOwner, "This takes more than being signed in"},
	} {
		b, _ := w.person(w.Org, c.role)
		res, _ := w.submit(b, path, url.Values{})
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", path, res.Status)
		}
		_, line, _ := strings.Cut(log.String(), `"msg":"refused","method":"POST","path":"`+path)
		line, _, _ = strings.Cut(line, "\n")
		contains(t, line, `"address":"127.0.0.1"`, `"request":"`+res.Header.Get("X-Request-Id")+`"`, c.why)
	}

	link := w.link() // whose address is the secret
	w.Store.Close()
	tells(w.get(browser(t), link))
	tells(w.get(b, "/o/calm/jobs"))
}

// What a request says of whom it is from and where it arrived is its own word: it is neither believed nor repeated.
func TestForwardedByNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spoof := []string{
		"X-Forwarded-For", "203.0.113.66", "X-Real-IP", "203.0.113.66", "Forwarded", "for=203.0.113.66;host=evil.example;proto=https",
		"X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https", "X-Original-URL", "/o/rival/jobs", "X-Rewrite-URL", "/o/rival/jobs", "X-HTTP-Method-Override", "DELETE",
	}
	b := browser(t)
	res, _ := w.get(b, w.link(), spoof...)
	if cookie := res.Header.Get("Set-Cookie"); !strings.HasPrefix(cookie, "millrace=mrss_") || strings.Contains(cookie, "Secure") {
		t.Errorf("signed in with the cookie %q", cookie)
	}
	for _, path := range []string{"/", "/o/calm", "/o/calm/hosts", "/account", "/sign-in"} {
		res, page := w.get(b, path, spoof...)
		if strings.Contains(page, "evil.example") || strings.Contains(res.Header.Get("Location"), "evil.example") || res.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %s to %s", path, res.Status, res.Header.Get("Location"))
		}
	}
	_, page := w.get(b, "/account", spoof...)
	contains(t, page, "127.0.0.1")
	lacks(t, page, "203.0.113.66")
	if res, _ := w.post(b, "/o/calm/hosts/enrollment-tokens", spoof...); res.StatusCode != http.StatusOK {
		t.Errorf("making a token: %s", res.Status)
	}
	_, page = w.get(b, "/o/calm/audit?action=enrollment_token.")
	contains(t, page, "127.0.0.1")
	lacks(t, page, "203.0.113.66")
}

// A session ends after half a day without use, and after a week in any case; what a page fetches by itself is told so.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ step, last time.Duration }{
		"unused": {12 * time.Hour, 12 * time.Hour},
		"used":   {11 * time.Hour, 7 * 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.member()
			begun := w.now()
			for w.pass(c.step); w.now().Sub(begun) < c.last; w.pass(c.step) {
				if res, _ := w.get(b, "/o/calm/jobs"); res.StatusCode != http.StatusOK {
					t.Fatalf("after %s: %s", w.now().Sub(begun), res.Status)
				}
			}
			w.at(begun.Add(c.last - time.Second))
			if res, _ := w.get(b, "/o/calm/jobs"); res.StatusCode != http.StatusOK {
				t.Errorf("a second before its end: %s", res.Status)
			}
			if name == "unused" { // that was a use
				w.pass(c.last)
			} else {
				w.at(begun.Add(c.last))
			}
			if res, _ := w.get(b, "/o/calm/jobs"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/sign-in" {
				t.Errorf("after its end: %s to %s", res.Status, res.Header.Get("Location"))
			}
			for _, path := range []string{"/o/calm/jobs", "/o/calm/events"} {
				if res, page := w.get(b, path, "HX-Request", "true"); res.StatusCode != http.StatusUnauthorized || page != "" {
					t.Errorf("%s by itself: %s %s", path, res.Status, page)
				}
			}
		})
	}
}

// stream opens the org's event stream in a browser; closed is closed when the stream is.
func (w *world) stream(b *http.Client) (closed <-chan struct{}) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.URL+"/o/calm/events", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := b.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && lines.Text() != "event: changed" { // it is under way
	}
	end := make(chan struct{})
	go func() {
		defer close(end)
		defer res.Body.Close()
		for lines.Scan() {
		}
	}()
	return end
}

// Whoever is out is out at once: their next request finds nobody signed in, or no org, and what streams to them ends.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	const signedOut, noMember = http.StatusSeeOther, http.StatusNotFound
	for name, c := range map[string]struct {
		end  func(w *world, b *http.Client, user millrace.User)
		want int
	}{
		"signed out": {func(w *world, b *http.Client, _ millrace.User) { w.post(b, "/sign-out") }, signedOut},
		"signed out everywhere, elsewhere": {func(w *world, _ *http.Client, user millrace.User) {
			if err := w.Store.EndSessions(w.t.Context(), user.ID); err != nil {
				w.t.Fatal(err)
			}
		}, signedOut},
		"session ended elsewhere": {func(w *world, b *http.Client, user millrace.User) {
			sessions, err := w.Store.Sessions(w.t.Context(), user.ID)
			if err != nil || len(sessions) != 1 {
				w.t.Fatalf("%+v, %v", sessions, err)
			}
			w.submit(b, "/account/sessions/"+sessions[0].ID.String()+"/end", nil)
		}, signedOut},
		"out of the organisation at GitHub": {func(w *world, _ *http.Client, _ millrace.User) {
			if err := w.Store.SaveMembers(w.t.Context(), w.Org.Installation.ID, nil, w.now()); err != nil {
				w.t.Fatal(err)
			}
		}, noMember},
		"the org is deleted": {func(w *world, _ *http.Client, _ millrace.User) {
			if err := w.Store.DeleteOrg(w.t.Context(), w.Org.Caller().Actor, w.Org.ID, "calm"); err != nil {
				w.t.Fatal(err)
			}
		}, noMember},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, user := w.person(w.Org, millrace.RoleMember)
			u, _ := url.Parse(w.URL)
			w.get(b, "/o/calm/jobs")
			stolen := browser(t)
			stolen.Jar.SetCookies(u, b.Jar.Cookies(u))
			closed := w.stream(stolen)
			c.end(w, b, user)
			began := time.Now()
			if res, _ := w.get(stolen, "/o/calm/jobs"); res.StatusCode != c.want || time.Since(began) > time.Second {
				t.Errorf("the next request: %s after %s", res.Status, time.Since(began))
			}
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Error("the stream goes on")
			}
		})
	}
}

// Reading changes nothing: with every page read, by GET and by HEAD, the database is as it was.
func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.busy()
	b := w.member()
	w.confirmed(b)
	job := w.newest().ID.String()
	read := func(method string) {
		for _, p := range web.Patterns() {
			verb, path, _ := strings.Cut(p, " ")
			if verb != http.MethodGet || strings.HasSuffix(path, "/events") { // a stream: TestStreamsEnd
				continue
			}
			path = strings.NewReplacer("{org}", "calm", "{$}", "", "{job}", job, "{secret}", "x").Replace(path)
			req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, _ := w.do(b, req); res.StatusCode >= 500 {
				t.Errorf("%s %s: %s", method, path, res.Status)
			}
		}
	}
	read(http.MethodGet) // notes that the session is used, which is noted once a minute
	before := w.db.Rows(t)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		read(method)
		if diff := cmp.Diff(before, w.db.Rows(t)); diff != "" {
			t.Errorf("reading every page by %s changed:\n%s", method, diff)
		}
	}
}

// No form of the dashboard can be sent by another site, however it is sent, and what was sent changes nothing.
func TestForgedForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	w.confirmed(b)
	w.get(b, "/account")
	before, forms := w.db.Rows(t), 0
	for name, header := range map[string][]string{
		"no word":                 nil,
		"another site":            {"Sec-Fetch-Site", "cross-site"},
		"a sibling":               {"Sec-Fetch-Site", "same-site"},
		"no origin":               {"Origin", "null"},
		"another origin":          {"Origin", "https://evil.example"},
		"a sibling's origin":      {"Origin", strings.Replace(w.URL, "http://", "http://docs.", 1)},
		"JSON that calls it text": {"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"},
	} {
		for _, p := range web.Patterns() {
			verb, path, _ := strings.Cut(p, " ")
			if verb != http.MethodPost {
				continue
			}
			forms++
			path = strings.NewReplacer("{org}", "calm", "{user}", w.Org.Owner.ID.String()).Replace(path)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+path, strings.NewReader("slug=calm&role=viewer&name=x&days=1&scope=jobs:read"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for i := 0; i+1 < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			res, page := w.do(b, req)
			if res.StatusCode != http.StatusForbidden || !strings.Contains(page, "Another site sent this request") {
				t.Errorf("%s by %s: %s", path, name, res.Status)
			}
		}
	}
	if diff := cmp.Diff(before, w.db.Rows(t)); diff != "" || forms < 60 {
		t.Errorf("%d forms changed:\n%s", forms, diff)
	}
}

// Another org's rows are found by no filter, no cursor and no form.
func TestNoWayToAnotherOrg(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rival := storetest.MustCreateOrg(t, w.Store, "rival")
	b, _ := w.person(rival, millrace.RoleOwner)
	w.host("calm-canary", 10)
	for range 60 {
		w.pass(time.Second)
		w.queue(named("calm/canary", "build", "test", "main", "calm-canary"))
	}
	for _, path := range []string{
		"/jobs", "/jobs?status=queued", "/jobs?repository=calm/canary", "/hosts", "/usage?by=user", "/usage?by=repository", "/incidents", "/members",
		"/audit?actor=calm-admin", "/audit?actor=" + w.Org.Owner.ID.String(), "/audit?action=host.enrolled",
	} {
		res, page := w.get(b, "/o/rival"+path)
		page = strings.ReplaceAll(page, `value="calm/canary"`, "") // the filter as it was given
		page = strings.ReplaceAll(page, `>calm/canary</option>`, "")
		page = strings.ReplaceAll(page, `repository=calm%2Fcanary`, "")
		if res.StatusCode != http.StatusOK || strings.Contains(page, "canary") {
			t.Errorf("%s: %s\n%s", path, res.Status, text(page))
		}
	}
	_, page := w.get(w.member(), "/o/calm/jobs")
	_, rest, more := strings.Cut(page, `rel="next" href="`)
	cursor, _, _ := strings.Cut(rest, `"`)
	_, cursor, _ = strings.Cut(cursor, "?")
	if !more || cursor == "" {
		t.Fatal("there is no second page")
	}
	if res, page := w.get(b, "/o/rival/jobs?"+cursor); res.StatusCode != http.StatusBadRequest || strings.Contains(page, "canary") {
		t.Errorf("with another org's cursor: %s", res.Status)
	}
	refused := map[string]string{}
	for name, installation := range map[string]int64{"another's": w.Org.Installation.ID, "nobody's": 1} {
		res, page := w.submit(b, "/o/rival/installations", url.Values{"installation": {itoa(installation)}})
		refused[name] = res.Status + withoutRequest(page)
	}
	if refused["another's"] != refused["nobody's"] || !strings.HasPrefix(refused["nobody's"], "403") {
		t.Errorf("linking another org's installation: %s\nnobody's: %s", refused["another's"], refused["nobody's"])
	}
}
