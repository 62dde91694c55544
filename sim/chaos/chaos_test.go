package main

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(agentDir); dir != "" { // this process is the agent
		if err := fakeAgent(dir); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestSmoke kills the agent, a server and Postgres once each while webhooks flow: everything comes back, nothing that was
// acknowledged is lost, and no process is left. That the books balance takes minutes, which are `make chaos`'s.
func TestSmoke(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w, err := start(ctx, t.TempDir(), options{seed: 1, length: time.Second, jobs: 2, load: 20, losesJobAfter: time.Minute, driver: "fake"})
	defer func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	flow, stopFlow := context.WithTimeout(ctx, 4*time.Second)
	defer stopFlow()
	flowing := make(chan struct{})
	go func() { defer close(flowing); w.flow(flow) }()
	w.agent.kill()
	w.servers[0].kill()
	if err := w.untilReady(ctx, w.urls[0]); err != nil {
		t.Error(err)
	}
	if _, err := w.killPostgres(ctx); err != nil {
		t.Error(err)
	}
	for _, url := range w.urls {
		if err := w.untilReady(ctx, url); err != nil {
			t.Error(err)
		}
	}
	<-flowing
	books, err := w.readBooks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if lost := books.lost(); len(lost) > 0 || len(books.acknowledged) == 0 {
		t.Errorf("%d were acknowledged; lost: %v", len(books.acknowledged), lost)
	}
	if own := w.ownExits(); len(own) > 0 {
		t.Errorf("ended by themselves: %v", own)
	}
}
