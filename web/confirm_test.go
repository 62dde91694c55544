package web_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace"
)

var userCode = regexp.MustCompile(`<pre id="code"[^>]*>([^<]+)</pre>`)

// Only a code that the same person confirms at GitHub will do; then the way on is open for a quarter of an hour.
func TestConfirm(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	b := browser(t)
	p.get(b, p.back(p.authorize(b), "mona"))
	res, _ := p.get(b, "/o/robots/tokens/new")
	to := res.Header.Get("Location")
	if res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/confirm?to=") {
		t.Fatalf("%s to %s", res.Status, to)
	}
	_, page := p.get(b, to)
	contains(t, page, "Get a code", `value="/o/robots/tokens/new"`)
	on := url.Values{"to": {"/o/robots/tokens/new"}}
	begin := func() string {
		t.Helper()
		_, page := p.submit(b, "/confirm", on)
		found := userCode.FindStringSubmatch(page)
		if found == nil || !strings.Contains(page, p.gh.URL()) {
			t.Fatalf("no code on %s", page)
		}
		return found[1]
	}
	done := func(want int, says string) *http.Response {
		t.Helper()
		res, page := p.submit(b, "/confirm/done", on)
		if res.StatusCode != want || !strings.Contains(page, says) {
			t.Errorf("%s, want %d and %q", res.Status, want, says)
		}
		return res
	}
	form := url.Values{"name": {"ci"}, "days": {"7"}, "scope": {"jobs:read"}}
	refused := func() {
		t.Helper()
		if res, page := p.submit(b, "/o/robots/tokens", form); res.StatusCode != http.StatusForbidden || strings.Contains(page, "mrat_") {
			t.Errorf("a token without a confirmation: %s", res.Status)
		}
	}

	done(http.StatusConflict, "No code of yours is waiting")
	begin()
	done(http.StatusConflict, "Nobody has confirmed")
	refused()
	p.gh.AddPerson("lisa")
	p.gh.ApproveDevice(begin(), "lisa", true)
	done(http.StatusForbidden, "another GitHub account")
	refused()
	p.gh.ApproveDevice(begin(), "mona", false)
	done(http.StatusConflict, "did not let us know")
	refused()
	p.gh.ApproveDevice(begin(), "mona", true)
	if res := done(http.StatusSeeOther, ""); res.Header.Get("Location") != "/o/robots/tokens/new" {
		t.Errorf("on to %s", res.Header.Get("Location"))
	}
	if res, page := p.submit(b, "/o/robots/tokens", form); res.StatusCode != http.StatusOK || !strings.Contains(page, "mrat_") {
		t.Errorf("confirmed: %s", res.Status)
	}
	done(http.StatusConflict, "No code of yours is waiting") // it worked once
	p.pass(millrace.ConfirmationLength)
	refused()
	for _, evil := range []string{"https://evil.example", "//evil.example", "/\\evil", "/o/\r\nx", "javascript:alert(1)", "/pricing"} {
		_, page := p.get(b, "/confirm?"+url.Values{"to": {evil}}.Encode())
		contains(t, page, `name="to" value="/"`)
	}
}

// The same with a browser, from the page that wants it back to it.
func TestConfirmInABrowser(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	ctx := chrome(t)
	press := func(text string) {
		t.Helper()
		do(t, ctx, chromedp.Click(chromedp.Search(`//*[self::a or self::button][normalize-space()="`+text+`"]`)))
	}
	arrived := func(heading string) {
		t.Helper()
		do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//h1[normalize-space()="`+heading+`"]`)))
	}
	do(t, ctx, chromedp.Navigate(p.URL+"/sign-in"))
	press("Sign in with GitHub")
	press("Sign in as mona")
	press("Authorize Millrace")
	arrived("Overview")
	press("Settings")
	arrived("Settings")
	press("API tokens")
	arrived("API tokens")
	press("Make a token")
	arrived("Confirm that it is you")
	look(t, ctx, "confirm", p.URL+"/confirm", 1280, 320)
	do(t, ctx, chromedp.Navigate(p.URL+"/confirm?to=/o/robots/tokens/new"))
	press("Get a code")
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("#code")))
	axe(t, ctx, "confirm-code")
	code := do(t, ctx, chromedp.Evaluate[string](`document.getElementById("code").textContent`))
	if !p.gh.ApproveDevice(code, "mona", true) {
		t.Fatalf("GitHub knows no code %q", code)
	}
	press("I have typed it")
	arrived("Make an API token")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#name"), "ci"))
	press("Make the token")
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("#secret")))
	axe(t, ctx, "token-made")
	look(t, ctx, "tokens-member", p.URL+"/o/robots/tokens", 1280, 320)
	userCode, deviceCode := p.begin("203.0.113.9", millrace.JobsRead, millrace.AuditRead)
	look(t, ctx, "device", p.URL+"/device?code="+userCode, 1280, 320)
	press("Go on")
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//button[normalize-space()="Allow"]`)))
	look(t, ctx, "device-decide", "", 1280, 320)
	press("Allow")
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//*[@role="status"][contains(., "is signed in to robots")]`)))
	if token, _, _, err := p.Store.RedeemDevice(t.Context(), deviceCode, millrace.Device{}, ""); err != nil || token.Login != "mona" {
		t.Errorf("%+v, %v", token, err)
	}
	do(t, ctx, chromedp.Navigate(p.URL+"/account"))
	arrived("Your account")
}
