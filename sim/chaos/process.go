package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a program that is started again whenever it ends, as a service manager does.
type process struct {
	name    string
	dir     string
	log     *os.File
	command func() *exec.Cmd
	ended   chan struct{} // closed when it is supervised no more

	mu       sync.Mutex
	cmd      *exec.Cmd
	reaped   chan struct{} // closed when cmd is no more
	killed   bool          // by us
	stopping bool
	exits    []string // by itself
}

// restartAfter is the pause before a program that ended by itself is started again: systemd's.
const restartAfter = 100 * time.Millisecond

// supervise starts a program and keeps it running until the world stops.
func (w *world) supervise(name string, command func() *exec.Cmd) (*process, error) {
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, dir: w.dir, log: log, command: command, ended: make(chan struct{})}
	w.stops = append(w.stops, p.stop)
	if err := p.start(); err != nil {
		close(p.ended)
		return nil, err
	}
	go p.keep()
	return p, nil
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return errStopping
	}
	cmd := p.command()
	cmd.Dir = p.dir // by which leftovers are found
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// Its own process group: a Ctrl-C in the terminal is for us, who stop things in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.killed, p.reaped = cmd, false, make(chan struct{})
	return nil
}

var errStopping = errors.New("it is being stopped")

func (p *process) keep() {
	defer close(p.ended)
	for {
		err := p.cmd.Wait()
		p.mu.Lock()
		close(p.reaped)
		killed, stopping := p.killed, p.stopping
		if !killed && !stopping {
			p.exits = append(p.exits, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), p.name, err))
		}
		p.mu.Unlock()
		if !killed && !stopping {
			time.Sleep(restartAfter)
		}
		if p.start() != nil {
			return
		}
	}
}

// signal sends sig to the program as it runs now, if it does.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.cmd.Process.Signal(sig)
}

// kill kills the program as it runs now and returns once that process is no more: what answers from here on is another.
func (p *process) kill() {
	p.mu.Lock()
	reaped := p.reaped
	if p.cmd.Process.Signal(syscall.SIGKILL) == nil {
		p.killed = true
	}
	p.mu.Unlock()
	<-reaped
}

// stop ends the program politely, then at once.
func (p *process) stop() error {
	p.mu.Lock()
	p.stopping = true
	cmd := p.cmd
	p.mu.Unlock()
	defer p.log.Close()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGCONT)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(30 * time.Second):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
	return fmt.Errorf("%s did not end within 30 s of SIGTERM", p.name)
}

// ownExits are the programs' ends that were not our doing.
func (w *world) ownExits() (list []string) {
	for _, p := range []*process{w.servers[0], w.servers[1], w.agent} {
		p.mu.Lock()
		list = append(list, p.exits...)
		p.mu.Unlock()
	}
	return list
}
