package web_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/web"
)

// planted is what somebody got into a page. The script at /planted.js is of our own site: it stands for code that is
// allowed to run, and tries what that must not.
const planted = `
	<script>window.evil = "an inline script"</script>
	<img src="/nothing" onerror="window.evil = 'an attribute'">
	<style>main { display: none }</style>
	<script src="https://evil.example/evil.js"></script>
	<iframe src="https://evil.example/"></iframe>
	<base href="https://evil.example/">
	<script src="/planted.js"></script>`

const plantedScript = `
	window.ran = true;
	try { (0, eval)("window.evil = 'eval'") } catch (e) { window.refused = e.name }
	try { new Function("window.evil = 'a function'")() } catch (e) { window.refused += ", " + e.name }`

// tampered is the dashboard with what is planted in every page, and with pages that show it in a frame.
func (w *world) tampered(log *storetest.Log) (address string) {
	w.t.Helper()
	pages := web.New(web.Config{Store: w.Store, URL: w.URL, Now: w.now, Log: log.Logger()})
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/planted.js":
			out.Header().Set("Content-Type", "text/javascript")
			out.Write([]byte(plantedScript))
			return
		case "/framing":
			out.Header().Set("Content-Type", "text/html")
			out.Write([]byte(`<iframe id="ours" src="/o/calm/jobs"></iframe><iframe id="any" src="/planted.js"></iframe>`))
			return
		}
		if strings.HasSuffix(r.URL.Path, "/events") { // it has no end
			pages.ServeHTTP(out, r)
			return
		}
		recorder := httptest.NewRecorder()
		pages.ServeHTTP(recorder, r)
		for name, values := range recorder.Header() {
			out.Header()[name] = values
		}
		out.WriteHeader(recorder.Code)
		out.Write([]byte(strings.Replace(recorder.Body.String(), "</body>", planted+"</body>", 1)))
	}))
	w.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// In a browser, what was planted in a page doesn't run and is reported, and no other page shows ours in a frame.
func TestTamperedPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := storetest.NewLog(t)
	address := w.tampered(log)
	ctx := chrome(t)
	do(t, ctx, chromedp.Navigate(address+strings.TrimPrefix(w.link(), w.URL)))
	do(t, ctx, chromedp.Navigate(address+"/o/calm/jobs"))
	if heading := do(t, ctx, chromedp.Evaluate[string](`document.querySelector("h1").innerText`)); heading != "Jobs" {
		t.Fatalf("the page is headed %q", heading)
	}
	if ran := do(t, ctx, chromedp.Evaluate[string](`String([window.ran, window.evil, window.refused])`)); ran != "true,,EvalError, EvalError" {
		t.Errorf("what was planted: %q", ran)
	}
	if shown := do(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.querySelector("main")).display`)); shown == "none" {
		t.Error("a planted style holds")
	}
	if base := do(t, ctx, chromedp.Evaluate[string](`document.baseURI`)); !strings.HasPrefix(base, address) {
		t.Errorf("links lead to %s", base)
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		missing := ""
		for _, directive := range []string{"script-src-elem", "script-src-attr", "style-src-elem", "script-src", "frame-src", "base-uri"} {
			if !strings.Contains(log.String(), `"page":"`+address+`/o/calm/jobs","directive":"`+directive+`"`) {
				missing = directive
			}
		}
		if missing == "" {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("no report of %s:\n%s", missing, log)
		}
	}

	do(t, ctx, chromedp.Navigate(address+"/framing"))
	if framed := do(t, ctx, chromedp.Evaluate[string](`String(["ours", "any"].map(id => document.getElementById(id).contentDocument !== null))`)); framed != "false,true" {
		t.Errorf("framed: %s, want ours to be blocked and any other shown", framed)
	}
}

// Reports are heard of whoever is signed in, and hold no secret.
func TestViolations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const report = `{"csp-report":{"document-uri":"https://millrace.example/sign-in/github/callback?code=s3cr3t","effective-directive":"script-src","blocked-uri":"https://evil.example/x?s3cr3t"}}`
	send := func(b *http.Client, body string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/csp-report", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/csp-report")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		res, _ := w.do(b, req)
		return res
	}
	if res := send(browser(t), report); res.StatusCode != http.StatusSeeOther {
		t.Errorf("nobody's report: %s", res.Status)
	}
	lacks(t, w.log.String(), "its policy forbids")
	b := w.member()
	for body, want := range map[string]int{report: http.StatusNoContent, "": http.StatusBadRequest, "[]": http.StatusBadRequest, `{"csp-report":"` + strings.Repeat("x", 20<<10): http.StatusBadRequest} {
		if res := send(b, body); res.StatusCode != want {
			t.Errorf("%.40q: %s, want %d", body, res.Status, want)
		}
	}
	contains(t, w.log.String(), `"page":"https://millrace.example/sign-in/github/callback"`, `"blocked":"https://evil.example/x"`, w.Org.Owner.ID.String())
	lacks(t, w.log.String(), "s3cr3t")
}

// After signing out, going back shows nothing of what was there.
func TestBackAfterSignOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(named("calm/canary", "build", "test", "main", "mona"))
	ctx := chrome(t)
	do(t, ctx, chromedp.Navigate(w.link()))
	do(t, ctx, chromedp.Navigate(w.URL+"/o/calm/jobs"))
	shows := func() string { return do(t, ctx, chromedp.Evaluate[string](`document.body.innerText`)) }
	contains(t, shows(), "calm/canary")
	do(t, ctx, chromedp.Click(chromedp.CSS(`form[action="/sign-out"] button`)))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS(`a[href="/sign-in"]`)))
	do(t, ctx, chromedp.Evaluate[chromedp.Void](`history.back()`))
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//h1[normalize-space()="Sign in"]`)))
	lacks(t, shows(), "canary")
}
