package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A token is made with what the form says, shown once with every way to use it, listed, and revoked.
func TestEnrollmentTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	_, page := w.submit(b, "/o/calm/hosts/enrollment-tokens", url.Values{"uses": {"25"}, "hours": {"24"}, "labels": {"gpu, rack-7"}, "cidr": {"192.0.2.0/24"}, "ephemeral": {"yes"}})
	contains(t, page, "{ echo MILLRACE_ENROLL_TOKEN=mret_", "; curl -fsSL "+w.URL+"/install.sh || echo exit 1; } | sudo sh", "works for 25 hosts,", "#cloud-config", "user_data", "ansible.builtin.shell")
	if n := strings.Count(page, "mret_"); n != 2 { // terraform's and ansible's files are checked in
		t.Errorf("the secret is there %d times", n)
	}
	list, err := w.Store.Org(w.Org.ID).EnrollmentTokens(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	_, page = w.get(b, "/o/calm/hosts")
	contains(t, text(page), "Enrollment tokens that still work", "25", "gpu rack-7", "192.0.2.0/24", "ephemeral")
	if strings.Contains(page, "mret_") {
		t.Error("a secret is shown again")
	}
	member, _ := w.person(w.Org, millrace.RoleMember)
	if _, page := w.get(member, "/o/calm/hosts"); strings.Contains(page, "192.0.2.0/24") {
		t.Error("a member sees tokens")
	}
	for field, values := range map[string][]string{
		"uses": {"0", "x", "-1", "1001", "99999999999999999999"}, "hours": {"0", "x", "-1", "99999"}, "cidr": {"x", "192.0.2.1/24"}, "labels": {strings.Repeat("x", 300)},
	} {
		for _, value := range values {
			form := url.Values{"uses": {"2"}, "hours": {"1"}}
			form.Set(field, value)
			res, page := w.submit(b, "/o/calm/hosts/enrollment-tokens", form)
			if res.StatusCode != http.StatusUnprocessableEntity || strings.Contains(page, "mret_") || !strings.Contains(page, `role="alert"`) {
				t.Errorf("%s %.20q: %s", field, value, res.Status)
			}
		}
	}
	w.submit(b, "/o/calm/hosts/enrollment-tokens/"+list[0].ID.String()+"/revoke", url.Values{})
	if list, err := w.Store.Org(w.Org.ID).EnrollmentTokens(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("revoked: %+v, %v", list, err)
	}
}

// A host's page says how it is and what was done to it, and does what its buttons say.
func TestHostPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host("rack-1", 10)
	w.run(host, w.queue(), millrace.StageRunning, 0, "")
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	path := "/o/calm/hosts/" + host.ID.String()
	shows := func(says ...string) {
		t.Helper()
		res, page := w.get(b, path)
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		contains(t, text(page), says...)
	}
	act := func(do string, want int, says string) {
		t.Helper()
		res, page := w.submit(b, path, url.Values{"do": {do}})
		if res.StatusCode != want || !strings.Contains(page, says) {
			t.Errorf("%s: %s", do, res.Status)
		}
	}
	shows("Online", "rack-1", "Runs a job", "calm/app", "host.enrolled", "Drain Disable Restart agent Rotate keys Reboot", "Fail the jobs of its 1 VM ")
	act("drain", http.StatusSeeOther, "")
	shows("Draining", "1 VM left", "Enable", "host.changed")
	act("enable", http.StatusSeeOther, "")
	act("restart", http.StatusSeeOther, "")
	shows("Its agent is asked to start anew")
	act("reboot", http.StatusSeeOther, "")
	shows("Reboots once it has no VM (1 left)")
	act("explode", http.StatusUnprocessableEntity, "explode")
	act("remove", http.StatusConflict, "Drain it and wait for their jobs")
	w.pass(time.Minute)
	if _, err := w.Store.MarkLost(t.Context()); err != nil {
		t.Fatal(err)
	}
	shows("Offline", "It had 1 VM, now lost", "Lost")
	member, _ := w.person(w.Org, millrace.RoleMember)
	if _, page := w.get(member, path); strings.Contains(page, "Remove this host") || strings.Contains(page, "host.changed") {
		t.Error("a member may remove hosts, or sees the audit log")
	}
	if res, _ := w.submit(b, path, url.Values{"do": {"remove"}, "force": {"yes"}}); res.Header.Get("Location") != "/o/calm/hosts" {
		t.Errorf("removed: %s", res.Status)
	}
	if res, _ := w.get(b, path); res.StatusCode != http.StatusNotFound {
		t.Errorf("the page of what was removed: %s", res.Status)
	}
}

// The pages of hosts in a browser. What becomes of a token is seen as it happens.
func TestHostsInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := chrome(t)
	do(t, ctx, chromedp.Navigate(w.link()))
	look(t, ctx, "hosts-none", w.URL+"/o/calm/hosts", 1280, 320)
	look(t, ctx, "hosts-new", w.URL+"/o/calm/hosts/new", 1280, 320)
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#labels"), "gpu"))
	do(t, ctx, chromedp.Click(chromedp.Search(`//button[normalize-space()="Make the token"]`)))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("#command")))
	look(t, ctx, "hosts-token", "", 1280, 320)
	command := do(t, ctx, chromedp.Evaluate[string](`document.getElementById("command").textContent`))
	_, secret, _ := strings.Cut(command, "MILLRACE_ENROLL_TOKEN=")
	secret, _, _ = strings.Cut(secret, ";")
	facts := storetest.Facts()
	host, _, err := w.Store.EnrollHost(t.Context(), millrace.Actor{Address: "192.0.2.9"}, store.Enrollment{Secret: secret, Name: "rack-1", SignKey: make([]byte, 32), SealKey: []byte(strings.Repeat("x", 32)), Facts: facts})
	if err != nil {
		t.Fatal(err)
	}
	seen := func(says string) {
		t.Helper()
		do(t, ctx, chromedp.WaitVisible(chromedp.Search(fmt.Sprintf(`//li[contains(., %q)]`, says))))
	}
	seen("Token used")
	facts.BootMS, facts.Driver = 512, "qemu/kvm"
	facts.Findings = []millrace.Finding{
		{Check: "boot", Level: millrace.LevelOK, Found: "a VM booted in 512ms with qemu/kvm"},
		{Check: "swap", Level: millrace.LevelWarning, Found: "2 GB of swap are on: what VMs keep in memory gets onto the disk.", Do: "Switch it off.", Command: "swapoff -a"},
		{Check: "guest kernel", Level: millrace.LevelFailure, Found: "There is no <kernel> in /usr/local/lib/millrace/guest.", Do: "Run install.sh again."},
	}
	epoch, err := w.Store.Org(w.Org.ID).StartHost(t.Context(), host.ID, "", facts)
	if err != nil {
		t.Fatal(err)
	}
	seen("Trial VM booted in 512 ms with qemu/kvm")
	look(t, ctx, "hosts-enrolling", "", 1280, 320)
	host.Epoch = epoch
	w.run(host, w.queue(), millrace.StageRunning, 0, "")
	_, page := w.get(w.member(), "/o/calm/hosts/"+host.ID.String())
	contains(t, page, "There is no &lt;kernel&gt;")
	contains(t, text(page), "Failure guest kernel There is no", "Warning swap", "Switch it off. swapoff -a", "1 that are all right")
	look(t, ctx, "host", w.URL+"/o/calm/hosts/"+host.ID.String(), 1280, 320)
}
