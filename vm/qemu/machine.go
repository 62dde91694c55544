package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/network"
)

// machine is one QEMU process with its folder.
type machine struct {
	channel *os.File
	console *tail
	cmd     *exec.Cmd
	dir     string
	stop    func() bool
	detach  func() error // from its network
	done    chan struct{}

	mu     sync.Mutex
	killed bool
	err    error
}

var safeID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Start boots a machine.
func (d *Driver) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if !safeID.MatchString(spec.ID) {
		return nil, fmt.Errorf("%q is no machine's ID", spec.ID)
	}
	dir := filepath.Join(d.cfg.Dir, "vms", spec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	clone, err := cloneDisk(ctx, d.disk, filepath.Join(dir, "root"))
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	m, err := d.launch(ctx, d.accel, spec, "", clone, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return m, nil
}

// launch starts QEMU in dir, which it owns from then on. A machine without a disk has no network either.
func (d *Driver) launch(ctx context.Context, accel Accel, spec vm.Spec, kernelArgs string, disk disk, dir string) (_ *machine, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	defer theirs.Close()
	m := &machine{channel: ours, console: &tail{}, dir: dir, detach: func() error { return nil }, done: make(chan struct{})}
	files := []*os.File{theirs}
	var link *network.Link
	if d.cfg.Network != nil && disk.path != "" {
		if link, err = d.cfg.Network.Attach(spec.ID); err != nil {
			ours.Close()
			return nil, err
		}
		files = append(files, link.Tap)
		m.detach = func() error { return d.cfg.Network.Detach(link) }
	}
	m.cmd = exec.Command(d.qemu, d.commandLine(accel, spec, kernelArgs, disk, link)...)
	m.cmd.Dir = dir // how a later process knows it, see clean
	m.cmd.ExtraFiles = files
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	// Its own process group: a Ctrl-C in the terminal is ours to act on.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		ours.Close()
		return nil, errors.Join(fmt.Errorf("starting QEMU: %w", err), m.detach())
	}
	if link != nil {
		link.Tap.Close() // QEMU's copy keeps the tap, and with QEMU it goes
	}
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(m.cmd.Process.Pid)), 0o600); err != nil {
		m.cmd.Process.Kill() //nolint:errcheck // it is waited for below
	}
	m.stop = context.AfterFunc(ctx, m.Kill)
	go m.wait()
	return m, nil
}

func (m *machine) wait() {
	err := m.cmd.Wait()
	m.stop()
	detachErr := m.detach()
	m.mu.Lock()
	switch {
	case m.killed:
		m.err = errors.New("killed")
	case err != nil:
		m.err = fmt.Errorf("QEMU ended: %w: %s", err, m.console.last())
	case m.console.has("Kernel panic"):
		m.err = fmt.Errorf("the guest's kernel panicked: %s", m.console.last())
	default:
		m.err = detachErr
	}
	m.mu.Unlock()
	os.RemoveAll(m.dir)
	close(m.done)
}

// Channel is the byte stream to PID 1.
func (m *machine) Channel() io.ReadWriteCloser { return m.channel }

// Done is closed when the process is gone and the folder removed.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err says why it ended, after Done; nil: the guest powered off.
func (m *machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Kill ends the machine at once.
func (m *machine) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		return
	default:
	}
	m.killed = true
	_ = m.cmd.Process.Kill() // one that has ended is no error
}

const pidFile = "pid"

// clean kills the machines that an earlier process left and removes their folders.
func (d *Driver) clean() error {
	dirs, err := filepath.Glob(filepath.Join(d.cfg.Dir, "vms", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		content, err := os.ReadFile(filepath.Join(dir, pidFile))
		if pid, convErr := strconv.Atoi(string(content)); err == nil && convErr == nil && pid > 1 {
			// The number may be another process's by now: ours works in its folder.
			if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == dir {
				d.cfg.Log.Warn("killing a VM that an earlier process left", "dir", dir, "pid", pid)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// tail keeps the last of what QEMU and the guest's kernel print. A guest can print without end; this doesn't grow.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const keep = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-keep):]...)
	if len(t.buf) > 2*keep {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-keep:]...)
	}
	return len(p), nil
}

func (t *tail) has(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.buf, []byte(s))
}

// last is the last few lines, for an error's text.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.buf[max(0, len(t.buf)-400):]), ""))
	return strings.Join(strings.Fields(text), " ")
}
