package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// incident opens one of the org's; repositoryID 0 is all repositories.
func (w *world) incident(code millrace.WaitCode, repositoryID int64, repository, said string) {
	w.t.Helper()
	w.incidentOf(w.Org, code, repositoryID, repository, said)
}

func (w *world) incidentOf(org storetest.Tenant, code millrace.WaitCode, repositoryID int64, repository, said string) {
	w.t.Helper()
	if err := w.Store.OpenIncident(w.t.Context(), org.Installation.ID, repositoryID, repository, millrace.Condition{Code: code, Detail: said}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) over(code millrace.WaitCode, repositoryID int64) {
	w.t.Helper()
	if err := w.Store.CloseIncidents(w.t.Context(), w.Org.Installation.ID, repositoryID, code); err != nil {
		w.t.Fatal(err)
	}
}

func lacks(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			t.Errorf("the page has %q", text)
		}
	}
}

func TestIncidents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	w.queue()
	job := "/o/calm/jobs/" + w.newest().ID.String()
	withBanner := []string{"/o/calm/jobs", job, "/o/calm/hosts"}

	_, page := w.get(b, "/o/calm/incidents")
	contains(t, page, "No incidents", "Nothing at GitHub is known to stop jobs.", `href="/o/calm/jobs"`)
	for _, path := range withBanner {
		_, page := w.get(b, path)
		contains(t, page, `<div id="banner" role="status"></div>`, `href="/o/calm/incidents"`)
		lacks(t, page, `class="count"`)
	}

	w.incident(millrace.WaitGitHubDown, 0, "", "503 Service Unavailable")
	w.pass(94 * time.Second)
	w.over(millrace.WaitGitHubDown, 0)
	w.incident(millrace.WaitRunnerGroup, 7, "calm/app", "")
	w.pass(time.Minute)
	w.incident(millrace.WaitSelfHostedDisabled, 0, "", "Repository level self-hosted runners are disabled.")
	w.pass(3 * time.Minute)

	_, page = w.get(b, "/o/calm/incidents")
	lacks(t, page, "No incidents", "bg-bad-soft")
	page = text(page)
	contains(t, page, "Incidents 2 open",
		"Self-hosted runners are disabled in this GitHub organisation self_hosted_disabled_by_org Stops all repositories of calm Queued jobs Since 18 Mar 2026, 12:02:34 UTC 3 min ago; last seen 3 min ago What to do "+
			millrace.WaitSelfHostedDisabled.Remedy()+" GitHub said “ Repository level self-hosted runners are disabled. ”",
		"runner_group_excludes_repo Stops calm/app Queued jobs Since 18 Mar 2026, 12:01:34 UTC 4 min ago",
		"GitHub's API does not answer github_api_down all repositories of calm 18 Mar 2026, 12:00:00 UTC 18 Mar 2026, 12:01:34 UTC 1 min 34 s 503 Service Unavailable")
	order := []string{"self_hosted_disabled_by_org", "runner_group_excludes_repo", "github_api_down"}
	for i := range len(order) - 1 {
		if strings.Index(page, order[i]) > strings.Index(page, order[i+1]) {
			t.Errorf("%s comes after %s", order[i], order[i+1])
		}
	}

	for _, path := range withBanner {
		_, page := w.get(b, path)
		_, part := w.get(b, path, "HX-Request", "true")
		contains(t, part, `id="banner" role="status" hx-swap-oob="outerMorph"`, `id="incident-count" hx-swap-oob="outerMorph"`)
		for _, page := range []string{page, part} {
			contains(t, page, `href="/o/calm/incidents"`)
			contains(t, text(page), "Self-hosted runners are disabled in this GitHub organisation ( calm ). "+millrace.WaitSelfHostedDisabled.Remedy(),
				"The runner group excludes the repository ( calm/app ). "+millrace.WaitRunnerGroup.Remedy(), "2 open")
			lacks(t, page, "GitHub&#39;s API does not answer")
		}
	}
	_, page = w.get(b, "/o/calm/usage")
	lacks(t, page, "Self-hosted runners")
	contains(t, text(page), "2 open")

	w.over(millrace.WaitRunnerGroup, 7)
	w.over(millrace.WaitSelfHostedDisabled, 0)
	_, page = w.get(b, "/o/calm/jobs")
	lacks(t, page, "Self-hosted runners", `class="count"`)
	_, page = w.get(b, "/o/calm/incidents")
	contains(t, page, "Nothing at GitHub is known to stop jobs.", "4 min")
}

// Lists are read page by page; the banner names three at the most, whatever there are.
func TestIncidentPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.member()
	const open, closed = 103, 60
	for i := range int64(open + closed) {
		w.pass(time.Second)
		w.incident(millrace.WaitRunnerGroup, i+1, fmt.Sprintf("calm/r%d", i+1), "")
		if i < closed {
			w.over(millrace.WaitRunnerGroup, i+1)
		}
	}
	_, page := w.get(b, "/o/calm/jobs")
	contains(t, text(page), "All 100+ incidents", "100+ open")
	if n := strings.Count(text(page), millrace.WaitRunnerGroup.Remedy()); n != 3 {
		t.Errorf("the banner names %d", n)
	}
	for list, want := range map[string]int{"open": open, "cursor": closed} {
		seen, path := map[string]bool{}, "/o/calm/incidents"
		for range 5 {
			_, page := w.get(b, path)
			if section := map[string]string{"open": `aria-labelledby="open"`, "cursor": `aria-labelledby="closed"`}[list]; section != "" {
				_, part, _ := strings.Cut(page, section)
				part, _, _ = strings.Cut(part, "</section>")
				for _, row := range strings.Split(part, ` id="inc_`)[1:] {
					seen[row[:20]] = true
				}
			}
			_, rest, more := strings.Cut(page, `rel="next" href="/o/calm/incidents?`+list+`=`)
			if !more {
				break
			}
			cursor, _, _ := strings.Cut(rest, `"`)
			path = "/o/calm/incidents?" + list + "=" + cursor
		}
		if len(seen) != want {
			t.Errorf("%s: %d incidents on all pages, want %d", list, len(seen), want)
		}
		_, page := w.get(b, path)
		contains(t, page, "Newest", `hx-get="`+path+`"`)
	}
	for _, query := range []string{"cursor=x", "open=x", "open=x&cursor=x"} {
		if res, _ := w.get(b, "/o/calm/incidents?"+query); res.StatusCode != http.StatusBadRequest {
			t.Errorf("?%s: %s", query, res.Status)
		}
	}
}

// Another org's incidents are nowhere to be seen, and nobody sees any who is not signed in.
func TestIncidentsAreTheOrgsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := storetest.MustCreateOrg(t, w.Store, "other")
	w.incidentOf(other, millrace.WaitSelfHostedDisabled, 9, "other/secret", "Told to the other one.")
	w.queue()
	b := w.member()
	if res, page := w.get(b, "/o/other/incidents"); res.StatusCode != http.StatusNotFound || strings.Contains(page, "other/secret") {
		t.Errorf("their page: %s", res.Status)
	}
	for _, path := range []string{"incidents", "jobs", "jobs/" + w.newest().ID.String(), "hosts", "usage"} {
		for _, header := range [][]string{nil, {"HX-Request", "true"}} {
			res, page := w.get(b, "/o/calm/"+path, header...)
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", path, res.Status)
			}
			lacks(t, page, "other/secret", "Told to the other one.", "Self-hosted runners are disabled", `class="count"`)
		}
	}
	if res, page := w.get(browser(t), "/o/calm/incidents"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/sign-in" || strings.Contains(page, "incident") {
		t.Errorf("signed out: %s to %s", res.Status, res.Header.Get("Location"))
	}
	if res, page := w.get(browser(t), "/o/calm/incidents", "HX-Request", "true"); res.StatusCode != http.StatusUnauthorized || page != "" {
		t.Errorf("signed out, the live part: %s", res.Status)
	}
}

// What GitHub says, and the names it passes on, are text.
func TestHostileIncidentsAreInert(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host("rack-1", 10)
	const evil = `"><img src=x onerror=alert(1)><script>alert(2)</script>&'{{7*7}}` + "\u202Etxt"
	w.incident(millrace.WaitRunnerGroup, 7, "calm/"+evil, evil+"\x1b[2J\x07")
	w.incident(millrace.WaitGitHubDown, 0, "", strings.Repeat(evil, 100))
	w.incident(millrace.WaitIPAllowList, 8, "calm/"+evil, evil)
	w.over(millrace.WaitIPAllowList, 8)
	w.queue()
	w.place(host, millrace.WaitReason{
		Code: millrace.WaitRunnerGroup, Text: evil, Remedy: evil,
		Estimate: &millrace.Estimate{From: w.now(), To: w.now().Add(time.Minute), Basis: evil},
	})
	b := w.member()
	for _, path := range []string{"incidents", "jobs", "jobs/" + w.newest().ID.String(), "hosts"} {
		for _, header := range [][]string{nil, {"HX-Request", "true"}} {
			_, page := w.get(b, "/o/calm/"+path, header...)
			contains(t, page, "&lt;img src=x")
			lacks(t, page, "<img src=x", "<script>alert", `""><`, "\x1b", "\x07")
		}
	}
}

// TestIncidentsLive watches the banner, the number and the page follow what happens, without a reload.
func TestIncidentsLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue()
	ctx := chrome(t)
	sees := func(condition string) {
		t.Helper()
		do(t, ctx, chromedp.Poll[bool](`window.unreloaded && `+condition, chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(20*time.Second)))
	}
	open := func(path string) {
		t.Helper()
		do(t, ctx, chromedp.Navigate(w.URL+path))
		do(t, ctx, chromedp.WaitVisible(chromedp.CSS(`#live[data-state="live"]`)))
		do(t, ctx, chromedp.Evaluate[chromedp.Void](`window.unreloaded = true; window.kept = document.getElementById("banner")`))
	}
	do(t, ctx, chromedp.Navigate(w.link()))
	for _, path := range []string{"/o/calm/jobs", "/o/calm/jobs/" + w.newest().ID.String(), "/o/calm/hosts"} {
		open(path)
		sees(`document.getElementById("banner").innerText === ""`)
		w.incident(millrace.WaitSelfHostedDisabled, 0, "", "No.")
		sees(`document.getElementById("banner").innerText.includes("Self-hosted runners are disabled")`)
		sees(`document.getElementById("incident-count").innerText.startsWith("1")`)
		w.over(millrace.WaitSelfHostedDisabled, 0)
		sees(`document.getElementById("banner").innerText === ""`)
		sees(`document.getElementById("incident-count").innerText === ""`)
		if !do(t, ctx, chromedp.Evaluate[bool](`document.querySelectorAll("#banner").length === 1 && document.getElementById("banner") === window.kept`)) {
			t.Error("there is another banner")
		}
	}
	open("/o/calm/incidents")
	w.incident(millrace.WaitRateLimited, 0, "", "Slow down.")
	sees(`document.querySelector("#incidents article")?.innerText.includes("Slow down.")`)
	w.over(millrace.WaitRateLimited, 0)
	sees(`!document.querySelector("#incidents article") && document.querySelector("#incidents table").innerText.includes("Slow down.")`)
}
