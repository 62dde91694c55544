package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/network"
)

// Adopt takes over the machines named ids that still run, and removes all else that earlier processes left.
func (d *Driver) Adopt(ctx context.Context, ids []string) (map[string]vm.Machine, error) {
	vms := filepath.Join(d.cfg.Dir, "vms")
	if err := os.MkdirAll(vms, 0o700); err != nil {
		return nil, err
	}
	found, err := processes(vms)
	if err != nil {
		return nil, err
	}
	adopted := map[string]vm.Machine{}
	for _, p := range found {
		id := filepath.Base(p.dir)
		var link *network.Link
		if d.cfg.Network != nil {
			link = d.cfg.Network.Adopt(id)
		}
		if slices.Contains(ids, id) && adopted[id] == nil {
			m, err := d.attach(p.dir, p, link, d.confine(p))
			if err == nil {
				d.cfg.Log.Info("took over a VM that an earlier process started", "dir", p.dir, "pid", p.pid)
				adopted[id] = m
				continue
			}
			d.cfg.Log.Error("a VM that an earlier process started can't be taken over", "dir", p.dir, "pid", p.pid, "error", err)
		}
		d.cfg.Log.Warn("killing a VM that an earlier process left", "dir", p.dir, "pid", p.pid)
		if err := p.Kill(); err != nil {
			return nil, fmt.Errorf("killing process %d, which works in %s: %w", p.pid, p.dir, err)
		}
		if err := p.Wait(); err != nil {
			return nil, err
		}
		if adopted[id] == nil {
			if err := d.detach(link); err != nil {
				return nil, err
			}
		}
	}
	d.cfg.Cgroups.Sweep()
	dirs, err := filepath.Glob(filepath.Join(vms, "*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if !slices.Contains(slices.Collect(maps.Keys(adopted)), filepath.Base(dir)) {
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
		}
	}
	return adopted, ctx.Err()
}

// StopAll ends the machines of drivers whose state was in dir and removes what they left. It takes nothing that machines are made of:
// what is to be stopped may have been started with what isn't there any more.
func StopAll(ctx context.Context, dir string, log *slog.Logger) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	_, err = (&Driver{cfg: Config{Dir: dir, Log: log}}).Adopt(ctx, nil)
	return err
}

// confine gives a machine that runs its limits anew: its process may have been started by an agent without, and systemd takes them
// away when an agent is started again. A machine that can't have them runs on: it has a job.
func (d *Driver) confine(p *stranger) *cgroup.Group {
	if d.cfg.Cgroups == nil {
		return nil
	}
	var limits cgroup.Limits
	kept, err := os.ReadFile(filepath.Join(p.dir, limitsFile))
	if err == nil {
		err = json.Unmarshal(kept, &limits)
	}
	var group *cgroup.Group
	if err == nil {
		group, err = d.cfg.Cgroups.Make(filepath.Base(p.dir), limits)
	}
	if err == nil {
		err = group.Put(p.pid)
	}
	if err != nil {
		d.cfg.Log.Warn("a VM that an earlier process started is without limits", "dir", p.dir, "pid", p.pid, "error", err)
	}
	return group
}

// stranger is a QEMU process that isn't our child.
type stranger struct {
	pid   int
	dir   string
	pidfd *os.File
}

// processes are the QEMU processes that work in folders of vms. They are known by what they are and where they work and not
// by numbers that were written down: such a number may be another process's by now, and who was killed while it started a
// machine wrote none.
func processes(vms string) (found []*stranger, err error) {
	if vms, err = filepath.EvalSymlinks(vms); err != nil { // as the kernel names it
		return nil, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	works := func(proc string) (dir string) {
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd")) // others' can't be read, and are none of ours
		if filepath.Dir(cwd) != vms || !strings.HasPrefix(filepath.Base(exe), "qemu-system-") {
			return ""
		}
		return cwd
	}
	for _, proc := range procs {
		if works(proc) == "" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			continue // it has ended
		}
		p := &stranger{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
		if p.dir = works(proc); p.dir == "" { // only now is the number sure to stay this process's
			p.pidfd.Close()
			continue
		}
		found = append(found, p)
	}
	return found, nil
}

// Kill kills the process and no other, whatever its number is used for by now.
func (p *stranger) Kill() error {
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
	if err == unix.ESRCH {
		return nil
	}
	return err
}

// Wait waits for its end. How it ended only its parent is told.
func (p *stranger) Wait() error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) (ended bool) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
}

// within is the path of name in dir that is short enough for a socket, whose name may have 107 bytes. It holds until done is
// called.
func within(dir, name string) (path string, done func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name), func() { f.Close() }, nil
}

// listen makes the socket name in dir, for QEMU to serve.
func listen(dir, name string) (*os.File, error) {
	path, done, err := within(dir, name)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}

// dial connects to the socket name in dir.
func dial(dir, name string) (net.Conn, error) {
	path, done, err := within(dir, name)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.DialTimeout("unix", path, 10*time.Second)
}
