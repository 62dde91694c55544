package web_test

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// loads finds what a page makes a browser fetch.
var loads = regexp.MustCompile(`(?:src|srcset|<link[^>]* href)="([^"]*)"`)

// TestPublicPages reads the pages for visitors as curl does.
func TestPublicPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, texts := range map[string][]string{
		"/": {
			"Build Arm on Arm", "runs-on: ubuntu-latest", "runs-on: millrace-arm64-4cpu-16gb", "enroll --url " + w.URL, `href="/pricing"`, `href="/docs/api"`,
			"github.repository_owner == &#39;your-org&#39;", "$200 a month for 5 jobs at once",
		},
		"/pricing": {"$1,600", "$380", "Linux 8-core arm64", "$560", "list prices", `role="img"`, `method="get"`, `aria-current="page"`},
	} {
		res, page := w.get(browser(t), path)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", path, res.Status)
		}
		contains(t, page, append(texts, "Sign in<span", `href="/sign-in"`, "<main", "<footer", `aria-label="Footer"`, "Skip to content")...)
		if n := strings.Count(page, "<h1"); n != 1 {
			t.Errorf("%s has %d h1", path, n)
		}
		if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") {
			t.Errorf("%s: policy %q", path, csp)
		}
		for _, found := range loads.FindAllStringSubmatch(page, -1) {
			if !strings.HasPrefix(found[1], "/assets/") {
				t.Errorf("%s loads %s", path, found[1])
			}
		}
		for _, inline := range []string{"<style", " style=", "<script>", " onclick="} {
			if strings.Contains(page, inline) {
				t.Errorf("%s has %q", path, inline)
			}
		}
	}

	t.Run("members keep their name and need no way in", func(t *testing.T) {
		t.Parallel()
		_, page := w.get(w.member(), "/pricing")
		contains(t, page, "Sign out", "$380")
		if strings.Contains(page, "Sign in<span") {
			t.Error("who is signed in is asked to sign in")
		}
	})
	t.Run("it asks for the permissions that the docs say", func(t *testing.T) {
		t.Parallel()
		docs, err := os.ReadFile("../docs/run.md")
		if err != nil {
			t.Fatal(err)
		}
		_, page := w.get(browser(t), "/")
		rows := regexp.MustCompile(`(?m)^\| ((?:Organization|Repository): [^|]+) \| ([^|]+) \|`).FindAllStringSubmatch(string(docs), -1)
		if shown := strings.Count(page, ">Organization: ") + strings.Count(page, ">Repository: "); len(rows) == 0 || shown != len(rows) {
			t.Fatalf("docs/run.md has %d permissions, the page %d", len(rows), shown)
		}
		for _, row := range rows {
			contains(t, page, ">"+row[1]+"<", ">"+strings.ToUpper(row[2][:1])+row[2][1:]+"<")
		}
	})
}

// TestCalculator asks for prices, with and without sense.
func TestCalculator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := browser(t)
	for query, texts := range map[string][]string{
		"jobs=26&minutes=100,000&arch=amd64&vcpus=2": {"Millrace 50", "$600", "$0.006", "Hosted runners cost $1,000 a month less.", `value="100,000"`},
		"jobs=5&minutes=200000&arch=arm64&vcpus=4":   {"Millrace costs $1,400 a month less, before your machines.", "25,000 min a month"},
		"jobs=5&minutes=25000&arch=arm64&vcpus=4":    {"The two cost the same, before your machines."},
		"minutes=0":                           {"Millrace 10", ">$0<"},
		"jobs=0":                              {"jobs-wrong", "whole number from 1 to 50"},
		"jobs=51":                             {"jobs-wrong", `aria-invalid="true"`, "no price yet"},
		"jobs=-3&minutes=-1":                  {"jobs-wrong", "minutes-wrong", `value="-3"`},
		"jobs=NaN&minutes=Inf":                {"jobs-wrong", "minutes-wrong"},
		"jobs=1&minutes=100000":               {"minutes-wrong", "more than a month of 30 days has", "43200"},
		"minutes=" + strings.Repeat("9", 300): {"minutes-wrong"},
		"arch=mips&vcpus=7":                   {"arch-wrong", "vcpus-wrong"},
		"jobs=" + url.QueryEscape(`"><script>alert(1)</script>`): {"jobs-wrong", "&lt;script&gt;"},
		"jobs=&minutes=&arch=&vcpus=":                            {"jobs-wrong", "minutes-wrong", "arch-wrong", "vcpus-wrong"},
		"jobs=%zz;&&==":                                          {"Millrace 10"},
	} {
		res, page := w.get(b, "/pricing?"+query)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%.40s: %s", query, res.Status)
		}
		if strings.Contains(page, "<script>") {
			t.Errorf("%.40s: what was typed is part of the page", query)
		}
		for _, text := range texts {
			if !strings.Contains(page, text) {
				t.Errorf("%.40s: the page lacks %q", query, text)
			}
		}
	}
	if _, part := w.get(b, "/pricing?jobs=15", "HX-Request", "true"); strings.Contains(part, "<html") || !strings.HasPrefix(part, `<section id="calculator"`) {
		t.Errorf("htmx got %.80q", part)
	}
}

// TestPublicPagesInABrowser looks at the pages for visitors, and uses them with the keyboard alone.
func TestPublicPagesInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := chrome(t)
	for name, path := range map[string]string{"landing": "/", "pricing": "/pricing", "pricing-wrong": "/pricing?jobs=900&minutes=x"} {
		look(t, ctx, name, w.URL+path, 1280, 390, 320)
	}

	// A changed field is answered in place, under the content security policy, and the focus stays.
	do(t, ctx, chromedp.EmulateViewport(1280, 800))
	do(t, ctx, chromedp.Navigate(w.URL+"/pricing"))
	do(t, ctx, chromedp.Evaluate[chromedp.Void](`window.unreloaded = true; document.getElementById("jobs").focus(); document.getElementById("jobs").select()`))
	do(t, ctx, chromedp.KeyEvent("25\t"))
	shows := func(js string) {
		t.Helper()
		do(t, ctx, chromedp.Poll[bool](js, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(10*time.Second)))
	}
	shows(`window.unreloaded && document.querySelector("#calculator dl").innerText.includes("Millrace 25") && document.activeElement.id === "minutes"`)
	if ring := do(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.activeElement).outlineStyle`)); ring != "solid" {
		t.Errorf("the focus can't be seen: outline %q", ring)
	}
	do(t, ctx, chromedp.KeyEvent("lots\r"))
	shows(`window.unreloaded && document.activeElement.getAttribute("aria-describedby") === "minutes-wrong" && document.getElementById("minutes-wrong") !== null`)
	axe(t, ctx, "pricing, wrong in place")
}
