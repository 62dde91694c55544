// Package qemu runs machines with QEMU's smallest boards (amd64: microvm, arm64: virt): KVM where it really boots a guest,
// QEMU's own emulation (TCG) elsewhere, which is slower and the same in every other way. Machines of another architecture
// than the host's are always emulated.
//
// A machine boots a kernel with an initrd that holds millrace-init and the modules it needs, on a copy-on-write clone of
// one root disk. A virtio-serial port is the channel to the guest.
//
// QEMU outlives the process that started it, and depends on it for nothing: it has a session of its own, prints into a named
// pipe that it holds itself, and serves the channel on a socket. All of that is in the machine's folder, in which it works.
//
// A machine has its vCPUs and memory by QEMU, which knows only whole vCPUs, and is held to its size by a cgroup of package
// vm/cgroup where the agent may make such.
//
// Its network is a tap of package vm/network, where the agent may make such. Elsewhere it is QEMU's user-mode one: each
// guest is alone on it and reaches out through its host's address, its host's services and networks included. QEMU can't
// close those alone: restrict=on closes the internet as well, and what libslirp has for it (disable_host_loopback) is none
// of the options (NetdevUserOptions of qapi/net.json). It can go without IPv6, which leaves one way less.
package qemu

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/network"
)

// Accel is how guest code is run.
type Accel string

// The ways: AccelAuto probes.
const (
	AccelAuto Accel = "auto"
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// Config is what a driver needs.
type Config struct {
	Dir   string        // state of machines, and what they share
	Arch  millrace.Arch // of the machines; "" is this host's
	Guest string        // kernel, modules and busybox, as scripts/guest.sh lays them out; "" is DefaultGuest
	// Programs has millrace-init, which is PID 1, and testrunner, which runs a job. They are read when images are made: kept, they
	// would be a third of what an agent holds.
	Programs fs.FS
	Accel    Accel
	Trial    bool             // have [Driver.Prepare] boot a machine where it needn't find out whether KVM works, too
	Network  *network.Network // nil: QEMU's user mode
	Cgroups  *cgroup.Tree     // nil: only QEMU limits machines
	Log      *slog.Logger
}

// installedGuests is where install.sh puts kernels of guests.
const installedGuests = "/usr/local/lib/millrace/guest"

// DefaultGuest is where the kernel of guests of an architecture is: below $MILLRACE_GUEST_DIR; else where make deps puts it, below
// the user's cache directory; else, if there is none, where install.sh does.
func DefaultGuest(arch millrace.Arch) string {
	cache := ""
	if dir, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(dir, "millrace", "guest")
	}
	return defaultGuest(os.Getenv("MILLRACE_GUEST_DIR"), cache, installedGuests, arch)
}

// defaultGuest chooses among directories, of which named and cache may be "".
func defaultGuest(named, cache, installed string, arch millrace.Arch) string {
	has := func(dir string) bool { return isFile(filepath.Join(dir, string(arch), "complete")) }
	base := cmp.Or(named, cache, installed)
	if named == "" && !has(base) && has(installed) {
		base = installed
	}
	return filepath.Join(base, string(arch))
}

// Driver starts machines. It is a [vm.Driver].
type Driver struct {
	cfg   Config
	board board
	qemu  string // path of the monitor
	kvm   string // the device

	mu     sync.RWMutex // what Prepare finds is not to change under a start
	accel  Accel
	probed bool // accel is what works
	hadKVM bool // when that was found out
	boot   vm.Boot
	initrd string
	disk   string
}

var _ vm.Driver = (*Driver)(nil)

// New makes a driver. The error says what is missing on this machine and what to do.
func New(cfg Config) (*Driver, error) {
	if cfg.Arch == "" {
		cfg.Arch = hostArch
	}
	if cfg.Guest == "" {
		cfg.Guest = DefaultGuest(cfg.Arch)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	board, ok := boards[cfg.Arch]
	if !ok {
		return nil, fmt.Errorf("there are no machines of the architecture %q", cfg.Arch)
	}
	if cfg.Arch != hostArch {
		if cfg.Accel == AccelKVM {
			return nil, fmt.Errorf("%s machines can only be emulated on this %s host", cfg.Arch, hostArch)
		}
		cfg.Accel = AccelTCG
	}
	path, err := exec.LookPath(board.qemu)
	if err != nil {
		return nil, fmt.Errorf("no %s on this machine; install %s, or run make deps", board.qemu, board.pkg)
	}
	for _, tool := range []string{"qemu-img", "mke2fs"} {
		if _, err := lookTool(tool); err != nil {
			return nil, fmt.Errorf("no %s on this machine; install qemu-utils and e2fsprogs, or run make deps", tool)
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Guest, "complete")); err != nil {
		return nil, fmt.Errorf("no guest kernel in %s; run make deps, or, on a host, install.sh again", cfg.Guest)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	return &Driver{cfg: cfg, board: board, qemu: path, kvm: kvmDevice, accel: cfg.Accel}, nil
}

// hostArch is this host's architecture.
const hostArch = millrace.Arch(runtime.GOARCH)

// lookTool finds a program that may be root's alone.
func lookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if path := filepath.Join(dir, name); isFile(path) {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Name says the monitor and the acceleration; before [Driver.Prepare] it says "auto" where it probes.
func (d *Driver) Name() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return "qemu/" + string(d.accel)
}

// Arch is the architecture of the machines.
func (d *Driver) Arch() millrace.Arch { return d.cfg.Arch }

// Boot is what [Driver.Prepare] found out last, now or when it last had to.
func (d *Driver) Boot() vm.Boot {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.boot
}

// Prepare makes the initrd and the root disk when they are missing or stale, and finds out by booting a machine whether KVM
// works where it is to be used: once, and again when KVM has gone or come.
func (d *Driver) Prepare(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(filepath.Join(d.cfg.Dir, "vms"), 0o700); err != nil {
		return err
	}
	if err := d.build(ctx); err != nil {
		return err
	}
	if d.probed && d.hadKVM == d.opensKVM() || d.cfg.Accel == AccelTCG && !d.cfg.Trial {
		return ctx.Err()
	}
	works, err := d.probe(ctx)
	if err != nil {
		return err
	}
	d.accel, d.probed, d.hadKVM, d.boot = works.Accel, true, works.Of.KVM, vm.Boot{Took: time.Duration(works.BootMS) * time.Millisecond, Why: works.Why}
	d.cfg.Log.Info("chose how VMs run", "accel", d.accel, "because", d.boot.Why, "boot", d.boot.Took)
	return nil
}

// commandLine is QEMU's for a machine.
func (d *Driver) commandLine(accel Accel, spec vm.Spec, kernelArgs string, disk disk, link *network.Link) []string {
	cpu, kernel := "host", d.board.kernel+" quiet panic=-1 random.trust_cpu=on "+kernelArgs
	netdev, nic := "user,id=net,ipv6=off", "virtio-net-device,netdev=net"
	if link != nil {
		kernel += " " + link.KernelArgs()
		netdev, nic = "tap,id=net,fd=4", nic+",mac="+link.MAC.String()
	}
	acceleration := string(accel)
	if accel == AccelTCG {
		acceleration += ",tb-size=" + strconv.Itoa(cgroup.EmulatorMB)
		cpu, kernel = d.board.emulatedCPU, kernel+" "+d.board.emulatedKernel
	}
	args := []string{
		"-M", d.board.machine, "-accel", acceleration, "-cpu", cpu, "-smp", strconv.Itoa(spec.VCPUs), "-m", strconv.Itoa(spec.MemoryMB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-kernel", filepath.Join(d.cfg.Guest, "vmlinuz"), "-initrd", d.initrd, "-append", strings.TrimSpace(kernel),
		"-chardev", "socket,id=channel,fd=3,server=on,wait=off", "-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=channel,name=millrace",
	}
	if disk.path != "" {
		args = append(args,
			"-drive", "if=none,id=root,cache=unsafe,discard=unmap,format="+disk.format+",file="+escape(disk.path), "-device", "virtio-blk-device,drive=root",
			"-netdev", netdev, "-device", nic)
	}
	return args
}

// escape doubles the commas of a value, as QEMU's option syntax wants.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
