package web_test

import (
	"bytes"
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

// What became of a token is followed to its end, also where that is no host: nothing is awaited that can't come.
func TestEnrollmentIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	org := w.Store.Org(w.Org.ID)
	mint := func(tenant storetest.Tenant, n store.NewEnrollmentToken) (id millrace.EnrollmentTokenID, secret string) {
		t.Helper()
		token, s, err := w.Store.Org(tenant.ID).CreateEnrollmentToken(t.Context(), storetest.System, n)
		if err != nil {
			t.Fatal(err)
		}
		return token.ID, s.Reveal()
	}
	enroll := func(secret, address, name string, n byte, want millrace.Code) millrace.Host {
		t.Helper()
		h, _, err := w.Store.EnrollHost(t.Context(), millrace.Actor{Address: address}, store.Enrollment{
			Secret: secret, Name: name, SignKey: bytes.Repeat([]byte{n}, 32), SealKey: bytes.Repeat([]byte{n + 1}, 32), Facts: storetest.Facts(),
		})
		if millrace.CodeOf(err) != want {
			t.Fatalf("%s: %v, want %q", name, err, want)
		}
		return h
	}
	by := func(b *http.Client, id millrace.EnrollmentTokenID) string {
		t.Helper()
		_, part := w.get(b, "/o/calm/hosts?token="+id.String(), "HX-Request", "true")
		return text(part)
	}
	page := func(id millrace.EnrollmentTokenID) string { return by(b, id) }
	const waiting, none = "Waiting for the command to be run", "No hosts yet"

	{ // It ends before a host comes.
		expires, _ := mint(w.Org, store.NewEnrollmentToken{Life: time.Minute})
		revoked, _ := mint(w.Org, store.NewEnrollmentToken{})
		contains(t, page(expires), waiting)
		contains(t, page(revoked), waiting)
		if err := org.RevokeEnrollmentToken(t.Context(), w.Org.Caller().Actor, revoked); err != nil {
			t.Fatal(err)
		}
		contains(t, page(revoked), "The token was revoked: 18 Mar 2026, 12:00:00 UTC.", "Make a new one")
		lacks(t, page(revoked), waiting, none)
		w.pass(time.Minute)
		contains(t, page(expires), "The token has expired: 18 Mar 2026, 12:01:00 UTC.", "Make a new one")
		lacks(t, page(expires), waiting, none)
	}
	{ // It is nobody's, another org's, or not the visitor's business.
		theirs, secret := mint(storetest.MustCreateOrg(t, w.Store, "rival"), store.NewEnrollmentToken{CIDR: "192.0.2.0/24"})
		enroll(secret, "192.0.3.1", "their-rack", 50, millrace.Forbidden)
		for _, id := range []millrace.EnrollmentTokenID{theirs, {15: 1}} {
			contains(t, page(id), none)
			lacks(t, page(id), waiting, "their-rack", "The token")
		}
		ours, secret := mint(w.Org, store.NewEnrollmentToken{CIDR: "192.0.2.0/24"})
		enroll(secret, "192.0.3.1", "our-rack", 50, millrace.Forbidden)
		contains(t, page(ours), "our-rack")
		member, _ := w.person(w.Org, millrace.RoleMember)
		contains(t, by(member, ours), none)
		lacks(t, by(member, ours), "our-rack", waiting)
	}
	{ // Machines are refused.
		id, secret := mint(w.Org, store.NewEnrollmentToken{CIDR: "192.0.2.0/24"})
		lacks(t, page(id), "was refused")
		enroll(secret, "192.0.3.1", "rack-1", 10, millrace.Forbidden)
		contains(t, page(id), "rack-1 was refused just now , from 192.0.3.1 The enrollment token can't be used from 192.0.3.1, but from 192.0.2.0/24 alone.", waiting)
		w.pass(time.Second)
		host := enroll(secret, "192.0.2.1", "rack-1", 10, "")
		contains(t, page(id), "Token used just now")
		lacks(t, page(id), "was refused", waiting)
		w.pass(time.Second)
		enroll(secret, "192.0.2.2", "rack-2", 12, millrace.Conflict)
		contains(t, page(id), "Token used just now", "rack-2 was refused just now , from 192.0.2.2 The enrollment token is used up by another machine.")
		if err := org.RemoveHost(t.Context(), w.Org.Caller(), host.ID, false); err != nil {
			t.Fatal(err)
		}
		contains(t, page(id), "The token is used up by other machines, which are hosts no more.")
		lacks(t, page(id), waiting)
	}
	{ // The trial VM fails.
		id, secret := mint(w.Org, store.NewEnrollmentToken{})
		host, facts := enroll(secret, "", "rack-3", 14, ""), storetest.Facts()
		start := func() {
			t.Helper()
			var err error
			if host.Epoch, err = org.StartHost(t.Context(), host.ID, "", facts); err != nil {
				t.Fatal(err)
			}
		}
		refuse := func(why string) {
			t.Helper()
			if _, err := org.Observe(t.Context(), host.ID, host.Epoch, why, nil); err != nil {
				t.Fatal(err)
			}
		}
		const toCome, failed = "To come: Trial VM booted", "Failed: No trial VM booted. Takes no jobs: its VM driver does not work: no KVM. What its agent found"
		contains(t, page(id), "To come: Agent started", toCome)
		start()
		contains(t, page(id), "Done: Agent started", toCome)
		refuse("its VM driver does not work: no KVM")
		contains(t, page(id), "Done: Agent started", failed)
		lacks(t, page(id), "To come")
		if _, part := w.get(b, "/o/calm/hosts?token="+id.String()); !strings.Contains(part, `<a href="/o/calm/hosts/`+host.ID.String()+`">What its agent found</a>`) {
			t.Error("the step doesn't lead to the host's page")
		}
		facts.BootMS = 512
		start()
		refuse("its disk is nearly full (1.2 GB free)")
		contains(t, page(id), "Done: Trial VM booted in 512 ms", "Takes no jobs: its disk is nearly full")
		lacks(t, page(id), "Failed", "To come")
		facts.Driver = "" // as it is until the agent has started
		start()
		if _, list := w.get(b, "/o/calm/hosts"); !strings.Contains(list, `data-label="Driver" class="whitespace-nowrap">–</td>`) {
			t.Error("the list leaves a driver blank that isn't known")
		}
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
	facts := storetest.Facts()
	facts.Reboots = false
	if _, err := w.Store.Org(w.Org.ID).StartHost(t.Context(), host.ID, "", facts); err != nil {
		t.Fatal(err)
	}
	shows("Restart agent Rotate keys A host that drains", "its owner adds --allow-reboot")
	act("reboot", http.StatusConflict, "without --allow-reboot")
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
	res, page := w.get(b, path)
	contains(t, text(page), "rack-1 Agent log This host was removed just now", "calm/app", "host.removed", "Agent log")
	if res.StatusCode != http.StatusOK || strings.Contains(page, "Restart agent") {
		t.Errorf("the page of what was removed: %s", res.Status)
	}
	if res, _ := w.submit(b, path, url.Values{"do": {"enable"}}); res.StatusCode != http.StatusNotFound {
		t.Errorf("enabling what was removed: %s", res.Status)
	}
}

// What a host's agent said is read after the host was removed, by who may see hosts of its org.
func TestAgentLogOfARemovedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host("rack-<1>", 10)
	org, path := w.Store.Org(w.Org.ID), "/o/calm/hosts/"+host.ID.String()+"/log"
	if err := org.AppendAgentLog(t.Context(), host.ID, millrace.LogPosition{Epoch: 1}, []byte("level=ERROR msg=\"no space left on device\"\n")); err != nil {
		t.Fatal(err)
	}
	b := w.member()
	if _, page := w.get(b, path); strings.Contains(page, "removed") {
		t.Error("a host that is there counts as removed")
	}
	if err := org.RemoveHost(t.Context(), w.Org.Caller(), host.ID, false); err != nil {
		t.Fatal(err)
	}
	w.pass(5 * time.Minute)
	_, page := w.get(b, path)
	contains(t, text(page), "rack-<1> Agent log This host was removed 5 min ago", "no space left on device")
	_, page = w.get(b, "/o/calm/audit?action=host.removed")
	contains(t, page, `href="`+path+`"`)
	rival, _ := w.person(storetest.MustCreateOrg(t, w.Store, "rival"), millrace.RoleOwner)
	w.get(rival, "/account") // takes the secret that its role made
	none := millrace.NewHostID(new(millrace.Source), w.now()).String()
	for _, of := range []string{"", "/log"} {
		theirs, page := w.get(rival, "/o/rival/hosts/"+host.ID.String()+of)
		missing, empty := w.get(rival, "/o/rival/hosts/"+none+of)
		if theirs.StatusCode != http.StatusNotFound || looks(theirs, page) != looks(missing, empty) {
			t.Errorf("another org's %q: %s, and none: %s", of, theirs.Status, missing.Status)
		}
	}
	if res, _ := w.get(browser(t), path); res.Header.Get("Location") == "" {
		t.Errorf("nobody: %s", res.Status)
	}
}

// Why a host takes no jobs is on its page as in the list; and what became of the jobs of a silent one, whatever is wanted of it.
func TestHostPageSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host, b := w.host("rack-1", 10), w.member()
	path := "/o/calm/hosts/" + host.ID.String()
	page := func(path string) string {
		t.Helper()
		_, page := w.get(b, path)
		return text(page)
	}
	refuse := func(why string) {
		t.Helper()
		if _, err := w.Store.Org(w.Org.ID).Observe(t.Context(), host.ID, host.Epoch, why, nil); err != nil {
			t.Fatal(err)
		}
	}
	const full, silent = "Takes no jobs: its disk is nearly <full> (1.2 GB free)", "Nothing was heard for 30 seconds or more"
	lacks(t, page(path), "Takes no jobs", silent)
	refuse("its disk is nearly <full> (1.2 GB free)")
	contains(t, page("/o/calm/hosts"), full)
	contains(t, page(path), "Online", full+". Its agent looks again by itself.")
	if err := w.Store.Org(w.Org.ID).SetHostAdmin(t.Context(), w.Org.Caller(), host.ID, millrace.HostDisabled); err != nil {
		t.Fatal(err)
	}
	contains(t, page(path), "Disabled", full)
	lacks(t, page(path), silent)
	w.pass(millrace.OfflineAfter - time.Second)
	lacks(t, page(path), silent)
	w.pass(time.Second)
	contains(t, page(path), "Disabled", silent, "No job was on it.", full)
	lacks(t, page(path), "looks again")
	refuse("")
	lacks(t, page(path), "Takes no jobs")
	lacks(t, page("/o/calm/hosts"), "Takes no jobs")
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
	enroll := func() (millrace.Host, error) {
		host, _, err := w.Store.EnrollHost(t.Context(), millrace.Actor{Address: "192.0.2.9"}, store.Enrollment{Secret: secret, Name: "rack-1", SignKey: make([]byte, 32), SealKey: []byte(strings.Repeat("x", 32)), Facts: facts})
		return host, err
	}
	facts.Labels = []string{"trusted"}
	if _, err := enroll(); millrace.CodeOf(err) != millrace.Forbidden {
		t.Fatalf("with another label: %v", err)
	}
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//p[@role="alert"][contains(., "rack-1 was refused")]`)))
	look(t, ctx, "hosts-refused", "", 1280, 320)
	w.pass(time.Second)
	facts.Labels = nil
	host, err := enroll()
	if err != nil {
		t.Fatal(err)
	}
	seen := func(says string) {
		t.Helper()
		do(t, ctx, chromedp.WaitVisible(chromedp.Search(fmt.Sprintf(`//li[contains(., %q)]`, says))))
	}
	seen("Token used")
	org := w.Store.Org(w.Org.ID)
	start := func() {
		t.Helper()
		if host.Epoch, err = org.StartHost(t.Context(), host.ID, "", facts); err != nil {
			t.Fatal(err)
		}
	}
	start()
	if _, err := org.Observe(t.Context(), host.ID, host.Epoch, "its VM driver does not work: KVM does not work here (no /dev/kvm that may be opened); --driver auto would emulate, which is slow", nil); err != nil {
		t.Fatal(err)
	}
	seen("No trial VM booted")
	look(t, ctx, "hosts-no-trial", "", 1280, 320)
	look(t, ctx, "host-refuses", w.URL+"/o/calm/hosts/"+host.ID.String(), 1280, 320)
	do(t, ctx, chromedp.Navigate(w.URL+"/o/calm/hosts?token="+host.TokenID.String()))
	facts.BootMS, facts.Driver = 512, "qemu/kvm"
	facts.Findings = []millrace.Finding{
		{Check: "boot", Level: millrace.LevelOK, Found: "a VM booted in 512ms with qemu/kvm"},
		{Check: "swap", Level: millrace.LevelWarning, Found: "2 GB of swap are on: what VMs keep in memory gets onto the disk.", Do: "Switch it off.", Command: "swapoff -a"},
		{Check: "guest kernel", Level: millrace.LevelFailure, Found: "There is no <kernel> in /usr/local/lib/millrace/guest.", Do: "Run install.sh again."},
	}
	start()
	seen("Trial VM booted in 512 ms with qemu/kvm")
	look(t, ctx, "hosts-enrolling", "", 1280, 320)
	w.run(host, w.queue(), millrace.StageRunning, 0, "")
	_, page := w.get(w.member(), "/o/calm/hosts/"+host.ID.String())
	contains(t, page, "There is no &lt;kernel&gt;")
	contains(t, text(page), "Failure guest kernel There is no", "Warning swap", "Switch it off. swapoff -a", "1 that are all right")
	look(t, ctx, "host", w.URL+"/o/calm/hosts/"+host.ID.String(), 1280, 320)
	ended, _, err := org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	w.pass(millrace.DefaultEnrollmentLife)
	look(t, ctx, "hosts-ended", w.URL+"/o/calm/hosts?token="+ended.ID.String(), 1280, 320)
}
