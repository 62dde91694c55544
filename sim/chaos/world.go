package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/migrations"
	"github.com/millrace-ci/millrace/pg"
	"github.com/millrace-ci/millrace/sim/local"
	"github.com/millrace-ci/millrace/store"
)

// world is what is tormented, and what must survive to judge it.
type world struct {
	o        options
	dir      string
	wanted   int // kills of Postgres
	postgres *pg.Server
	github   *githubtest.GitHub
	front    *front
	witness  *witness
	servers  [2]*process
	urls     [2]string
	agent    *process
	launcher *process        // of real VMs; nil: there are none
	orgs     [2]millrace.Org // of the jobs that run, and of the load
	owners   [2]githubtest.Owner
	figures  figures
	stops    []func() error

	mu   sync.Mutex
	jobs []queuedJob
}

const (
	database = "millrace"
	module   = "github.com/millrace-ci/millrace"
)

// start starts everything and returns once all of it works. The world it returns is to be stopped, with an error too.
func start(ctx context.Context, dir string, o options) (*world, error) {
	// Twenty kills take four minutes; a shorter run has fewer.
	w := &world{o: o, dir: dir, wanted: min(20, max(1, int(o.length/(12*time.Second))))}
	var err error
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", module+"/cmd/millraced", module+"/cmd/millrace-agent")
	if out, err := build.CombinedOutput(); err != nil {
		return w, fmt.Errorf("building: %w\n%s", err, out)
	}
	if w.postgres, err = pg.Start(ctx, pg.Options{Dir: filepath.Join(dir, "pg"), Fsync: true}); err != nil {
		return w, err
	}
	w.stops = append(w.stops, func() error {
		w.resumePostgres()
		return w.postgres.Stop()
	})
	if err := migrations.Roles(ctx, w.postgres.URL("postgres", "postgres"), database); err != nil {
		return w, err
	}
	if err := migrations.Up(ctx, w.postgres.URL("millrace_migrate", database)); err != nil {
		return w, err
	}
	addresses, err := local.FreeAddresses(4)
	if err != nil {
		return w, err
	}
	w.urls = [2]string{"http://" + addresses[0], "http://" + addresses[1]}
	if err := w.startGitHub(); err != nil {
		return w, err
	}
	for i := range w.servers {
		w.servers[i], err = w.supervise(fmt.Sprintf("server-%d", i), func() *exec.Cmd { return w.serve(addresses[i], addresses[2+i]) })
		if err != nil {
			return w, err
		}
		if err := w.untilReady(ctx, w.urls[i]); err != nil {
			return w, err
		}
	}
	if err := w.seed(ctx); err != nil {
		return w, err
	}
	if w.o.driver == "qemu" {
		w.stops = append(w.stops, func() error { // after the agent, whose VMs outlive it
			out, err := exec.Command(filepath.Join(w.dir, "millrace-agent"), "stop-vms", "--dir", w.launcherDir()).CombinedOutput()
			if err != nil {
				return fmt.Errorf("stop-vms: %w\n%s", err, out)
			}
			return nil
		})
		if w.launcher, err = w.supervise("launcher", w.runLauncher); err != nil {
			return w, err
		}
	}
	w.agent, err = w.supervise("agent", w.runAgent)
	return w, err
}

// startGitHub starts the stand-in, and the balancer through which it and the agent reach the servers.
func (w *world) startGitHub() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.front = newFront(w.urls)
	frontURL := w.listen(listener, w.front)
	forge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	runnerURL := "" // where the stand-in is
	if w.o.driver == "qemu" {
		_, port, _ := net.SplitHostPort(forge.Addr().String())
		runnerURL = "http://10.0.2.2:" + port // QEMU's user-mode network
	}
	w.witness = newWitness(frontURL)
	w.github, err = githubtest.New(githubtest.Config{
		URL: "http://" + forge.Addr().String(), RunnerURL: runnerURL, WebhookURL: frontURL + "/webhooks/github",
		Client: w.witness.client, LosesJobAfter: w.o.losesJobAfter,
	})
	if err != nil {
		return errors.Join(err, forge.Close())
	}
	w.stops = append(w.stops, func() error { w.github.Close(); return nil })
	w.listen(forge, w.github)
	return nil
}

// listen serves until the world stops.
func (w *world) listen(listener net.Listener, handler http.Handler) (url string) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go server.Serve(listener) //nolint:errcheck // Close ends it
	w.stops = append(w.stops, server.Close)
	return "http://" + listener.Addr().String()
}

// serve is one replica.
func (w *world) serve(address, metrics string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(w.dir, "millraced"), "serve")
	cmd.Env = append(os.Environ(),
		"MILLRACE_URL=http://"+address, "MILLRACE_LISTEN="+address, "MILLRACE_METRICS_LISTEN="+metrics,
		"MILLRACE_DATABASE_URL="+w.postgres.URL("millrace_app", database), "MILLRACE_DATABASE_SYSTEM_URL="+w.postgres.URL("millrace_system", database),
		"MILLRACE_BLOB_URL=file://"+filepath.Join(w.dir, "blobs"),
		"MILLRACE_GITHUB_URL="+w.github.URL(), "MILLRACE_GITHUB_API_URL="+w.github.APIURL(), "MILLRACE_GITHUB_APP_ID="+strconv.FormatInt(w.github.AppID(), 10),
		"MILLRACE_GITHUB_PRIVATE_KEY="+string(w.github.PrivateKeyPEM()), "MILLRACE_GITHUB_WEBHOOK_SECRET="+w.github.WebhookSecret(),
	)
	return cmd
}

// runAgent is the host's agent.
func (w *world) runAgent() *exec.Cmd {
	dir := filepath.Join(w.dir, "agent")
	if w.o.driver == "qemu" {
		return exec.Command(filepath.Join(w.dir, "millrace-agent"), "run", "--dir", dir, "--launcher", w.launcherSocket())
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), agentDir+"="+dir)
	return cmd
}

// runLauncher is what starts the agent's real VMs. The stand-in is on this machine's loopback, which they reach by the user-mode
// network alone.
func (w *world) runLauncher() *exec.Cmd {
	return exec.Command(filepath.Join(w.dir, "millrace-agent"), "launch", "--socket", w.launcherSocket(), "--dir", w.launcherDir(),
		"--driver", "qemu", "--network", "user", "--cpu-overcommit", "4")
}

func (w *world) launcherDir() string    { return filepath.Join(w.dir, "launcher") }
func (w *world) launcherSocket() string { return filepath.Join(w.dir, "launcher.sock") }

// seed makes the two tenants, and enrolls the host of the first.
func (w *world) seed(ctx context.Context) error {
	st, err := store.Open(ctx, store.Config{AppURL: w.postgres.URL("millrace_app", database), SystemURL: w.postgres.URL("millrace_system", database)})
	if err != nil {
		return err
	}
	defer st.Close()
	for i, name := range []string{"chaos", "load"} {
		w.owners[i] = w.github.AddOwner(name, millrace.Organization)
		w.orgs[i], _, err = st.CreateOrg(ctx, store.NewOrg{
			Slug: name, Name: name, Concurrency: 20, DefaultSize: w.size(),
			Owner: millrace.User{GitHubID: w.owners[i].SenderID, Login: name}, Installations: []millrace.Installation{w.owners[i].Installation},
		})
		if err != nil {
			return err
		}
	}
	_, token, err := st.Org(w.orgs[0].ID).CreateEnrollmentToken(ctx, millrace.Actor{Kind: millrace.ActorSystem}, store.NewEnrollmentToken{})
	if err != nil {
		return err
	}
	dir := filepath.Join(w.dir, "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	facts, err := agent.Facts(dir, offer)
	if err != nil {
		return err
	}
	_, err = agent.Enroll(ctx, agent.EnrollConfig{URL: w.witness.front, Token: token, Name: "rack", Dir: dir, Facts: facts})
	return err
}

// size is that of each VM: the machine's 20 slots must fit into what a small one has.
func (w *world) size() millrace.Size {
	if w.o.driver == "qemu" {
		return millrace.Size{MilliCPU: 1000, MemoryMB: 256}
	}
	return millrace.Size{MilliCPU: 100, MemoryMB: 64}
}

// ready reports whether a server answers that it can commit.
func (w *world) ready(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // one that is stopped answers nothing
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := probe.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// probe opens a connection for each question: one to a process that was killed would be of no use.
var probe = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// untilReady waits until one of these servers is ready.
func (w *world) untilReady(ctx context.Context, urls ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	found := make(chan struct{}, len(urls))
	for _, url := range urls {
		go func() {
			for ctx.Err() == nil {
				if w.ready(ctx, url) {
					found <- struct{}{}
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	select {
	case <-found:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no server of %v became ready within %v", urls, readyWithin)
	}
}

const readyWithin = 90 * time.Second

// stop stops everything, the last first, and fails if a process is left.
func (w *world) stop() error {
	var err error
	for _, stop := range slices.Backward(w.stops) {
		err = errors.Join(err, stop())
	}
	w.stops = nil
	if left := processesOf(w.dir); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left running:\n%s", strings.Join(left, "\n")))
	}
	return err
}

// processesOf lists the processes of programs that we start whose command line or working directory names dir, and ends
// them.
func processesOf(dir string) (found []string) {
	self, _ := os.Executable()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || !bytes.Contains(cmdline, []byte(dir)) && !strings.HasPrefix(cwd, dir) {
			continue
		}
		if exe != self && !ours.MatchString(exe) {
			continue // somebody reads a log
		}
		found = append(found, filepath.Base(proc)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return found
}

var ours = regexp.MustCompile(`/(millraced|millrace-agent|postgres|qemu-[^/]*)$`)
