package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/network"
)

// machine is one QEMU process with its folder.
type machine struct {
	channel net.Conn
	console *tail
	process process
	dir     string
	detach  func() error // from its network
	group   *cgroup.Group
	done    chan struct{}

	mu     sync.Mutex
	killed bool
	err    error
}

// process is QEMU's, a child or, when an earlier process of ours started it, anybody's.
type process interface {
	Kill() error
	Wait() error // an error: it ended otherwise than it should
}

// What is in a machine's folder besides its disk.
const (
	channelSocket = "channel"     // QEMU's: whoever connects is the guest's host
	limitsFile    = "limits.json" // its cgroup's, for a later process
	consolePipe   = "console"     // what QEMU and the guest's kernel print
)

var safeID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Start boots a machine.
func (d *Driver) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if !safeID.MatchString(spec.ID) {
		return nil, fmt.Errorf("%q is no machine's ID", spec.ID)
	}
	if spec.Arch != d.cfg.Arch {
		return nil, fmt.Errorf("the driver's machines are %s, not %q", d.cfg.Arch, spec.Arch)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if spec.Egress == millrace.EgressNone && d.cfg.Network == nil {
		return nil, errors.New("its networks are QEMU's user-mode ones, which are open to what the host reaches")
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
	m, err := d.launch(d.accel, spec, "", clone, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return m, nil
}

// launch starts QEMU in dir, which it owns from then on. A machine without a disk has no network either.
func (d *Driver) launch(accel Accel, spec vm.Spec, kernelArgs string, disk disk, dir string) (*machine, error) {
	limits := cgroup.Limits{VCPUs: spec.VCPUs, MilliCPU: spec.MilliCPU, Burstable: spec.Burstable, MemoryMB: spec.MemoryMB, Emulated: accel == AccelTCG}
	kept, err := json.Marshal(limits)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, limitsFile), kept, 0o600); err != nil {
		return nil, err
	}
	// What QEMU prints goes into a pipe with a name, which QEMU itself keeps open: nobody who reads, or has ended, holds it
	// up or makes it fail, and what nobody reads does not grow.
	if err := unix.Mkfifo(filepath.Join(dir, consolePipe), 0o600); err != nil {
		return nil, err
	}
	printed, err := os.OpenFile(filepath.Join(dir, consolePipe), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer printed.Close()
	listener, err := listen(dir, channelSocket)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	files := []*os.File{listener}
	group, err := d.cfg.Cgroups.Make(spec.ID, limits)
	if err != nil {
		return nil, err
	}
	var link *network.Link
	undo := func(err error) error { return errors.Join(err, d.detach(link), group.Remove()) }
	if d.cfg.Network != nil && disk.path != "" {
		if link, err = d.cfg.Network.Attach(spec.ID, spec.Egress); err != nil {
			return nil, undo(err)
		}
		defer link.Tap.Close() // QEMU's copy keeps the tap, and with QEMU it goes
		files = append(files, link.Tap)
	}
	cmd := exec.Command(d.qemu, d.commandLine(accel, spec, kernelArgs, disk, link)...)
	cmd.Dir = dir // how a later process knows it, see processes
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = printed, printed
	// Its own session: it outlives us, and a Ctrl-C in the terminal is ours to act on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, undo(fmt.Errorf("starting QEMU: %w", err))
	}
	var m *machine
	if err = group.Put(cmd.Process.Pid); err == nil {
		m, err = d.attach(dir, child{cmd}, link, group)
	}
	if err == nil {
		err = unix.SetNonblock(int(printed.Fd()), true) // QEMU's, too, which must not wait for a reader
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, undo(err)
	}
	return m, nil
}

// detach takes down a machine's network, if it has one.
func (d *Driver) detach(link *network.Link) error {
	if link == nil {
		return nil
	}
	return d.cfg.Network.Detach(link)
}

// attach takes charge of the machine in dir, whose network is link and whose cgroup is group.
func (d *Driver) attach(dir string, p process, link *network.Link, group *cgroup.Group) (*machine, error) {
	printed, err := os.OpenFile(filepath.Join(dir, consolePipe), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	channel, err := dial(dir, channelSocket)
	if err != nil {
		printed.Close()
		return nil, err
	}
	m := &machine{channel: channel, console: &tail{}, process: p, dir: dir, detach: func() error { return d.detach(link) }, group: group, done: make(chan struct{})}
	go m.wait(printed)
	return m, nil
}

// child is a process that we started.
type child struct{ *exec.Cmd }

func (c child) Kill() error { return c.Process.Kill() }

// wait waits for QEMU's end, and reads what it prints until then.
func (m *machine) wait(printed *os.File) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(m.console, printed) // ends with QEMU
		printed.Close()
	}()
	err := m.process.Wait()
	<-read
	starved := m.group.OutOfMemory()
	leftErr := errors.Join(m.detach(), m.group.Remove())
	m.mu.Lock()
	switch {
	case m.killed:
		m.err = errors.New("killed")
	case starved:
		m.err = errors.New("QEMU needed more memory than its cgroup may have, and was ended by the kernel")
	case err != nil:
		m.err = fmt.Errorf("QEMU ended: %w: %s", err, m.console.last())
	case m.console.has("Kernel panic"):
		m.err = fmt.Errorf("the guest's kernel panicked: %s", m.console.last())
	default:
		m.err = leftErr
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
	_ = m.process.Kill() // one that has ended is no error
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
