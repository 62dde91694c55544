package githubtest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// page gets a page, which must be HTML that allows no script.
func (h *hub) page(path string, want int) string {
	h.t.Helper()
	w := h.send(h.t.Context(), "", "GET", path, "")
	if w.Code != want || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		h.t.Fatalf("%s: %d %v", path, w.Code, w.Header())
	}
	return w.Body.String()
}

var tags = regexp.MustCompile(`<[^>]*>`)

func TestTheFrontPageQueuesSamples(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *githubtest.Config) { c.Demo = true }, func(h *hub) {
		page := h.page("/", http.StatusOK)
		if !strings.Contains(page, "No jobs yet") || strings.Contains(page, `http-equiv="refresh"`) {
			h.t.Errorf("nothing there, nothing to watch:\n%s", page)
		}
		forms := regexp.MustCompile(`<form method="post" action="(/_standin/samples/[^"]*)">`).FindAllStringSubmatch(page, -1)
		if len(forms) < 6 {
			h.t.Fatalf("%d samples", len(forms))
		}
		for _, f := range forms {
			w := h.send(h.t.Context(), "", "POST", f[1], "")
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
				h.t.Errorf("%s: %d", f[1], w.Code)
			}
		}
		page = h.page("/", http.StatusOK)
		if !strings.Contains(page, `http-equiv="refresh"`) {
			h.t.Error("a page with open jobs doesn't refresh")
		}
		for _, want := range []string{"test (1)", "test (2)", "test (3)", "hello", "millrace-arm64-4cpu-16gb", "millrace-64cpu-512gb"} {
			if !strings.Contains(page, want) {
				h.t.Errorf("%s is not on the page", want)
			}
		}
		links := regexp.MustCompile(`<td><a href="([^"]*)">`).FindAllStringSubmatch(page, -1)
		if len(links) != len(forms)+2 { // the matrix has three
			h.t.Errorf("%d jobs of %d samples", len(links), len(forms))
		}
		for _, l := range links {
			h.page(l[1], http.StatusOK)
		}
		css := h.send(h.t.Context(), "", "GET", regexp.MustCompile(`href="([^"]*\.css)"`).FindStringSubmatch(page)[1], "")
		if css.Code != http.StatusOK || !strings.HasPrefix(css.Header().Get("Content-Type"), "text/css") {
			h.t.Errorf("the style sheet: %d %v", css.Code, css.Header())
		}
	})
}

func TestWithoutDemoThereAreNoSamples(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		if page := h.page("/", http.StatusOK); strings.Contains(page, "<form") || !strings.Contains(page, "POST /_standin/jobs") {
			h.t.Errorf("the page says how to queue a job otherwise:\n%s", page)
		}
		h.call("", "POST", "/_standin/samples/hello", "", http.StatusNotFound, nil)
		if err := h.QueueDemo(); err == nil {
			h.t.Error("a demo job was queued")
		}
	})
}

func TestQueueDemoQueuesOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *githubtest.Config) { c.Demo = true }, func(h *hub) {
		for range 2 {
			if err := h.QueueDemo(); err != nil {
				h.t.Error(err)
			}
		}
		h.call(h.asInstallation(h.owner), "GET", api+"/repos/calm/engine/actions/runs", "", http.StatusOK, nil)
		if n := strings.Count(h.page("/", http.StatusOK), "<tr><td>"); n != 1 {
			h.t.Errorf("%d jobs, want 1", n)
		}
	})
}

// TestAJobsPage: html_url leads to it, and what a job says stays text.
func TestAJobsPage(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		const hostile = `<script>alert("x")</script>`
		id, err := h.Queue(githubtest.QueueRequest{
			Owner: "calm", Repo: "engine", Name: hostile, Workflow: hostile, Actor: hostile, Branch: hostile, Labels: []string{hostile},
			Steps: []githubtest.QueueStep{{Name: hostile, Run: "true"}},
		})
		if err != nil {
			h.t.Fatal(err)
		}
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", hostile)
		m.poll(h.t.Context())
		m.call(fmt.Sprintf("jobs/%d/log", id), "hello "+hostile, http.StatusNoContent)
		var job struct {
			HTMLURL string `json:"html_url"`
		}
		h.call("", "GET", fmt.Sprintf("/_standin/jobs/%d", id), "", http.StatusOK, &job)
		for _, path := range []string{strings.TrimPrefix(job.HTMLURL, site), "/"} {
			page := h.page(path, http.StatusOK)
			if strings.Contains(page, "<script") {
				h.t.Errorf("%s has a script", path)
			}
			if path != "/" && (!strings.Contains(tags.ReplaceAllString(page, ""), "hello &lt;script&gt;") || !strings.Contains(page, "in_progress")) {
				h.t.Errorf("the job's page:\n%s", page)
			}
		}
		m.call(fmt.Sprintf("jobs/%d/complete", id), `{"conclusion":"success"}`, http.StatusNoContent)
		if page := h.page(strings.TrimPrefix(job.HTMLURL, site), http.StatusOK); strings.Contains(page, `http-equiv="refresh"`) {
			h.t.Error("a finished job's page goes on refreshing")
		}
		h.page("/calm/engine/actions/runs/1/job/1", http.StatusNotFound)
	})
}

// TestOverANetwork is the stand-in as dev serves it: URLs that lead to it, webhooks over HTTP, and a Close that ends all.
func TestOverANetwork(t *testing.T) {
	t.Parallel()
	arrived := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header.Get("X-GitHub-Event") }))
	defer receiver.Close()
	srv := httptest.NewUnstartedServer(nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	gh, err := githubtest.New(githubtest.Config{
		URL: "http://" + srv.Listener.Addr().String(), WebhookURL: receiver.URL, Client: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = gh
	srv.Start()
	defer srv.Close()
	defer gh.Close()
	gh.AddOwner("calm", millrace.Organization)
	if _, err := gh.Queue(githubtest.QueueRequest{Owner: "calm", Repo: "engine", Labels: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	if event := <-arrived; event != "workflow_job" {
		t.Errorf("%s arrived", event)
	}
	resp, err := (&http.Client{Transport: transport}).Get(gh.URL())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the front page: %s", resp.Status)
	}
}
