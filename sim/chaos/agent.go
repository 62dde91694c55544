package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/guest/testrunner"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
)

// agentDir is the environment variable that makes this program the agent of that directory.
const agentDir = "MILLRACE_CHAOS_AGENT"

// offer sells each CPU several times: the jobs sleep.
var offer = agent.Offer{CPUOvercommit: 4}

// fakeAgent is `millrace-agent run` with the fake driver, which the product does not have.
func fakeAgent(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	id, err := agent.LoadIdentity(dir)
	if err != nil {
		return err
	}
	unlock, err := agent.Lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	seal, err := id.SealKeys()
	if err != nil {
		return err
	}
	facts, err := agent.Facts(dir, offer)
	if err != nil {
		return err
	}
	return agent.Run(ctx, agent.Config{
		Server: id.Client(), Host: id.HostID, SealKeys: seal, Driver: fake.Driver{Guest: sleeper}, Dir: dir, Facts: facts, EndVMs: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// sleeper is the inside of a fake machine: the test runner, whose steps sleep for what [step] says, and say who runs them.
func sleeper(ctx context.Context, conn io.ReadWriteCloser, _ vm.Spec) error {
	return testrunner.InProcess(ctx, conn, func(ctx context.Context, script string, env []string, out io.Writer) error {
		name := ""
		for _, e := range env {
			if value, ok := strings.CutPrefix(e, "RUNNER_NAME="); ok {
				name = value
			}
		}
		fmt.Fprintln(out, ranOn+name)
		var seconds float64
		if _, err := fmt.Sscanf(script[strings.LastIndex(script, "sleep"):], "sleep %g", &seconds); err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(seconds * float64(time.Second))):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// ranOn begins the line with which a job's log says who ran it.
const ranOn = "this ran on "

// step is a script that says who runs it and takes so long; it is also a shell's.
func step(takes time.Duration) string {
	return fmt.Sprintf("echo %s$RUNNER_NAME; sleep %.1f", ranOn, takes.Seconds())
}
