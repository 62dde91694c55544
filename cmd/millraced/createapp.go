package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
)

// createAppOptions are the flags of `millraced create-app`.
type createAppOptions struct {
	url, organization, name, out string
	githubURL, githubAPIURL      string
	personalAccounts             bool
}

func newCreateAppCmd() *cobra.Command {
	var o createAppOptions
	cmd := &cobra.Command{
		Use:   "create-app --url URL",
		Short: "Create the GitHub App, and write down its id and secrets",
		Long: "Serves one page on this machine, which says what the App asks for and leads to GitHub, where you create it with one\n" +
			"click. GitHub sends your browser back; the App's id and secrets are then written into a new directory, for\n" +
			"`millraced serve` to read, and nothing that is there is overwritten. Ctrl-C ends it.",
		Example: "  millraced create-app --url https://millrace.example.com --organization example",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return createApp(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.url, "url", "", "where people and GitHub reach the server (MILLRACE_URL)")
	flags.StringVar(&o.organization, "organization", "", "the GitHub organization that owns the App; without it, you own it")
	flags.StringVar(&o.githubURL, "github-url", "https://github.com", "GitHub's pages, or those of an Enterprise Server")
	flags.StringVar(&o.githubAPIURL, "github-api-url", "", "GitHub's REST API (default: the one that belongs to --github-url)")
	flags.StringVar(&o.name, "name", "", "the App's name, at most 34 characters (default: after the host of --url)")
	flags.StringVar(&o.out, "out", "github-app", "directory for the App's id and secrets")
	flags.BoolVar(&o.personalAccounts, "personal-accounts", false, "ask for what personal accounts need, too: Repository: administration")
	return cmd
}

// site is a URL without path, query or credentials.
func site(flag, text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%s must be a URL as https://millrace.example.com; got %q", flag, text)
	}
	return u, nil
}

// apiOf is the REST API that belongs to GitHub's pages.
func apiOf(pages *url.URL) string {
	switch host := pages.Hostname(); {
	case host == "github.com":
		return "https://api.github.com/"
	case strings.HasSuffix(host, ".ghe.com"):
		return "https://api." + host + "/"
	}
	return pages.String() + "/api/v3/"
}

var organizationName = regexp.MustCompile(`^[A-Za-z0-9_-]*$`)

// creating is how long somebody may take at GitHub, whose code lives as long.
const creating = time.Hour

// appMaker serves the page, and takes the browser back.
type appMaker struct {
	createAppOptions
	github          *url.URL
	host            string // where it is served
	state, manifest string

	mu   sync.Mutex
	done bool
	made chan error // what came of it; nil: the files are written
	app  github.NewApp
}

// createApp runs until the App is made, ctx ends, or nobody comes back.
func createApp(ctx context.Context, o createAppOptions, stdout io.Writer) error {
	at, err := site("--url", o.url)
	if err != nil {
		return err
	}
	pages, err := site("--github-url", o.githubURL)
	if err != nil {
		return err
	}
	o.url, o.githubURL, o.githubAPIURL = at.String(), pages.String(), cmp.Or(o.githubAPIURL, apiOf(pages))
	if o.name == "" {
		if o.name = "Millrace at " + at.Hostname(); len(o.name) > 34 {
			o.name = "Millrace"
		}
	}
	switch {
	case len(o.name) > 34:
		return fmt.Errorf("--name has more than the 34 characters that GitHub takes: %q", o.name)
	case !organizationName.MatchString(o.organization):
		return fmt.Errorf("--organization is the login of a GitHub organization; got %q", o.organization)
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return err
	}
	for _, name := range appFiles {
		if _, err := os.Lstat(filepath.Join(o.out, name)); err == nil {
			return fmt.Errorf("%s is there already, and nothing is overwritten: give --out another directory", filepath.Join(o.out, name))
		}
	}
	if err := os.MkdirAll(o.out, 0o700); err != nil { // now, and not when GitHub has shown the secrets
		return err
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m := &appMaker{createAppOptions: o, github: pages, host: listener.Addr().String(), state: rand.Text(), made: make(chan error, 1)}
	here := "http://" + m.host
	m.manifest = string(github.Manifest(github.ManifestConfig{Name: o.name, URL: o.url, RedirectURL: here + "/created", PersonalAccounts: o.personalAccounts}))
	server := &http.Server{
		Handler: m.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { // the browser gets its last page
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
	}()
	fmt.Fprintf(stdout, "Open %s/ in a browser on this machine. Ctrl-C ends it.\n", here)
	late := time.NewTimer(creating)
	defer late.Stop()
	select {
	case err = <-m.made:
	case err = <-served:
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = errors.New("nobody came back from GitHub within an hour; begin again")
	}
	if err != nil {
		return err
	}
	m.report(stdout)
	return nil
}

//go:embed createapp.html
var createAppHTML string

//go:embed createapp.css
var createAppCSS []byte

var createAppPage = template.Must(template.New("createapp").Parse(createAppHTML))

// appPage is what the page shows.
type appPage struct {
	Title       string
	Texts       []string
	Again       string // where it begins again
	Action      string // where the manifest is posted to; "": nowhere
	Manifest    string
	Permissions []millrace.AppPermission
	Events      []string
}

func (m *appMaker) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", m.ask)
	mux.HandleFunc("GET /created", m.created)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Write(createAppCSS)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action "+m.github.String()+"; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if r.Host != m.host { // a page elsewhere whose name was made to lead here could read the state
			http.Error(w, "This is another host.", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (m *appMaker) show(w http.ResponseWriter, status int, page appPage) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	createAppPage.Execute(w, page) //nolint:errcheck // the browser is gone
}

// ask is the page with the button.
func (m *appMaker) ask(w http.ResponseWriter, _ *http.Request) {
	owner := ""
	if m.organization != "" {
		owner = "/organizations/" + m.organization
	}
	m.show(w, http.StatusOK, appPage{
		Title: "Create the GitHub App",
		Texts: []string{
			"Millrace at " + m.url + " needs a GitHub App of its own. The button leads to " + m.github.Host + ", where you give it its name and create it.",
			"GitHub then sends you back here, and its secrets go into " + m.out + " on this machine and nowhere else.",
		},
		Action: m.github.String() + owner + "/settings/apps/new?state=" + m.state, Manifest: m.manifest, Events: millrace.AppEvents,
		Permissions: slices.DeleteFunc(slices.Clone(millrace.AppPermissions), func(p millrace.AppPermission) bool { return p.Personal && !m.personalAccounts }),
	})
}

// created is where GitHub sends the browser with the code.
func (m *appMaker) created(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Referrer-Policy", "no-referrer") // the address has the code
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(m.state)) != 1 {
		m.show(w, http.StatusBadRequest, appPage{Title: "This is not the App that was begun here", Texts: []string{"Nothing was written."}, Again: "/"})
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done {
		m.show(w, http.StatusGone, appPage{Title: "The App is made already", Texts: []string{"Go back to the terminal."}})
		return
	}
	// The code works once: whatever becomes of the browser, the secrets are to be written.
	app, err := github.ConvertManifest(context.WithoutCancel(r.Context()), nil, m.githubAPIURL, q.Get("code"))
	if err != nil {
		said := millrace.MessageOf(err)
		if millrace.CodeOf(err) == millrace.Internal {
			said = err.Error()
		}
		m.show(w, millrace.CodeOf(err).Status(), appPage{Title: "GitHub gave no App", Texts: []string{said, "Nothing was written."}, Again: "/"})
		return
	}
	m.app, m.done = app, true
	err = m.write()
	if err != nil {
		err = fmt.Errorf("%w: the App was made, and its secrets are lost: delete it at %s and begin again", err, m.settings())
		m.show(w, http.StatusInternalServerError, appPage{Title: "The App's secrets could not be written", Texts: []string{err.Error()}})
	} else {
		m.show(w, http.StatusOK, appPage{Title: "The App is made", Texts: []string{"Its id and secrets are in " + m.out + ". Go back to the terminal: it says what to do next."}})
	}
	m.made <- err
}

// settings is the App's page for whoever owns it.
func (m *appMaker) settings() string {
	if m.organization != "" {
		return m.github.String() + "/organizations/" + m.organization + "/settings/apps/" + m.app.Slug
	}
	return m.github.String() + "/settings/apps/" + m.app.Slug
}

// What is written.
const (
	envFile           = "github.env"
	privateKeyFile    = "private-key.pem"
	webhookSecretFile = "webhook-secret"
	clientSecretFile  = "client-secret"
)

var appFiles = []string{envFile, privateKeyFile, webhookSecretFile, clientSecretFile}

// write writes all files, or none.
func (m *appMaker) write() (err error) {
	var env strings.Builder
	fmt.Fprintf(&env, "# The GitHub App %s, as `millraced create-app` made it.\n", m.app.Slug)
	for _, v := range [][2]string{
		{"MILLRACE_URL", m.url},
		{"MILLRACE_GITHUB_URL", m.githubURL},
		{"MILLRACE_GITHUB_API_URL", m.githubAPIURL},
		{"MILLRACE_GITHUB_APP_ID", strconv.FormatInt(m.app.ID, 10)},
		{"MILLRACE_GITHUB_CLIENT_ID", m.app.ClientID},
		{"MILLRACE_GITHUB_PRIVATE_KEY_FILE", filepath.Join(m.out, privateKeyFile)},
		{"MILLRACE_GITHUB_WEBHOOK_SECRET_FILE", filepath.Join(m.out, webhookSecretFile)},
		{"MILLRACE_GITHUB_CLIENT_SECRET_FILE", filepath.Join(m.out, clientSecretFile)},
	} {
		env.WriteString(v[0] + "=" + shellWord(v[1]) + "\n")
	}
	var written []string
	defer func() {
		if err != nil {
			for _, path := range written {
				os.Remove(path)
			}
		}
	}()
	for _, f := range [][2]string{
		{privateKeyFile, m.app.PrivateKeyPEM.Reveal()},
		{webhookSecretFile, m.app.WebhookSecret.Reveal()},
		{clientSecretFile, m.app.ClientSecret.Reveal()},
		{envFile, env.String()},
	} {
		path := filepath.Join(m.out, f[0])
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		written = append(written, path)
		_, err = io.WriteString(file, strings.TrimRight(f[1], "\n")+"\n")
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_/:.,@%+=-]+$`)

// shellWord is a value as shells and systemd read it. Docker does not know quotes: what needs none has none.
func shellWord(value string) string {
	if plainWord.MatchString(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// report says what is to be done next.
func (m *appMaker) report(w io.Writer) {
	fmt.Fprintf(w, `
The GitHub App %s is made. Its id and secrets are in %s.

Next:
1. Enable the device flow, with which people confirm what is dangerous; no manifest can:
   %s, "Enable Device Flow"
2. Start the server with the App:
   set -a; . %s; set +a; millraced serve
3. Install the App where jobs are to run:
   %s/installations/new
`, m.app.Slug, m.out, m.settings(), shellWord(filepath.Join(m.out, envFile)), strings.TrimSuffix(m.app.HTMLURL, "/"))
}
