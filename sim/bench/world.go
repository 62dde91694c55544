package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/sim/local"
	"github.com/millrace-ci/millrace/store"
)

// world is what is measured.
type world struct {
	setup
	dir      string
	url      string
	metrics  string
	postgres *pg.Server
	github   *githubtest.GitHub
	store    *store.Store
	server   *exec.Cmd
	orgs     []millrace.Org // of the tenants
	stops    []func() error
}

// setup is what a world has.
type setup struct {
	programs []string          // of ours that are run
	tags     string            // that they are built with
	settings map[string]string // of Postgres
	tenants  []tenant
	hooks    *http.Client // delivers the stand-in's webhooks; nil: its own
}

// tenant is an org and the owners whose installations it has.
type tenant struct {
	slug   string
	owners []string
}

const (
	database = "millrace"
	module   = "github.com/millrace-ci/millrace"
)

// start starts everything and returns once all of it works.
func start(ctx context.Context, dir string, s setup) (w *world, err error) {
	w = &world{setup: s, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	for _, program := range s.programs {
		build := exec.CommandContext(ctx, "go", "build", "-tags", s.tags, "-o", dir+"/", module+"/cmd/"+program)
		if out, err := build.CombinedOutput(); err != nil {
			return w, fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	if w.postgres, err = pg.Start(ctx, pg.Options{Dir: filepath.Join(dir, "pg"), Fsync: true, Settings: s.settings}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, w.postgres.Stop)
	if err := migrations.Roles(ctx, w.postgres.URL("postgres", "postgres"), database); err != nil {
		return w, err
	}
	if err := migrations.Up(ctx, w.postgres.URL("millrace_migrate", database)); err != nil {
		return w, err
	}
	addresses, err := local.FreeAddresses(2)
	if err != nil {
		return w, err
	}
	w.url, w.metrics = "http://"+addresses[0], "http://"+addresses[1]
	if err := w.startGitHub(); err != nil {
		return w, err
	}
	if err := w.startServer(ctx); err != nil {
		return w, err
	}
	w.stops = append(w.stops, func() error { return w.endServer(syscall.SIGTERM) })
	if w.store, err = store.Open(ctx, store.Config{AppURL: w.postgres.URL("millrace_app", database), SystemURL: w.postgres.URL("millrace_system", database)}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, func() error { w.store.Close(); return nil })
	return w, w.seed(ctx)
}

// startGitHub starts the stand-in. The bench delivers webhooks itself where it measures the answers; the stand-in delivers
// those of the jobs that agents run.
func (w *world) startGitHub() error {
	forge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(forge.Addr().String())
	config := githubtest.Config{URL: "http://" + forge.Addr().String(), WebhookURL: w.url + "/webhooks/github", Client: w.hooks}
	if slices.Contains(w.programs, "millrace-agent") { // whose VMs are real
		config.RunnerURL = "http://10.0.2.2:" + port
	}
	if w.github, err = githubtest.New(config); err != nil {
		return errors.Join(err, forge.Close())
	}
	w.stops = append(w.stops, func() error { w.github.Close(); return nil })
	server := &http.Server{Handler: w.github, ReadHeaderTimeout: time.Minute}
	go server.Serve(forge) //nolint:errcheck // Close ends it
	w.stops = append(w.stops, server.Close)
	return nil
}

// startServer starts the server, which always has the same address, and returns once it answers.
func (w *world) startServer(ctx context.Context) error {
	server := exec.Command(filepath.Join(w.dir, "millraced"), "serve")
	server.Env = append(os.Environ(),
		"MILLRACE_URL="+w.url, "MILLRACE_LISTEN="+strings.TrimPrefix(w.url, "http://"), "MILLRACE_METRICS_LISTEN="+strings.TrimPrefix(w.metrics, "http://"),
		"MILLRACE_DATABASE_URL="+w.postgres.URL("millrace_app", database), "MILLRACE_DATABASE_SYSTEM_URL="+w.postgres.URL("millrace_system", database),
		"MILLRACE_BLOB_URL=file://"+filepath.Join(w.dir, "blobs"),
		"MILLRACE_GITHUB_URL="+w.github.URL(), "MILLRACE_GITHUB_API_URL="+w.github.APIURL(), "MILLRACE_GITHUB_APP_ID="+strconv.FormatInt(w.github.AppID(), 10),
		"MILLRACE_GITHUB_PRIVATE_KEY="+string(w.github.PrivateKeyPEM()), "MILLRACE_GITHUB_WEBHOOK_SECRET="+w.github.WebhookSecret(),
	)
	if err := w.run(server, "server.log"); err != nil {
		return err
	}
	w.server = server
	if err := w.ready(ctx); err != nil {
		return errors.Join(err, w.endServer(syscall.SIGKILL))
	}
	return nil
}

// endServer ends the server with a signal.
func (w *world) endServer(sig syscall.Signal) error {
	err := end(w.server, sig, filepath.Join(w.dir, "server.log"))
	if sig == syscall.SIGKILL {
		return nil
	}
	return err
}

// seed makes the tenants.
func (w *world) seed(ctx context.Context) error {
	for _, t := range w.tenants {
		org := store.NewOrg{Slug: t.slug, Name: t.slug, Concurrency: 10_000, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 256}}
		for _, login := range t.owners {
			owner := w.github.AddOwner(login, millrace.Organization)
			org.Owner = millrace.User{GitHubID: owner.SenderID, Login: login}
			org.Installations = append(org.Installations, owner.Installation)
		}
		made, _, err := w.store.CreateOrg(ctx, org)
		if err != nil {
			return err
		}
		w.orgs = append(w.orgs, made)
	}
	return nil
}

// run starts a process whose output goes to the end of a file.
func (w *world) run(cmd *exec.Cmd, log string) error {
	file, err := os.OpenFile(filepath.Join(w.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = file, file
	return cmd.Start()
}

// launch starts a process as [world.run] does, and has it stopped at the end.
func (w *world) launch(cmd *exec.Cmd, log string) error {
	if err := w.run(cmd, log); err != nil {
		return err
	}
	w.stops = append(w.stops, func() error { return end(cmd, syscall.SIGTERM, filepath.Join(w.dir, log)) })
	return nil
}

// end ends a process with a signal. Its error has the last of the log.
func end(cmd *exec.Cmd, sig syscall.Signal, log string) error {
	if cmd.ProcessState != nil {
		return nil
	}
	_ = cmd.Process.Signal(sig)
	if err := cmd.Wait(); err != nil {
		content, _ := os.ReadFile(log)
		return fmt.Errorf("%s: %w\n%s", filepath.Base(log), err, content[max(0, len(content)-2000):])
	}
	return nil
}

// ready waits until the server answers.
func (w *world) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			content, _ := os.ReadFile(filepath.Join(w.dir, "server.log"))
			return fmt.Errorf("the server did not become ready:\n%s", content)
		}
	}
}

func (w *world) stop() error {
	var err error
	for _, stop := range slices.Backward(w.stops) {
		err = errors.Join(err, stop())
	}
	w.stops = nil
	return err
}

// rss is a process's resident memory in MiB, now and at its highest.
func rss(pid int) (now, peak float64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			now = kb / 1024
		case "VmHWM:":
			peak = kb / 1024
		}
	}
	return now, peak, nil
}
