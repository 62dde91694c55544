package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace"
)

// The checklist shows the step that comes next, with what is in its way, until a job ended well or somebody puts it away.
func TestFirstSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	shows := func(done, next string, says ...string) {
		t.Helper()
		_, page := w.get(b, "/o/calm/")
		_, steps, _ := strings.Cut(page, `id="checklist"`)
		steps, _, _ = strings.Cut(steps, "</section>")
		_, current, _ := strings.Cut(steps, `aria-current="step"`)
		current, _, _ = strings.Cut(current, "</li>")
		contains(t, text(steps), done+" of 5")
		contains(t, text(current), append([]string{next}, says...)...)
	}
	shows("1", "Add a host", "Make a token and show the command")
	w.submit(b, "/o/calm/hosts/enrollment-tokens", url.Values{})
	shows("1", "Add a host", "waits to be used until 18 Mar 2026, 13:00:00 UTC", "most often the machine doesn't reach "+w.URL)
	w.pass(2 * time.Hour)
	shows("1", "Add a host", "has expired, and no host came of it")

	host := w.host("rack-1", 10)
	shows("3", "Change runs-on", "GitHub shows us no repository of yours", "GitHub has announced nothing yet")
	w.pass(time.Hour)
	shows("2", "The host is online", "It was last heard", "1 h ago", "millrace-agent doctor")
	repositories := []millrace.Repository{
		{ID: 1, FullName: "calm/app", Private: true, InstallationID: w.Org.Installation.ID}, {ID: 2, FullName: "calm/open", InstallationID: w.Org.Installation.ID},
	}
	if err := w.Store.SaveRepositories(t.Context(), w.Org.Installation.ID, repositories); err != nil {
		t.Fatal(err)
	}
	beat := func() {
		t.Helper()
		w.Store.Heard(w.Org.ID, host.ID, host.Epoch, 1)
		if err := w.Store.FlushHeard(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	beat()
	shows("3", "Change runs-on", "calm/app", "runs-on: millrace", "Another repository:", "calm/open")
	_, page := w.get(b, "/o/calm/?repository=2")
	contains(t, page, "runs-on: ${{ github.event.pull_request.head.repo.fork &amp;&amp; &#39;ubuntu-latest&#39; || &#39;millrace&#39; }}",
		"this org runs no jobs of public repositories yet", `hx-get="/o/calm/?repository=2"`, "https://github.test/calm/open/tree/HEAD/.github/workflows")
	if _, page := w.get(b, "/o/calm/?repository=<script>"); strings.Contains(page, "?repository=<") || !strings.Contains(page, `hx-get="/o/calm/"`) {
		t.Error("a repository that isn't there")
	}

	shape := func(j *millrace.Job) { j.Labels = []string{"millrace-1cpu-1gb"} }
	id := w.queue(shape)
	w.place(host, millrace.WaitReason{Code: millrace.WaitNoHost, Text: "No host."})
	shows("4", "A job ends with success", "The first job came", "hasn't started yet", "No host has its labels.", "Look at it")
	w.deliver(id, millrace.JobCompleted, shape, func(j *millrace.Job) { j.Conclusion = "failure" })
	shows("4", "A job ends with success", "and ended: failure.")

	viewer, _ := w.person(w.Org, millrace.RoleBilling)
	if _, page := w.get(viewer, "/o/calm/"); !strings.Contains(page, `id="checklist"`) || strings.Contains(page, "/o/calm/checklist") || strings.Contains(page, "Look at it") {
		t.Error("whoever may not change settings hides the checklist")
	}
	if res, _ := w.submit(viewer, "/o/calm/checklist", url.Values{"hidden": {"yes"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("billing hides it: %s", res.Status)
	}
	w.submit(b, "/o/calm/checklist", url.Values{"hidden": {"yes"}})
	if _, page := w.get(b, "/o/calm/"); strings.Contains(page, `id="checklist"`) || !strings.Contains(page, "Show the first steps") {
		t.Error("hidden")
	}
	w.submit(b, "/o/calm/checklist", url.Values{})
	shows("4", "A job ends with success")
	beat()
	w.run(host, w.queue(shape), millrace.StageDone, time.Minute, "success", shape)
	if _, page := w.get(b, "/o/calm/"); strings.Contains(page, `id="checklist"`) || strings.Contains(page, "first steps") {
		t.Error("all is done, and the checklist stays")
	}
}

func TestRunsOn(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"runs-on: millrace":       millrace.RunsOn("millrace", millrace.AMD64, false),
		"runs-on: millrace-arm64": millrace.RunsOn("millrace", millrace.ARM64, false),
		"runs-on: ${{ github.event.pull_request.head.repo.fork && 'ubuntu-latest' || 'mine' }}":              millrace.RunsOn("mine", millrace.AMD64, true),
		"runs-on: ${{ github.event.pull_request.head.repo.fork && 'ubuntu-24.04-arm' || 'millrace-arm64' }}": millrace.RunsOn("millrace", millrace.ARM64, true),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The pages of an org's beginnings, in a browser: the host's coming online is seen without a reload.
func TestFirstStepsInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := chrome(t)
	do(t, ctx, chromedp.Navigate(w.link()))
	look(t, ctx, "first-steps-host", w.URL+"/o/calm/", 1280, 320)
	if err := w.Store.SaveRepositories(t.Context(), w.Org.Installation.ID, []millrace.Repository{
		{ID: 1, FullName: "calm/app", InstallationID: w.Org.Installation.ID}, {ID: 2, FullName: "calm/compiler", Private: true, InstallationID: w.Org.Installation.ID},
	}); err != nil {
		t.Fatal(err)
	}
	w.host("rack-1", 10)
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("#runs-on")))
	look(t, ctx, "first-steps-runs-on", w.URL+"/o/calm/", 1280, 320)
	look(t, ctx, "settings", w.URL+"/o/calm/settings", 1280, 320)
}

// The settings say how well each GitHub account is, and give the org another name.
func TestSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, _ := w.person(w.Org, millrace.RoleAdmin)
	_, page := w.get(b, "/o/calm/settings")
	contains(t, text(page), "GitHub accounts", "Works", "none yet", "about to be")
	contains(t, page, "https://github.test/organizations/calm/settings/installations/"+itoa(w.Org.Installation.ID))
	for _, bad := range []string{"", "  ", strings.Repeat("x", 101), "a\x1bb"} {
		res, page := w.submit(b, "/o/calm/settings", url.Values{"name": {bad}})
		if res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(page, "A name has 1 to 100 printable characters") {
			t.Errorf("%q: %s", bad, res.Status)
		}
	}
	if res, _ := w.submit(b, "/o/calm/settings", url.Values{"name": {"Calm <Robotics>"}}); res.StatusCode != http.StatusSeeOther {
		t.Errorf("renamed: %s", res.Status)
	}
	suspended := w.Org.Installation
	suspended.SuspendedAt = w.now()
	if err := w.Store.SaveInstallation(t.Context(), suspended, w.now()); err != nil {
		t.Fatal(err)
	}
	_, page = w.get(b, "/o/calm/settings")
	contains(t, page, "Calm &lt;Robotics&gt;", "Suspended", "ends the suspension at GitHub")
	w.pass(time.Minute)
	if err := w.Store.InstallationGone(t.Context(), suspended.ID, w.now()); err != nil {
		t.Fatal(err)
	}
	b = w.member() // who was a member because of it has left
	_, page = w.get(b, "/o/calm/settings")
	contains(t, page, "Removed", "The App was removed from the account")
	_, page = w.get(b, "/o/calm/")
	contains(t, page, "No GitHub account is linked whose installation works")
}
