package sim_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// openBrowser starts a headless Chromium of its own.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("no chromium; run make deps")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // CI runs as root
		chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-quic", true),
		chromedp.WindowSize(1280, 900),
		chromedp.UserDataDir(t.TempDir()),
	)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// screenshot keeps the page as it is in bin/screenshots. Chromium never answers a capture that a navigation overtakes, and the
// stand-in's pages reload themselves: what isn't there after a few seconds is asked for again.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := filepath.Join("..", "bin", "screenshots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	capture := func() ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return chromedp.Run(ctx, chromedp.FullScreenshot(100))
	}
	png, err := capture()
	for errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		png, err = capture()
	}
	if err != nil {
		t.Fatalf("screenshot %s: %v", name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// page is one tab.
type page struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // a chromedp context is the tab
}

func (p page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Errorf("%s: %v", what, err)
		screenshot(p.t, p.ctx, "failed")
		p.t.FailNow()
	}
}

func (p page) text() string {
	p.t.Helper()
	text, err := chromedp.Run(p.ctx, chromedp.Text(chromedp.CSS("main")))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.ToLower(text)
}

// browse goes the way of a newcomer: the sign-in link, a workflow queued on the stand-in's page, the job in the dashboard
// until it is done, without a reload.
func browse(t *testing.T, s *system) {
	dashboard := page{t, openBrowser(t)}
	dashboard.do("opening the sign-in link", chromedp.Navigate(s.SignInURL), chromedp.WaitVisible(chromedp.CSS("main")))
	address, err := chromedp.Run(dashboard.ctx, chromedp.Location())
	if want := s.URL + "/o/" + s.Org + "/"; err != nil || address != want {
		t.Fatalf("the sign-in link led to %s, want %s (%v)", address, want, err)
	}
	before := s.rows(t)

	tab, cancel := chromedp.NewContext(dashboard.ctx)
	defer cancel()
	forge := page{t, tab}
	forge.do("queueing a workflow on the stand-in's page", chromedp.Navigate(s.GitHubURL), chromedp.WaitVisible(chromedp.CSS("main")),
		chromedp.Click(chromedp.CSS("form button")), chromedp.WaitVisible(chromedp.CSS("main")))
	screenshot(t, forge.ctx, "standin")

	var job row
	within(t, 30*time.Second, "the API lists the job queued in the browser", func() bool {
		for id, r := range s.rows(t) {
			if before[id].ID == "" {
				job = r
			}
		}
		return job.ID != ""
	})
	link := chromedp.CSS(`a[href$="/jobs/` + job.ID + `"]`)
	dashboard.do("waiting for the job to appear in the open list", chromedp.WaitVisible(link))
	screenshot(t, dashboard.ctx, "jobs-live")
	dashboard.do("opening the job", chromedp.Click(link), chromedp.WaitVisible(chromedp.CSS("main h1")))
	within(t, 2*time.Minute, "the open job page says that it succeeded", func() bool {
		return strings.Contains(dashboard.text(), "success")
	})
	for _, want := range []string{"queued", "placed", "booting", "online", "running", "done", strings.ToLower(job.Repository)} {
		within(t, 5*time.Second, "the open job page says "+want, func() bool { return strings.Contains(dashboard.text(), want) }) // its host may tell after GitHub
	}
	screenshot(t, dashboard.ctx, "job")
	for _, name := range []string{"jobs", "hosts", "usage"} {
		dashboard.do("opening "+name, chromedp.Navigate(s.URL+"/o/"+s.Org+"/"+name), chromedp.WaitVisible(chromedp.CSS("main")))
		screenshot(t, dashboard.ctx, name)
	}

	stranger := page{t, openBrowser(t)}
	stranger.do("opening the link again", chromedp.Navigate(s.SignInURL), chromedp.WaitVisible(chromedp.CSS("main")))
	screenshot(t, stranger.ctx, "sign-in-used")
	stranger.do("opening a page", chromedp.Navigate(s.URL+"/o/"+s.Org+"/jobs"), chromedp.WaitVisible(chromedp.CSS("main")))
	if strings.Contains(stranger.text(), strings.ToLower(job.Repository)) {
		t.Error("the one-use link worked twice")
	}
}
