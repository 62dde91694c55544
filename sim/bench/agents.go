package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest/testrunner"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
)

// enrollsAbreast is how many machines enroll at the same time.
const enrollsAbreast = 16

// agents enrolls a fleet's machines, each of which takes one of the tokens in turns, and runs their agents until the context ends.
func (f *fleet) agents(ctx context.Context, tokens []millrace.Secret) error {
	facts, err := agent.Facts(f.disks, agent.Offer{})
	if err != nil {
		return err
	}
	facts.VCPUs, facts.MemoryMB, facts.Offer = 16, 64<<10, millrace.Size{MilliCPU: 16_000, MemoryMB: 64 << 10}
	dir := func(host int) string { return filepath.Join(f.disks, fmt.Sprintf("rack-%d", host)) }
	hosts := make([]agent.Identity, f.o.hosts)
	enrolling, enrollCtx := errgroup.WithContext(ctx)
	enrolling.SetLimit(enrollsAbreast)
	for i := range hosts {
		enrolling.Go(func() (err error) {
			hosts[i], err = agent.Enroll(enrollCtx, agent.EnrollConfig{
				URL: f.url, Token: tokens[i%len(tokens)], Name: fmt.Sprintf("rack-%d", i), Dir: dir(i), Facts: facts, HTTP: http.DefaultClient,
			})
			return err
		})
	}
	if err := enrolling.Wait(); err != nil {
		return err
	}
	running, runCtx := errgroup.WithContext(ctx)
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelError})) // restarts make warnings
	driver := fake.Driver{Guest: idler(&http.Client{Transport: within{f.github}})}
	for i, id := range hosts {
		running.Go(func() error {
			seal, err := id.SealKeys()
			if err != nil {
				return err
			}
			return agent.Run(runCtx, agent.Config{
				Server: &watched{Server: id.Client(), fleet: f, host: i, told: map[millrace.VMID]bool{}}, Host: id.HostID, SealKeys: seal, Driver: driver,
				Dir: dir(i), Facts: facts, EndVMs: true, Log: log,
			})
		})
	}
	return running.Wait()
}

// watched is the server as an agent knows it; it notes what the agent is told.
type watched struct {
	agent.Server
	fleet *fleet
	host  int
	told  map[millrace.VMID]bool // an agent has one sync under way at a time
}

// Sync syncs.
func (w *watched) Sync(ctx context.Context, in client.SyncRequest) (client.SyncResponse, error) {
	began := time.Now()
	out, err := w.Server.Sync(ctx, in)
	if err != nil {
		return out, err
	}
	at := time.Now()
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	w.fleet.synced[w.host] = began
	for _, v := range out.VMs {
		if !w.told[v.ID] {
			w.told[v.ID] = true
			w.fleet.orders[v.ID] = at
		}
	}
	return out, nil
}

// within calls a handler of this process without a network.
type within struct{ http.Handler }

// RoundTrip calls the handler, which ends when the request's context does.
func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	w.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

// idler is the inside of a fake machine: a terse test runner, whose steps are how long they take. It speaks to GitHub by c.
func idler(c *http.Client) func(context.Context, io.ReadWriteCloser, vm.Spec) error {
	return func(ctx context.Context, conn io.ReadWriteCloser, _ vm.Spec) error {
		return testrunner.Terse(ctx, conn, c, func(ctx context.Context, script string, _ []string, _ io.Writer) error {
			takes, err := time.ParseDuration(script)
			if err != nil {
				return err
			}
			return wait(ctx, takes)
		})
	}
}
