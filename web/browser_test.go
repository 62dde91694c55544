package web_test

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// axeSource is axe-core 4.14.1 (MPL-2.0, github.com/dequelabs/axe-core), copied here by frontend's build.
//
//go:embed testdata/axe.min.js
var axeSource string

// chrome is a browser of the test's own.
func chrome(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("there is no chromium; run `make deps`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocator, stopAllocator := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stopAllocator)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	return ctx
}

// do runs one action in the browser.
func do[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// audit asks axe-core for violations of WCAG 2.2 A and AA and of its own best practices.
const audit = `axe.run().then(r => r.violations.map(v => v.id + ": " + v.help + " " + v.nodes.map(n => n.html.slice(0, 200) + " " + n.failureSummary).join("; ")))`

// axe fails for each violation that axe-core finds on the page that ctx shows.
func axe(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	do(t, ctx, chromedp.Evaluate[chromedp.Void](axeSource))
	if violations := do(t, ctx, chromedp.Evaluate[[]string](audit, chromedp.EvalAwaitPromise)); len(violations) > 0 {
		t.Errorf("%s: %s", name, strings.Join(violations, "\n"))
	}
}

// look opens a page in light and dark at each width: nothing is inaccessible, too wide or unstyled. SCREENSHOTS=dir keeps
// pictures.
func look(t *testing.T, ctx context.Context, name, address string, widths ...int64) {
	t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range widths {
			name := fmt.Sprintf("%s-%s-%d", name, scheme, width)
			do(t, ctx, chromedp.EmulateViewport(width, 800))
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
				t.Fatal(err)
			}
			if address != "" { // else the page that is there: the answer to a form has no address of its own
				do(t, ctx, chromedp.Navigate(address))
			}
			axe(t, ctx, name)
			if overflow := do(t, ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`)); overflow > 0 {
				t.Errorf("%s: the page is %d px too wide", name, overflow)
			}
			if styled := do(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.body).colorScheme`)); styled != "light dark" {
				t.Errorf("%s: the style sheet did not load", name)
			}
			if dir := os.Getenv("SCREENSHOTS"); dir != "" {
				picture := do(t, ctx, chromedp.FullScreenshot(100))
				if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestPagesInABrowser looks at every page as people do: light and dark, wide and narrow.
func TestPagesInABrowser(t *testing.T) {
	t.Parallel()
	full, empty := newWorld(t), newWorld(t)
	running := full.busy()
	done, err := full.Store.Org(full.Org.ID).Jobs(t.Context(), store.JobFilter{Status: []millrace.JobStatus{millrace.JobCompleted}, Repository: "calm/app"})
	if err != nil {
		t.Fatal(err)
	}
	queued, err := full.Store.Org(full.Org.ID).Jobs(t.Context(), store.JobFilter{Status: []millrace.JobStatus{millrace.JobQueued}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := chrome(t)
	visit := func(name, address string) {
		t.Helper()
		look(t, ctx, name, address, 1280, 320)
	}
	signIn := func(w *world) {
		do(t, ctx, chromedp.Navigate(w.link()))
	}
	visit("sign-in", full.URL+"/sign-in")
	signIn(full)
	visit("overview", full.URL+"/o/calm/")
	visit("jobs", full.URL+"/o/calm/jobs")
	visit("jobs-none", full.URL+"/o/calm/jobs?status=waiting")
	visit("job-running", full.URL+"/o/calm/jobs/"+running.ID.String())
	visit("job-done", full.URL+"/o/calm/jobs/"+done.Jobs[0].ID.String())
	visit("job-queued", full.URL+"/o/calm/jobs/"+queued.Jobs[0].ID.String())
	visit("vm-running", full.URL+"/o/calm/vms/"+running.VM.ID.String())
	visit("vm-done", full.URL+"/o/calm/vms/"+done.Jobs[0].VM.ID.String())
	flaky := full.host("flaky", 30)
	tried, failed, _ := full.retried(flaky)
	visit("job-tries", full.URL+"/o/calm/jobs/"+tried.String())
	visit("vm-failed", full.URL+"/o/calm/vms/"+failed.ID.String())
	if err := full.Store.Org(full.Org.ID).RemoveHost(t.Context(), full.Org.Caller(), flaky.ID, true); err != nil {
		t.Fatal(err)
	}
	visit("host-removed", full.URL+"/o/calm/hosts/"+flaky.ID.String())
	visit("agent-log-removed", full.URL+"/o/calm/hosts/"+flaky.ID.String()+"/log")
	visit("hosts", full.URL+"/o/calm/hosts")
	busy := done.Jobs[0].VM.HostID
	visit("host-busy", full.URL+"/o/calm/hosts/"+busy.String())
	visit("agent-log-none", full.URL+"/o/calm/hosts/"+busy.String()+"/log")
	const said = "time=2026-11-27T01:15:43Z level=INFO msg=\"A VM is started.\" vm=vm_01 vcpus=4\nlevel=ERROR msg=\"<script>alert(1)</script> \x1b[31mred\"\n"
	if err := full.Store.Org(full.Org.ID).AppendAgentLog(t.Context(), busy, millrace.LogPosition{Epoch: 1}, []byte(said)); err != nil {
		t.Fatal(err)
	}
	visit("agent-log", full.URL+"/o/calm/hosts/"+busy.String()+"/log")
	visit("incidents-none", full.URL+"/o/calm/incidents")
	full.incident(millrace.WaitGitHubDown, 0, "", "503 Service Unavailable")
	full.over(millrace.WaitGitHubDown, 0)
	full.incident(millrace.WaitRunnerGroup, 7, "calm/"+strings.Repeat("long-repository-", 6), "")
	full.pass(94 * time.Second)
	full.incident(millrace.WaitRateLimited, 0, "", "API rate limit exceeded for installation.")
	full.pass(7 * time.Minute)
	full.over(millrace.WaitRunnerGroup, 7)
	full.incident(millrace.WaitRunnerGroup, 8, "calm/site", strings.Repeat("said-", 60))
	full.pass(20 * time.Second)
	full.queue()
	full.place(millrace.Host{}, millrace.WaitReason{
		Code: millrace.WaitRateLimited, Text: millrace.WaitRateLimited.Title() + " (calm), since 18 Mar 2026, 12:01 UTC. GitHub said: “API rate limit exceeded for installation.”",
		Estimate: &millrace.Estimate{From: full.now().Add(2 * time.Minute), To: full.now().Add(5 * time.Minute), Basis: "when GitHub wants to be asked again"},
	})
	visit("incidents", full.URL+"/o/calm/incidents")
	visit("jobs-incidents", full.URL+"/o/calm/jobs")
	visit("job-incidents", full.URL+"/o/calm/jobs/"+full.newest().ID.String())
	visit("hosts-incidents", full.URL+"/o/calm/hosts")
	visit("usage", full.URL+"/o/calm/usage?by=user&window=14d")
	full.settle()
	visit("settings", full.URL+"/o/calm/settings")
	visit("placement", full.URL+"/o/calm/placement")
	if _, err := full.Store.Org(full.Org.ID).ChangePlacement(t.Context(), full.Org.Caller(), millrace.PlacementChange{
		Shares: []millrace.ShareChange{{Repository: "calm/app", Priority: new(2), Limit: new(8)}},
		Zones:  []millrace.ZoneChange{{Zone: millrace.ZonePublic, Allowed: new(true), HostLabels: &[]string{"outside"}, Egress: new(millrace.EgressNone), MaxSize: &millrace.Size{MilliCPU: 2000}}},
	}); err != nil {
		t.Fatal(err)
	}
	visit("placement-set", full.URL+"/o/calm/placement")
	visit("delete", full.URL+"/o/calm/settings/delete")
	visit("members", full.URL+"/o/calm/members")
	visit("tokens", full.URL+"/o/calm/tokens")
	visit("token-new", full.URL+"/o/calm/tokens/new")
	visit("audit", full.URL+"/o/calm/audit")
	visit("audit-none", full.URL+"/o/calm/audit?actor=nobody")
	visit("account", full.URL+"/account")
	visit("missing", full.URL+"/o/calm/nothing")
	signIn(empty) // cookies are the host's, whatever its port: this is another session
	visit("overview-empty", empty.URL+"/o/calm/")
	visit("jobs-empty", empty.URL+"/o/calm/jobs")
	visit("hosts-empty", empty.URL+"/o/calm/hosts")
	visit("usage-empty", empty.URL+"/o/calm/usage")
	visit("tokens-empty", empty.URL+"/o/calm/tokens")
}

// settle gives the org members of every role and tokens, and has its owner confirm that it is them.
func (w *world) settle() {
	w.t.Helper()
	for _, role := range millrace.Roles {
		w.person(w.Org, role)
	}
	for _, n := range []millrace.NewAPIToken{
		{Name: "ci", Scopes: []millrace.Permission{millrace.JobsRead}},
		{Name: "dashboard of everything that has a name which goes on and on", Scopes: millrace.Scopes(), Days: 366, OfOrg: true},
	} {
		if _, _, err := w.Store.Org(w.Org.ID).CreateAPIToken(w.t.Context(), w.Org.Caller(), n); err != nil {
			w.t.Fatal(err)
		}
	}
	sessions, err := w.Store.Sessions(w.t.Context(), w.Org.Owner.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range sessions {
		if err := w.Store.ConfirmSession(w.t.Context(), s.ID); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestLive watches a job's row appear and move on, without a reload, under the content security policy.
func TestLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := chrome(t)
	host := w.host("rack-1", 10)
	do(t, ctx, chromedp.Navigate(w.link()))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS(`#live[data-state="live"]`)))
	do(t, ctx, chromedp.Navigate(w.URL+"/o/calm/jobs"))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS(`#live[data-state="live"]`)))
	if title := do(t, ctx, chromedp.Evaluate[string](`window.unreloaded = true; document.title`)); !strings.HasPrefix(title, "Jobs") {
		t.Fatalf("signed in to %q", title)
	}
	id := w.queue()
	shows := func(text string) {
		t.Helper()
		row := `window.unreloaded && document.querySelector("#jobs tbody tr")?.innerText.includes("` + text + `")`
		do(t, ctx, chromedp.Poll[bool](row, chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(20*time.Second)))
	}
	shows("Queued")
	vm := w.run(host, id, millrace.StageRunning, 0, "")
	shows("Running")

	// On the job's page what the reader opened stays open, and the log follows.
	do(t, ctx, chromedp.Click(chromedp.CSS("#jobs tbody a")))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("#log")))
	do(t, ctx, chromedp.Evaluate[chromedp.Void](`window.unreloaded = true; document.querySelector("#job details").open = true`))
	more := strings.Repeat("another line\n", 200) + "the last line\n"
	if err := w.Store.Org(w.Org.ID).AppendConsole(t.Context(), host.ID, vm.ID, 4096, []byte(more)); err != nil {
		t.Fatal(err)
	}
	follows := `(() => {
		const log = document.getElementById("log");
		return window.unreloaded && log.textContent.endsWith("the last line\n") && log.scrollTop > 0 && log.scrollHeight - log.scrollTop - log.clientHeight < 2
			&& document.querySelector("#job details").open;
	})()`
	do(t, ctx, chromedp.Poll[bool](follows, chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(20*time.Second)))
}

// TestSignInInABrowser is the way from a page that wants a session, over GitHub, back to it.
func TestSignInInABrowser(t *testing.T) {
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
	look(t, ctx, "sign-in-github", p.URL+"/sign-in", 1280, 320)
	do(t, ctx, chromedp.Navigate(p.URL+"/o/robots/hosts"))
	arrived("Sign in")
	press("Sign in with GitHub")
	press("Sign in as mona")
	press("Authorize Millrace")
	arrived("Hosts")
	press("Sign out")
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS(`a[href="/sign-in"]`)))
	do(t, ctx, chromedp.Navigate(p.URL+"/sign-in"))
	press("With another GitHub account")
	press("Sign in as stranger")
	press("Authorize Millrace")
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//h2[normalize-space()="GitHub shows us no account of yours with the App"]`)))
	look(t, ctx, "no-org", p.URL+"/", 1280, 320)
}
