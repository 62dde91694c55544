package launcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/natefinch/atomic"
	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
)

// Config is what a launcher starts machines with.
type Config struct {
	Driver vm.Driver
	Host   Host // its Dir is the launcher's own
	// Examine finds out what there is to say of this machine, after Driver was prepared; nil: nothing.
	Examine func(context.Context) []millrace.Finding
	// Reboot reboots it; called only when Host allows that.
	Reboot func(context.Context) error
	Log    *slog.Logger
	// Said is what the agent is told of the log, lines from before it came included.
	Said *Log
}

// Listen makes the socket at path, for the process's user and group.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a killed process's
		return nil, err
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// Serve serves one agent, and returns when that or ctx ends. Machines run on. It closes l.
func Serve(ctx context.Context, l *net.UnixListener, c Config) error {
	defer l.Close()
	ctx, end := context.WithCancel(ctx)
	defer end()
	s := &server{Config: c, end: end, adopted: map[string]vm.Machine{}}
	if err := s.load(); err != nil {
		return err
	}
	var served sync.WaitGroup
	defer served.Wait()
	defer end()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		accepted, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		served.Go(func() {
			defer accepted.Close()
			defer context.AfterFunc(ctx, func() { accepted.Close() })()
			s.serve(ctx, conn{accepted})
		})
	}
}

// server serves one agent.
type server struct {
	Config
	end context.CancelFunc

	mu      sync.Mutex
	agent   int32 // its process; 0: none came yet
	begun   bool  // it took machines over, or started one
	adopted map[string]vm.Machine
	running map[string]vm.Spec // what is running, or is being started; as in the file
}

var errAgents = errors.New("another agent is served")

// serve serves a connection.
func (s *server) serve(ctx context.Context, c conn) {
	_ = c.SetReadDeadline(time.Now().Add(helloWithin))
	var r request
	file, err := c.receive(&r)
	if err != nil {
		s.Log.Warn("Somebody asks what can't be understood.", "error", err)
		_ = c.send(answer{Error: err.Error()})
		return
	}
	if file != nil { // nothing is done with it
		file.Close()
	}
	_ = c.SetReadDeadline(time.Time{})
	if err := s.allow(c, r.Do); err != nil {
		s.Log.Warn("Somebody is refused.", "asks", r.Do, "because", err)
		_ = c.send(answer{Error: err.Error()})
		return
	}
	switch r.Do {
	case hello:
		var told sync.WaitGroup
		defer told.Wait()
		defer s.end()
		if c.send(answer{Host: s.Host}) == nil {
			told.Go(func() { s.Said.tell(ctx, c) })
			_, _ = c.receive(&r) // an agent has nothing more to say: it returns when that ends
		}
	case start:
		s.run(ctx, c, r.Spec.ID, func(ctx context.Context) (vm.Machine, error) { return s.start(ctx, r.Spec) })
	case attach:
		s.run(ctx, c, strings.Join(r.IDs, " "), func(context.Context) (vm.Machine, error) { return s.take(r.IDs) })
	default:
		a, err := s.answer(ctx, r)
		if err != nil {
			a.Error = err.Error()
		}
		_ = c.send(a) // an agent that has ended needs none
	}
}

// allow lets in the agent: the process that said hello, which is the first to.
func (s *server) allow(c conn, do verb) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case do == hello && s.agent == 0:
		s.agent = peer.Pid
		return nil
	case do == hello || s.agent != peer.Pid:
		return errAgents
	default:
		return nil
	}
}

// answer does what takes no machine.
func (s *server) answer(ctx context.Context, r request) (a answer, err error) {
	switch r.Do {
	case prepare:
		err = s.Driver.Prepare(ctx)
		a.Name, a.Boot = s.Driver.Name(), s.Driver.Boot()
	case adopt:
		a.IDs, err = s.adopt(ctx, r.IDs)
	case examine:
		if s.Examine != nil {
			a.Findings = s.Examine(ctx)
		}
	case reboot:
		if !s.Host.Facts.Reboots {
			return a, errors.New("this machine's owner doesn't let the control plane reboot it")
		}
		s.Log.Warn("The machine is rebooted.")
		err = s.Reboot(ctx)
	default:
		err = fmt.Errorf("there is nothing called %q to do", r.Do)
	}
	return a, err
}

// run has a connection's machine begin, hands its channel out, and tells of its end. A machine outlives who asked for it.
func (s *server) run(ctx context.Context, c conn, id string, begin func(context.Context) (vm.Machine, error)) {
	wanted, unwanted := context.WithCancel(ctx)
	defer unwanted()
	killed := make(chan struct{})
	go func() {
		defer unwanted()
		for {
			var r request
			if _, err := c.receive(&r); err != nil {
				return
			}
			if r.Do == kill {
				close(killed)
				return
			}
		}
	}()
	m, err := begin(wanted)
	if err != nil {
		s.Log.Warn("A machine is not started.", "vm", id, "because", err)
		_ = c.send(answer{Error: err.Error()})
		return
	}
	if err := handOut(c, m); err != nil {
		s.Log.Error("A machine's channel can't be handed out.", "vm", id, "error", err)
		m.Kill()
	}
	select {
	case <-killed:
		m.Kill()
	case <-m.Done():
	case <-ctx.Done():
		return
	}
	select {
	case <-m.Done():
	case <-ctx.Done():
		return
	}
	if err := s.forget(id); err != nil {
		s.Log.Error("What runs can't be noted.", "error", err)
	}
	last := answer{Ended: true}
	if err := m.Err(); err != nil {
		last.Error = err.Error()
	}
	_ = c.send(last) // an agent that isn't there any more finds the machine gone
}

// handOut gives a machine's channel to c, and keeps none.
func handOut(c conn, m vm.Machine) error {
	channel := m.Channel()
	defer channel.Close()
	socket, ok := channel.(syscall.Conn)
	if !ok {
		return fmt.Errorf("it is no socket but a %T", channel)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	return errors.Join(raw.Control(func(fd uintptr) { sent = c.send(answer{}, int(fd)) }), sent)
}

// start starts a machine within the bounds.
func (s *server) start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if err := s.reserve(spec); err != nil {
		return nil, err
	}
	m, err := s.Driver.Start(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, s.forget(spec.ID))
	}
	return m, nil
}

// reserve notes that spec runs from now on, unless that is more than the host's owner gave.
func (s *server) reserve(spec vm.Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.Host.Facts.Room()
	for _, other := range s.running {
		left = left.Minus(other.Size().Room())
	}
	size := spec.Size()
	_, twice := s.running[spec.ID]
	switch {
	case twice:
		return fmt.Errorf("there is a machine %q already", spec.ID)
	case !s.Host.Facts.Runs(spec.Arch):
		return fmt.Errorf("this machine's owner doesn't let it run %q", spec.Arch)
	case size.MilliCPU < 1 || size.MemoryMB < millrace.MinMemoryMB || spec.VCPUs != size.VCPUs():
		return fmt.Errorf("%d vCPUs, %d thousandths of them and %d MB make no machine", spec.VCPUs, size.MilliCPU, size.MemoryMB)
	case !left.Holds(size.Room()):
		return fmt.Errorf("%s is more than is left of %s, which this machine's owner gives", size, s.Host.Facts.Bounds())
	}
	s.begun, s.running[spec.ID] = true, spec
	err := s.save()
	if err != nil {
		delete(s.running, spec.ID)
	}
	return err
}

func (s *server) forget(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, id)
	return s.save()
}

// adopt takes over the machines named ids, of those that earlier launchers started. That comes first, once, and nothing is started
// meanwhile: a machine that Adopt doesn't see yet would run on and count for nothing, and one that is taken over twice would end
// twice, the second time for another of its name.
func (s *server) adopt(ctx context.Context, ids []string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return nil, errors.New("machines are taken over once, before any is started")
	}
	s.begun = true
	found, err := s.Driver.Adopt(ctx, ids)
	if err != nil {
		return nil, err
	}
	s.adopted = found
	for id := range s.running {
		if _, runs := found[id]; !runs {
			delete(s.running, id)
		}
	}
	return slices.Sorted(maps.Keys(found)), s.save()
}

// take is an adopted machine, once.
func (s *server) take(ids []string) (vm.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(ids) != 1 || s.adopted[ids[0]] == nil {
		return nil, fmt.Errorf("no machine named %q was adopted", ids)
	}
	m := s.adopted[ids[0]]
	delete(s.adopted, ids[0])
	return m, nil
}

// What runs is written down, so that the bounds hold for the machines that earlier launchers started, too.
func (s *server) file() string { return filepath.Join(s.Host.Dir, "running.json") }

func (s *server) load() error {
	s.running = map[string]vm.Spec{}
	content, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, &s.running)
	}
	if err != nil {
		return fmt.Errorf("what runs on this machine isn't known: %w; run millrace-agent stop-vms and remove %s", err, s.file())
	}
	return nil
}

func (s *server) save() error {
	content, err := json.Marshal(s.running)
	if err != nil {
		return err
	}
	return atomic.WriteFile(s.file(), bytes.NewReader(content))
}
