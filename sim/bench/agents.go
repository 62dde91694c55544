package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest/testrunner"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
)

// The agents of a fleet are one process, this program started anew: apart from the server, whose CPU is measured, and from
// its limit of open files. It is told what to do on its standard input, which stays open as long as it is to run, and says
// line by line what happens to its hosts:
//
//	synced HOST BEGAN    a sync that began then was answered; HOST is the host's number
//	order VM AT          an agent was told of a VM
//
// Times are in Unix nanoseconds.

// agentsVar is the environment variable that makes this program the agents.
const agentsVar = "MILLRACE_BENCH_AGENTS"

// agentsConfig is what the agents are told.
type agentsConfig struct {
	URL     string
	Dir     string
	Hosts   int
	Tokens  []string // enrollment tokens, which the hosts take in turns
	Profile string   // a file for their CPU profile; "": none
}

// spaciousGC is the garbage collector's percentage of what stands for others' machines: their memory is cheaper here than the
// processors that they share with the server.
const spaciousGC = 400

// enrollsAbreast is how many machines enroll at the same time.
const enrollsAbreast = 16

// agents enrolls machines and runs their agents until its input ends.
func agents() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c agentsConfig
	input := json.NewDecoder(os.Stdin)
	if err := input.Decode(&c); err != nil {
		return err
	}
	if c.Profile != "" {
		profiled, failed := profileSelf(c.Profile)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, profiled()) }()
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	debug.SetGCPercent(spaciousGC)
	// The runners of all fake VMs share it; by default it keeps two connections of theirs.
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 500
	facts, err := agent.Facts(c.Dir, agent.Offer{})
	if err != nil {
		return err
	}
	facts.VCPUs, facts.MemoryMB, facts.Offer = 16, 64<<10, millrace.Size{MilliCPU: 16_000, MemoryMB: 64 << 10}
	hosts := make([]agent.Identity, c.Hosts)
	enrolling, enrollCtx := errgroup.WithContext(ctx)
	enrolling.SetLimit(enrollsAbreast)
	for i := range hosts {
		enrolling.Go(func() (err error) {
			name := fmt.Sprintf("rack-%d", i)
			hosts[i], err = agent.Enroll(enrollCtx, agent.EnrollConfig{
				URL: c.URL, Token: millrace.Secret(c.Tokens[i%len(c.Tokens)]), Name: name, Dir: filepath.Join(c.Dir, name), Facts: facts, HTTP: http.DefaultClient,
			})
			return err
		})
	}
	if err := enrolling.Wait(); err != nil {
		return err
	}
	running, runCtx := errgroup.WithContext(ctx)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})) // restarts make warnings
	for i, id := range hosts {
		running.Go(func() error {
			seal, err := id.SealKeys()
			if err != nil {
				return err
			}
			return agent.Run(runCtx, agent.Config{
				Server: &watched{Server: id.Client(), host: i, told: map[millrace.VMID]bool{}}, Host: id.HostID, SealKeys: seal, Driver: fake.Driver{Guest: idler},
				Dir: filepath.Join(c.Dir, fmt.Sprintf("rack-%d", i)), Facts: facts, EndVMs: true, Log: log,
			})
		})
	}
	return running.Wait()
}

// watched is the server as an agent knows it; it says what the agent is told.
type watched struct {
	agent.Server
	host int
	told map[millrace.VMID]bool // an agent has one sync under way at a time
}

// Sync syncs.
func (w *watched) Sync(ctx context.Context, in client.SyncRequest) (client.SyncResponse, error) {
	began := time.Now().UnixNano()
	out, err := w.Server.Sync(ctx, in)
	if err != nil {
		return out, err
	}
	at := time.Now().UnixNano()
	lines := fmt.Appendf(nil, "synced %d %d\n", w.host, began)
	for _, v := range out.VMs {
		if !w.told[v.ID] {
			w.told[v.ID] = true
			lines = fmt.Appendf(lines, "order %s %d\n", v.ID, at)
		}
	}
	_, err = os.Stdout.Write(lines) // whole lines, in one write each
	return out, err
}

// idler is the inside of a fake machine: a terse test runner, whose steps are how long they take.
func idler(ctx context.Context, conn io.ReadWriteCloser, _ vm.Spec) error {
	return testrunner.Terse(ctx, conn, func(ctx context.Context, script string, _ []string, _ io.Writer) error {
		takes, err := time.ParseDuration(script)
		if err != nil {
			return err
		}
		select {
		case <-time.After(takes):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}
