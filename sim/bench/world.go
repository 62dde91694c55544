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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/store"
)

// world is what is measured.
type world struct {
	dir      string
	url      string
	metrics  string
	postgres *pg.Server
	github   *githubtest.GitHub
	forge    *http.Server
	store    *store.Store
	server   *exec.Cmd
	orgs     [2]millrace.Org // of the bench's own host, and of the real agent's
	owners   [2]githubtest.Owner
	stops    []func() error
}

const database = "millrace"

func start(ctx context.Context, dir string) (w *world, err error) {
	w = &world{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	for _, program := range []string{"millraced", "millrace-agent"} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, program), "./cmd/"+program)
		if out, err := build.CombinedOutput(); err != nil {
			return w, fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	if w.postgres, err = pg.Start(ctx, pg.Options{Dir: filepath.Join(dir, "pg"), Fsync: true}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, w.postgres.Stop)
	if err := migrations.Roles(ctx, w.postgres.URL("postgres", "postgres"), database); err != nil {
		return w, err
	}
	if err := migrations.Up(ctx, w.postgres.URL("millrace_migrate", database)); err != nil {
		return w, err
	}
	forge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return w, err
	}
	address, metrics, err := freeAddresses()
	if err != nil {
		return w, err
	}
	w.url, w.metrics = "http://"+address, "http://"+metrics
	_, port, _ := net.SplitHostPort(forge.Addr().String())
	// The bench delivers webhooks itself where it measures them; the stand-in delivers for the real agent's jobs.
	if w.github, err = githubtest.New(githubtest.Config{
		URL: "http://" + forge.Addr().String(), RunnerURL: "http://10.0.2.2:" + port, WebhookURL: w.url + "/webhooks/github",
	}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, func() error { w.github.Close(); return nil })
	w.forge = &http.Server{Handler: w.github, ReadHeaderTimeout: time.Minute}
	go w.forge.Serve(forge) //nolint:errcheck // Close ends it
	w.stops = append(w.stops, w.forge.Close)

	w.server = exec.Command(filepath.Join(dir, "millraced"), "serve")
	w.server.Env = append(os.Environ(),
		"MILLRACE_URL="+w.url, "MILLRACE_LISTEN="+address, "MILLRACE_METRICS_LISTEN="+metrics,
		"MILLRACE_DATABASE_URL="+w.postgres.URL("millrace_app", database), "MILLRACE_DATABASE_SYSTEM_URL="+w.postgres.URL("millrace_system", database),
		"MILLRACE_BLOB_URL=file://"+filepath.Join(dir, "blobs"),
		"MILLRACE_GITHUB_URL="+w.github.URL(), "MILLRACE_GITHUB_API_URL="+w.github.APIURL(), "MILLRACE_GITHUB_APP_ID="+strconv.FormatInt(w.github.AppID(), 10),
		"MILLRACE_GITHUB_PRIVATE_KEY="+string(w.github.PrivateKeyPEM()), "MILLRACE_GITHUB_WEBHOOK_SECRET="+w.github.WebhookSecret(),
	)
	if err := w.launch(w.server, "server.log"); err != nil {
		return w, err
	}
	if w.store, err = store.Open(ctx, store.Config{AppURL: w.postgres.URL("millrace_app", database), SystemURL: w.postgres.URL("millrace_system", database)}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, func() error { w.store.Close(); return nil })
	for i, name := range []string{"bench", "real"} {
		w.owners[i] = w.github.AddOwner(name, millrace.Organization)
		w.orgs[i], _, err = w.store.CreateOrg(ctx, store.NewOrg{
			Slug: name, Name: name, Concurrency: 10_000, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 256},
			Owner: millrace.User{GitHubID: w.owners[i].SenderID, Login: name}, Installations: []millrace.Installation{w.owners[i].Installation},
		})
		if err != nil {
			return w, err
		}
	}
	return w, w.ready(ctx)
}

// launch starts a process whose output goes to a file, and has it stopped at the end.
func (w *world) launch(cmd *exec.Cmd, log string) error {
	file, err := os.Create(filepath.Join(w.dir, log))
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		return err
	}
	w.stops = append(w.stops, func() error {
		defer file.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			content, _ := os.ReadFile(file.Name())
			return fmt.Errorf("%s: %w\n%s", log, err, content[max(0, len(content)-2000):])
		}
		return nil
	})
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
	for _, stop := range slicesBackward(w.stops) {
		err = errors.Join(err, stop())
	}
	w.stops = nil
	return err
}

func slicesBackward(list []func() error) []func() error {
	out := make([]func() error, 0, len(list))
	for i := len(list) - 1; i >= 0; i-- {
		out = append(out, list[i])
	}
	return out
}

func freeAddresses() (a, b string, err error) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer first.Close()
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer second.Close()
	return first.Addr().String(), second.Addr().String(), nil
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
