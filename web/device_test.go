package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

// begin begins the sign-in of a program.
func (w *world) begin(address string, scopes ...millrace.Permission) (userCode, deviceCode string) {
	w.t.Helper()
	d, secret, err := w.Store.CreateDeviceAuthorization(w.t.Context(), "millrace CLI on <b>rack-1</b>", scopes, millrace.Device{Address: address, UserAgent: "cli"})
	if err != nil {
		w.t.Fatal(err)
	}
	return d.UserCode, secret.Reveal()
}

// A person types the code, sees who asks for what and from where, and decides; only with a confirmation, only for an org of
// theirs in which they may, and not for what another typed.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleMember)
	typed := func(b *http.Client, code string) (*http.Response, string) {
		return w.submit(b, "/device", url.Values{"code": {code}})
	}
	decide := func(b *http.Client, code, decision, org, days string) (*http.Response, string) {
		return w.submit(b, "/device/decide", url.Values{"code": {code}, "decision": {decision}, "org": {org}, "days": {days}})
	}
	code, deviceCode := w.begin("203.0.113.9", millrace.JobsRead, millrace.HostsWrite)

	if res, _ := w.get(browser(t), "/device?code="+code); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/sign-in" {
		t.Errorf("nobody: %s to %s", res.Status, res.Header.Get("Location"))
	}
	if res, _ := w.get(b, "/device?code="+code); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/confirm?to=%2Fdevice%3Fcode%3D"+code {
		t.Errorf("unconfirmed: %s to %s", res.Status, res.Header.Get("Location"))
	}
	for _, path := range []string{"/device", "/device/decide"} {
		if res, page := w.submit(b, path, url.Values{"code": {code}, "decision": {"allow"}, "org": {"calm"}, "days": {"30"}}); res.StatusCode != http.StatusForbidden || !strings.Contains(page, "Confirm that it is you") {
			t.Errorf("%s unconfirmed: %s", path, res.Status)
		}
	}
	w.confirmed(b)
	_, page := w.get(b, "/device?code="+code)
	contains(t, page, `value="`+code+`"`)
	if _, page := w.get(b, "/device?code=<script>"); strings.Contains(page, "<script>alert") || !strings.Contains(page, `value=""`) {
		t.Error("what is no code is shown")
	}
	if res, page := typed(b, "BBBB-BBBB"); res.StatusCode != http.StatusNotFound || !strings.Contains(page, "No program waits with this code") {
		t.Errorf("a wrong code: %s", res.Status)
	}
	res, page := typed(b, strings.ToLower(code))
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the code: %s", res.Status)
	}
	contains(t, page, "millrace CLI on &lt;b&gt;rack-1&lt;/b&gt;", "203.0.113.9", "you come from", "jobs:read", "hosts:write", "without", `value="calm"`)

	other, _ := w.person(w.Org, millrace.RoleAdmin)
	w.confirmed(other)
	if res, _ := typed(other, code); res.StatusCode != http.StatusNotFound {
		t.Errorf("what another typed: %s", res.Status)
	}
	if res, _ := decide(other, code, "allow", "calm", "30"); res.StatusCode != http.StatusNotFound {
		t.Errorf("deciding on what another typed: %s", res.Status)
	}
	if res, _ := decide(b, code, "allow", "rival", "30"); res.StatusCode != http.StatusNotFound {
		t.Errorf("an org that isn't theirs: %s", res.Status)
	}
	for _, days := range []string{"", "0", "x", "400"} {
		if res, _ := decide(b, code, "allow", "calm", days); res.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%q days: %s", days, res.Status)
		}
	}
	if res, page := decide(b, code, "allow", "calm", "30"); res.StatusCode != http.StatusOK || !strings.Contains(page, "is signed in to calm") {
		t.Errorf("allowed: %s", res.Status)
	}
	token, org, secret, err := w.Store.RedeemDevice(t.Context(), deviceCode, millrace.Device{}, "")
	if err != nil || org.Slug != "calm" || len(token.Scopes) != 1 || token.Scopes[0] != millrace.JobsRead || secret == "" {
		t.Errorf("%+v, %+v, %v", token, org, err)
	}

	code, deviceCode = w.begin("203.0.113.9", millrace.JobsRead)
	typed(b, code)
	if _, page := decide(b, code, "refuse", "", ""); !strings.Contains(page, "was refused") {
		t.Error("refused")
	}
	if _, _, _, err := w.Store.RedeemDevice(t.Context(), deviceCode, millrace.Device{}, ""); millrace.CodeOf(err) != millrace.Forbidden {
		t.Errorf("refused: %v", err)
	}
	if res, _ := decide(b, code, "allow", "calm", "30"); res.StatusCode != http.StatusNotFound {
		t.Errorf("allowed after it was refused: %s", res.Status)
	}

	viewer, _ := w.person(w.Org, millrace.RoleViewer)
	w.confirmed(viewer)
	code, _ = w.begin("203.0.113.9", millrace.JobsRead)
	if _, page := typed(viewer, code); !strings.Contains(page, "In none of your orgs") || strings.Contains(page, `value="allow"`) {
		t.Error("a viewer may give tokens")
	}
	if res, _ := decide(viewer, code, "allow", "calm", "30"); res.StatusCode != http.StatusForbidden {
		t.Errorf("a viewer gives a token: %s", res.Status)
	}
	for range millrace.DeviceGuesses - 1 {
		typed(b, "BBBB-BBBB")
	}
	code, _ = w.begin("203.0.113.9", millrace.JobsRead)
	if res, page := typed(b, code); res.StatusCode != http.StatusTooManyRequests || !strings.Contains(page, "Wait ten minutes") {
		t.Errorf("after ten guesses: %s", res.Status)
	}
}
