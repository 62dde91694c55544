package web_test

import (
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

// TestGoldenPath is the way of somebody new, from the front door to the first green job: at most eight clicks and one pasted
// command. Choosing who one is at GitHub is the stand-in's alone and isn't counted.
func TestGoldenPath(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	p.gh.AddPerson("founder")
	if err := p.gh.SetMember("acme", "founder", "admin"); err != nil {
		t.Fatal(err)
	}
	ctx, clicks := chrome(t), 0
	find := func(text string) chromedp.Search {
		return chromedp.Search(`//*[self::a or self::button][starts-with(normalize-space(),"` + text + `")]`)
	}
	press := func(text string) {
		t.Helper()
		clicks++
		do(t, ctx, chromedp.Click(find(text)))
	}
	arrived := func(heading string) {
		t.Helper()
		do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//h1[normalize-space()="`+heading+`"]`)))
	}
	do(t, ctx, chromedp.Navigate(p.URL))
	press("Sign in")
	arrived("Sign in")
	do(t, ctx, chromedp.Click(chromedp.CSS(`main a[href="/sign-in/github"]`)))
	clicks++
	do(t, ctx, chromedp.Click(find("Sign in as founder")))
	press("Authorize Millrace")
	arrived("Your GitHub accounts")
	press("Install the GitHub App")
	do(t, ctx, chromedp.Click(chromedp.Search(`//form[.//*[normalize-space()="acme"]]//button[normalize-space()="Install"]`)))
	clicks++
	do(t, ctx, chromedp.WaitVisible(find("Create the org")))
	look(t, ctx, "new-org", p.URL+"/new", 1280, 320)
	press("Create the org")
	arrived("Overview")
	press("Hosts")
	arrived("Hosts")
	press("Make a token")
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("section[aria-labelledby=enroll] #command")))
	command := do(t, ctx, chromedp.Evaluate[string](`document.getElementById("command").textContent`))
	if clicks > 8 {
		t.Errorf("it took %d clicks", clicks)
	}
	_, rest, _ := strings.Cut(command, "mret_")
	host, slug, err := p.Store.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: "mret_" + rest[:38], Name: "rack-1", SignKey: make([]byte, 32), SealKey: []byte(strings.Repeat("x", 32)), Facts: storetest.Facts()})
	if err != nil || slug != "acme" {
		t.Fatalf("%q: %s, %v", command, slug, err)
	}
	org, err := p.Store.OrgBySlug(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.Store.Org(org.ID).Installations(t.Context())
	if err != nil || len(list) != 1 || list[0].OwnerLogin != "acme" {
		t.Fatalf("%+v, %v", list, err)
	}
	p.Org = storetest.Tenant{Org: org, Installation: list[0]}
	shape := func(j *millrace.Job) { j.Labels = []string{"millrace-1cpu-1gb"} }
	p.run(host, p.queue(shape), millrace.StageDone, time.Minute, "success", shape)
	do(t, ctx, chromedp.Navigate(p.URL+"/o/acme/"))
	do(t, ctx, chromedp.WaitVisible(chromedp.Search(`//td[contains(., "Success")]`)))
	t.Logf("%d clicks", clicks)
}

// What an address or a form says of an installation proves nothing; what GitHub said a moment ago does.
func TestFoundingTakesProof(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	for _, login := range []string{"founder", "worker"} {
		p.gh.AddPerson(login)
	}
	for login, role := range map[string]string{"founder": "admin", "worker": "member"} {
		if err := p.gh.SetMember("acme", login, role); err != nil {
			t.Fatal(err)
		}
	}
	acme, err := p.gh.Install("acme", "founder")
	if err != nil {
		t.Fatal(err)
	}
	signIn := func(login string) *http.Client {
		b := browser(t)
		p.get(b, p.back(p.authorize(b), login))
		return b
	}
	form := func(installation int64, slug string) url.Values {
		return url.Values{"installation": {itoa(installation)}, "slug": {slug}, "name": {"Acme"}}
	}
	founder, worker, stranger := signIn("founder"), signIn("worker"), signIn("stranger")
	for name, tc := range map[string]struct {
		b    *http.Client
		form url.Values
		want int
	}{
		"a member":                  {worker, form(acme.ID, "acme"), http.StatusForbidden},
		"a stranger":                {stranger, form(acme.ID, "acme"), http.StatusForbidden},
		"another tenant's":          {founder, form(p.Org.Installation.ID, "acme"), http.StatusForbidden},
		"one that isn't":            {founder, form(1, "acme"), http.StatusForbidden},
		"no number":                 {founder, url.Values{"installation": {"x"}, "slug": {"acme"}, "name": {"Acme"}}, http.StatusUnprocessableEntity},
		"a short name that isn't":   {founder, form(acme.ID, "../x"), http.StatusBadRequest},
		"a short name that's taken": {founder, form(acme.ID, "calm"), http.StatusConflict},
		"nobody":                    {browser(t), form(acme.ID, "acme"), http.StatusSeeOther},
	} {
		if res, _ := p.submit(tc.b, "/new", tc.form); res.StatusCode != tc.want {
			t.Errorf("%s: %s, want %d", name, res.Status, tc.want)
		}
	}
	if _, err := p.Store.OrgBySlug(t.Context(), "acme"); millrace.CodeOf(err) != millrace.NotFound {
		t.Fatalf("one of them made an org: %v", err)
	}
	res, _ := p.get(founder, "/github/setup?installation_id=1&setup_action=install")
	if res.Header.Get("Location") != "/sign-in/github" {
		t.Errorf("the setup URL leads to %s", res.Header.Get("Location"))
	}
	_, page := p.get(worker, "/new")
	contains(t, page, "acme", "Somebody who owns it at GitHub")
	if strings.Contains(page, "Create the org") {
		t.Error("a member is offered to make the org")
	}

	p.pass(millrace.ProofLength)
	if res, _ := p.submit(founder, "/new", form(acme.ID, "acme")); res.StatusCode != http.StatusForbidden {
		t.Errorf("with a proof that is too old: %s", res.Status)
	}
	founder = signIn("founder")
	res, _ = p.submit(founder, "/new", form(acme.ID, "acme"))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/o/acme/" {
		t.Fatalf("the founder: %s to %s", res.Status, res.Header.Get("Location"))
	}
	if res, _ := p.submit(founder, "/new", form(acme.ID, "acme-2")); res.StatusCode != http.StatusConflict {
		t.Errorf("a second org of it: %s", res.Status)
	}
	// The member joined with it, without signing in again; a stranger sees nothing.
	if res, _ := p.get(worker, "/o/acme/"); res.StatusCode != http.StatusOK {
		t.Errorf("the member: %s", res.Status)
	}
	if res, _ := p.get(stranger, "/o/acme/"); res.StatusCode != http.StatusNotFound {
		t.Errorf("the stranger: %s", res.Status)
	}
	// A second account joins the org, by whoever owns both.
	personal, err := p.gh.Install("founder", "founder")
	if err != nil {
		t.Fatal(err)
	}
	founder = signIn("founder")
	if res, _ := p.submit(founder, "/o/acme/installations", url.Values{"installation": {itoa(personal.ID)}}); res.StatusCode != http.StatusSeeOther {
		t.Errorf("linking one's own account: %s", res.Status)
	}
	if res, _ := p.submit(worker, "/o/acme/installations", url.Values{"installation": {itoa(personal.ID)}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("a member links: %s", res.Status)
	}
	_, page = p.get(founder, "/o/acme/audit")
	contains(t, page, "org.created", "installation.linked", "member.joined")
}
