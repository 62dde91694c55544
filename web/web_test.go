package web_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// contains fails unless page has each text.
func contains(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, link := browser(t), w.link()

	res, _ := w.get(b, "/o/calm/usage?by=user")
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/sign-in" {
		t.Fatalf("a page without a session: %s to %s", res.Status, res.Header.Get("Location"))
	}
	if res, page := w.get(b, "/sign-in"); res.StatusCode != http.StatusOK || !strings.Contains(page, "link that works once") {
		t.Errorf("the sign-in page: %s", res.Status)
	}
	if res, _ := w.get(b, link, "Sec-Purpose", "prefetch;prerender"); res.StatusCode != http.StatusNoContent {
		t.Errorf("prefetching the link: %s", res.Status)
	}
	res, _ = w.get(b, link)
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/o/calm/usage?by=user" {
		t.Errorf("the link led to %s, %s", res.Header.Get("Location"), res.Status)
	}
	cookie := res.Header.Get("Set-Cookie")
	contains(t, cookie, "millrace=mrss_", "HttpOnly", "SameSite=Lax", "Path=/;")
	if res, _ := w.get(b, "/o/calm/usage?by=user"); res.StatusCode != http.StatusOK {
		t.Errorf("signed in: %s", res.Status)
	}
	if res, _ := w.get(b, "/"); res.Header.Get("Location") != "/o/calm/" {
		t.Errorf("the front page led to %q", res.Header.Get("Location"))
	}

	t.Run("a link works once", func(t *testing.T) {
		t.Parallel()
		res, page := w.get(browser(t), link)
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("Set-Cookie") != "" {
			t.Errorf("used again: %s, cookie %q", res.Status, res.Header.Get("Set-Cookie"))
		}
		contains(t, page, "was used already")
	})
	t.Run("signing out ends the session", func(t *testing.T) {
		t.Parallel()
		old := strings.SplitN(strings.SplitN(cookie, ";", 2)[0], "=", 2)[1]
		if res, _ := w.post(b, "/sign-out"); res.StatusCode != http.StatusSeeOther {
			t.Fatalf("signing out: %s", res.Status)
		}
		if res, _ := w.get(browser(t), "/o/calm/jobs", "Cookie", "millrace="+old); res.StatusCode != http.StatusSeeOther {
			t.Errorf("the old cookie still works: %s", res.Status)
		}
	})
	t.Run("a target elsewhere is not kept", func(t *testing.T) {
		t.Parallel()
		for _, target := range []string{
			"//evil.example/o/", "/\\evil.example", "https://evil.example/o/x", "https:evil.example", "/o/..\\\\evil.example", "/o/..%5cevil.example", "evil.example/o/",
			"/o/calm/%0d%0aSet-Cookie:%20x=y", "/o/calm\r\nSet-Cookie: x=y", "javascript:alert(1)//o/", "data:text/html,/o/", "/pricing", "",
		} {
			res, _ := w.get(browser(t), w.link(), "Cookie", "millrace-target="+url.QueryEscape(target))
			if to := res.Header.Get("Location"); to != "/" {
				t.Errorf("target %q led to %q", target, to)
			}
		}
	})
	t.Run("over https the cookie is bound to the host", func(t *testing.T) {
		t.Parallel()
		if res, _ := w.get(browser(t), w.secure()+"/sign-in/"+strings.TrimPrefix(w.link(), w.URL+"/sign-in/")); !strings.HasPrefix(res.Header.Get("Set-Cookie"), "__Host-millrace=") ||
			!strings.Contains(res.Header.Get("Set-Cookie"), "; Secure") {
			t.Errorf("cookie %q", res.Header.Get("Set-Cookie"))
		}
	})
}

func TestOtherOrgsPagesLookMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := storetest.MustCreateOrg(t, w.Store, "other")
	storetest.MustIntake(t, w.Store, storetest.Delivery(other, 1, millrace.JobQueued))
	jobs, err := w.Store.Org(other.ID).Jobs(t.Context(), store.JobFilter{})
	if err != nil {
		t.Fatal(err)
	}
	theirs := jobs.Jobs[0].ID.String()
	b := w.member()
	res, page := w.get(b, "/o/nowhere/jobs")
	missing := looks(res, page)
	for _, path := range []string{"/o/other", "/o/other/", "/o/other/jobs", "/o/other/jobs/" + theirs, "/o/other/hosts", "/o/other/incidents", "/o/other/usage", "/o/other/events", "/o/calm/jobs/" + theirs, "/o/calm/jobs/x", "/o/calm/vms/x", "/o/calm/vms/" + theirs, "/nothing"} {
		res, page := w.get(b, path)
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
		if looks(res, page) != missing {
			t.Errorf("%s looks different from a page that doesn't exist", path)
		}
	}
	if res, _ := w.post(b, "/o/other/hosts/enrollment-tokens"); res.StatusCode != http.StatusNotFound {
		t.Errorf("making their token: %s", res.Status)
	}
}

// looks is all that an answer tells, but for which request it is of and when.
func looks(res *http.Response, page string) string {
	h := res.Header.Clone()
	h.Del("X-Request-Id")
	h.Del("Date")
	return fmt.Sprint(res.Status, h, withoutRequest(page))
}

func withoutRequest(page string) string {
	before, rest, _ := strings.Cut(page, "Request <code>")
	_, after, _ := strings.Cut(rest, "</code>")
	return before + after
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	for _, path := range []string{"/", "/o/calm/jobs", "/o/calm/hosts", "/o/calm/incidents", "/nothing"} {
		res, page := w.get(b, path)
		h := res.Header
		contains(t, h.Get("Content-Security-Policy"), "default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'")
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") == "" {
			t.Errorf("%s: headers %v", path, h)
		}
		if strings.Contains(page, " style=") || strings.Contains(page, "<style") || strings.Contains(page, "hx-on") {
			t.Errorf("%s has inline style or script", path)
		}
	}
	_, page := w.get(b, "/o/calm/jobs")
	_, rest, _ := strings.Cut(page, `<script defer src="`)
	path, _, _ := strings.Cut(rest, `"`)
	if res, _ := w.get(b, path); res.StatusCode != http.StatusOK || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("%s: %s, %v", path, res.Status, res.Header)
	}
	if res, _ := w.post(b, "/sign-out", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); res.StatusCode != http.StatusForbidden {
		t.Errorf("signing out from another site: %s", res.Status)
	}
}

func TestEmptyStatesSayWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	_, page := w.get(b, "/o/calm/jobs")
	contains(t, page, "No jobs yet", "runs-on: millrace")
	_, page = w.get(b, "/o/calm/hosts")
	contains(t, page, "No hosts yet", "One command adds it", "Make a token", "A token for many hosts")
	_, page = w.get(b, "/o/calm/usage")
	contains(t, page, "No completed jobs in this window", `href="jobs"`)
	_, page = w.get(b, "/o/calm/jobs?status=queued&repository=calm/none")
	contains(t, page, "No job matches", "Show all jobs")
}

func TestEnrollmentToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	res, page := w.post(b, "/o/calm/hosts/enrollment-tokens")
	_, rest, found := strings.Cut(page, "mret_")
	if res.StatusCode != http.StatusOK || !found {
		t.Fatalf("making a token: %s", res.Status)
	}
	_, follow, _ := strings.Cut(page, `hx-get="/o/calm/hosts?token=enr_`)
	follow, _, _ = strings.Cut(follow, `"`)
	contains(t, page, "Waiting for the command to be run")
	if _, part := w.get(b, "/o/calm/hosts?token=enr_"+follow, "HX-Request", "true"); !strings.Contains(part, "Waiting for the command to be run") || strings.Contains(part, "No hosts yet") {
		t.Error("the page offers another token before the host has come")
	}
	secret := "mret_" + rest[:38]
	if _, slug, err := w.Store.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: secret, Name: "rack-1", SignKey: make([]byte, 32), SealKey: make([]byte, 32), Facts: storetest.Facts()}); err != nil || slug != "calm" {
		t.Errorf("enrolling with it: %q, %v", slug, err)
	}
	_, page = w.get(b, "/o/calm/hosts")
	contains(t, page, "rack-1", "Online")
	if strings.Contains(page, secret) {
		t.Error("the token is shown again")
	}
	_, page = w.get(b, "/o/calm/hosts?token=enr_"+follow)
	contains(t, text(page), "Token used just now", "Agent started")
}

// TestWithoutJavaScript reads every page as curl does.
func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running := w.busy()
	b := w.member()
	_, page := w.get(b, "/o/calm/jobs")
	contains(t, page, "Running", "Success", "Failed", "Cancelled", "no_free_capacity", "No host has room", "A VM boots for it", `method="get"`, "millrace-2cpu-4gb",
		"Calm Research", ">9 min 28 s<", `rel="noreferrer"`)
	if strings.Contains(page, "<noscript") {
		t.Error("the page excuses itself to those without JavaScript")
	}
	_, page = w.get(b, "/o/calm/jobs?status=in_progress&repository=calm%2Fcompiler")
	contains(t, page, "bootstrap stage 2")
	if strings.Contains(page, "deploy") || strings.Count(page, `<tr role="row" id="job_`) != 1 {
		t.Error("the filter lets others through")
	}
	_, page = w.get(b, "/o/calm/jobs/"+running.ID.String())
	contains(t, page, ">queued<", ">placed<", ">booting<", ">online<", ">running<", "1,437 ms", "rack-1.helsinki.calm.example", "2 vCPU, 4 GB", "##[group]Run make test",
		"140 MB of 4 GB", "View on GitHub", "every 2s")
	if strings.Contains(page, "\x1b") {
		t.Error("the log has terminal sequences")
	}
	_, page = w.get(b, "/o/calm/hosts")
	contains(t, page, "Online", "Offline", "3 of 8", "4.5 GB of 16 GB", "Add a host")
	_, page = w.get(b, "/o/calm/usage?window=28d")
	contains(t, page, "calm/compiler", "Wait p95", "2026-02-19", "2026-03-18", "116", `role="img"`)
	_, page = w.get(b, "/o/calm/usage?by=user")
	contains(t, page, "renovate[bot]")

	t.Run("htmx gets the live part alone", func(t *testing.T) {
		t.Parallel()
		_, part := w.get(b, "/o/calm/jobs", "HX-Request", "true")
		if strings.Contains(part, "<html") || !strings.HasPrefix(part, `<div id="jobs"`) {
			t.Errorf("got %.80q", part)
		}
		res, _ := w.get(browser(t), "/o/calm/jobs", "HX-Request", "true")
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("HX-Refresh") != "true" {
			t.Errorf("without a session: %s", res.Status)
		}
	})
	t.Run("what can't be read is said", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"jobs?status=sleeping", "jobs?cursor=x", "usage?by=moon", "usage?window=5y"} {
			res, page := w.get(b, "/o/calm/"+path)
			if res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s", path, res.Status)
			}
			contains(t, page, "Go back and try once more.")
		}
	})
}

func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 60 {
		w.pass(time.Second)
		w.queue()
	}
	b := w.member()
	seen, path := 0, "/o/calm/jobs?status=queued"
	for range 3 {
		_, page := w.get(b, path)
		seen += strings.Count(page, `<tr role="row" id="job_`)
		_, rest, more := strings.Cut(page, `rel="next" href="`)
		if !more {
			break
		}
		path, _, _ = strings.Cut(strings.ReplaceAll(rest, "&amp;", "&"), `"`)
	}
	if seen != 60 || !strings.Contains(path, "status=queued") {
		t.Errorf("saw %d jobs; the last page was %s", seen, path)
	}
}

// TestHostileNamesAreInert puts what GitHub lets people write into every name.
func TestHostileNamesAreInert(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host(`<b onmouseover=alert(1)>rack`, 10)
	const evil = `"><img src=x onerror=alert(1)><script>alert(2)</script>&'{{7*7}}` + "\u202Etxt"
	hostile := func(j *millrace.Job) {
		j.Repository, j.Workflow, j.Name, j.Branch, j.Actor = "calm/"+evil, evil, evil, evil, evil
		j.Labels = []string{"millrace", "<i>x</i>"}
		j.HTMLURL = "javascript:alert(3)"
	}
	id := w.queue(hostile)
	vm := w.run(host, id, millrace.StageRunning, 0, "", hostile)
	printed := "\x1b]0;owned\x07<script>alert(4)</script>\x1b[2J\r\n\u202Eevil\xff\x00done\n"
	if err := w.Store.Org(w.Org.ID).AppendConsole(t.Context(), host.ID, vm.ID, 200, []byte(printed)); err != nil {
		t.Fatal(err)
	}
	jobs, err := w.Store.Org(w.Org.ID).Jobs(t.Context(), store.JobFilter{})
	if err != nil || len(jobs.Jobs) != 1 {
		t.Fatalf("%d jobs, %v", len(jobs.Jobs), err)
	}
	b := w.member()
	for _, path := range []string{"/o/calm/jobs", "/o/calm/jobs/" + jobs.Jobs[0].ID.String(), "/o/calm/hosts", "/o/calm/usage", "/o/calm/jobs?repository=" + url.QueryEscape(evil)} {
		_, page := w.get(b, path)
		for _, bad := range []string{"<img src=x", "<script>alert", "<b onmouse", "<i>x", `="javascript:`, "\x1b", "\x00"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
}

// TestEventsSayChanged reads the stream: one event at the start, one when something of the org changes, and none for
// another org.
func TestEventsSayChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := storetest.MustCreateOrg(t, w.Store, "other")
	b := w.member()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/o/calm/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("content type %q", res.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(res.Body)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("no %q: %v", want, lines.Err())
	}
	next("retry: 2000")
	next("event: changed")
	storetest.MustIntake(t, w.Store, storetest.Delivery(other, 1, millrace.JobQueued))
	w.pass(time.Minute)
	w.queue()
	next("id: " + millis(w.now()))
	next("event: changed")
}

// While Postgres is away a page says that it is to be tried again, and the member is still signed in once it is back.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, link := w.member(), w.link()
	restore := w.db.CutOff(t)
	for range 3 { // a connection that is cut, and none to be had
		for _, path := range []string{"/o/calm/jobs", link} {
			res, page := w.get(b, path)
			if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(page, "Try again in a moment") || !strings.Contains(page, "database") || res.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s: %s\n%s", path, res.Status, page)
			}
		}
	}
	restore()
	if res, _ := w.get(b, "/o/calm/jobs"); res.StatusCode != http.StatusOK {
		t.Errorf("once it is back: %s", res.Status)
	}
	if res, _ := w.get(browser(t), link); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the link, once it is back: %s", res.Status)
	}
}
