package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/guest/testrunner"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// machines is what runs dev's VMs.
type machines struct {
	driver  vm.Driver
	warning string // what people must be told of it
}

// fromGuest is the URL at which a guest reaches a server of this machine.
func (m machines) fromGuest(addr net.Addr) string {
	_, port, _ := net.SplitHostPort(addr.String())
	if _, isFake := m.driver.(fake.Driver); isFake {
		return "http://" + addr.String()
	}
	return "http://10.0.2.2:" + port // QEMU's user-mode network
}

// chooseDriver takes QEMU where it is, and a fake, loudly, where it isn't and nobody insisted.
func chooseDriver(kind, dir string, log *slog.Logger) (machines, error) {
	if kind != "auto" && kind != "qemu" && kind != "fake" {
		return machines{}, fmt.Errorf("--driver is auto, qemu or fake, not %q", kind)
	}
	noVMs := machines{driver: fake.Driver{Guest: tellJobs}, warning: "The fake driver is on: NO VM IS BOOTED, and steps are printed, not run."}
	if kind == "fake" {
		return noVMs, nil
	}
	driver, err := newQEMU(dir, log)
	if err == nil {
		return machines{driver: driver}, nil
	}
	if kind == "qemu" {
		return machines{}, err
	}
	noVMs.warning += fmt.Sprintf(" Because: %v.", err)
	return noVMs, nil
}

func newQEMU(dir string, log *slog.Logger) (vm.Driver, error) {
	arch := millrace.Arch(runtime.GOARCH)
	programs, err := guest.Programs(arch)
	if err != nil {
		return nil, err
	}
	return qemu.New(qemu.Config{Dir: dir, Programs: programs, Accel: qemu.AccelAuto, Log: log})
}

// tellJobs is the inside of a fake machine: it speaks to the stand-in as a real guest's runner does, and prints each step
// instead of running it. Nothing of a job runs on the developer's machine.
func tellJobs(ctx context.Context, conn io.ReadWriteCloser, _ vm.Spec) error {
	return testrunner.InProcess(ctx, conn, func(_ context.Context, script string, _ []string, out io.Writer) error {
		_, err := fmt.Fprintf(out, "fake driver, not run:\n%s\n", script)
		return err
	})
}

// host is dev's one host.
type host struct {
	url      string
	dir      string
	machines machines
	log      *slog.Logger
}

// enroll makes this machine a host through the real call, unless an earlier run did.
func (h host) enroll(ctx context.Context, token millrace.Secret) (agent.Config, error) {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return agent.Config{}, err
	}
	// A development machine may sell each of its CPUs several times: jobs here wait more than they work.
	facts, err := agent.Facts(h.dir, agent.Offer{CPUOvercommit: 4})
	if err != nil {
		return agent.Config{}, err
	}
	facts.Driver, facts.Network = h.machines.driver.Name(), millrace.NetworkUser
	id, err := agent.LoadIdentity(h.dir)
	if millrace.CodeOf(err) == millrace.NotFound {
		name, hostErr := os.Hostname()
		if hostErr != nil || name == "" {
			name = "dev"
		}
		id, err = agent.Enroll(ctx, agent.EnrollConfig{URL: h.url, Token: token, Name: name, Dir: h.dir, Facts: facts})
	}
	if err != nil {
		return agent.Config{}, fmt.Errorf("enrolling this machine: %w", err)
	}
	id.URL = h.url // the port may be another in each run
	id, rotateErr := id.Rotate(ctx, h.dir)
	if rotateErr != nil {
		h.log.Warn("The host keeps its keys for now.", "error", rotateErr)
	}
	seal, err := id.SealKeys()
	if err != nil {
		return agent.Config{}, err
	}
	return agent.Config{
		Server: id.Client(), Host: id.HostID, SealKeys: seal, KeysUnsure: rotateErr != nil && !client.IsAnswer(rotateErr), Driver: h.machines.driver, Dir: h.dir, Facts: facts, Log: h.log,
		EndVMs: true, // Ctrl-C stops everything
	}, nil
}

// run enrolls, calls ready, and is the host's agent until ctx ends.
func (h host) run(ctx context.Context, token millrace.Secret, ready func() error) error {
	config, err := h.enroll(ctx, token)
	if err != nil {
		return err
	}
	unlock, err := agent.Lock(filepath.Clean(h.dir))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := h.machines.driver.Adopt(ctx, nil); err != nil { // the stand-in that an earlier run's would speak to is gone
		return err
	}
	if err := h.machines.driver.Prepare(ctx); err != nil { // here it is an error: a developer sees it at once
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	for {
		err := agent.Run(ctx, config)
		switch {
		case errors.Is(err, agent.EndRestart), errors.Is(err, agent.EndRotate):
			if errors.Is(err, agent.EndRotate) {
				if err := agent.MakeKeys(h.dir); err != nil {
					return err
				}
			}
			if config, err = h.enroll(ctx, token); err != nil {
				return err
			}
			continue
		case errors.Is(err, agent.EndRemoved):
			h.log.Warn("This machine's host was removed; remove " + h.dir + " and start again to have it back.")
			<-ctx.Done()
			return nil
		}
		return err
	}
}
