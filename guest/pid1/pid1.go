//go:build linux

// Package pid1 is the first process of a VM: it brings the machine up, tells the host that its kernel runs, starts the
// runner as an unprivileged user, meters what is used, and powers off when the runner ends. Nothing in it outlives the VM.
package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/guest"
)

// Main is the whole life of the VM. It doesn't return.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "millrace-init is PID 1 of a VM and nothing else")
		os.Exit(2)
	}
	mount("", needed)
	channel, err := openChannel()
	if err != nil {
		fmt.Println("millrace-init:", err)
		powerOff()
	}
	g := guest.NewGuest(channel)
	if err := g.Say(guest.Event{Hello: hello()}); err != nil {
		fmt.Println("millrace-init:", err)
		powerOff()
	}
	exit, err := live(g)
	if err != nil {
		exit = guest.Exit{Code: -1, Reason: err.Error()}
	}
	if err := g.Say(guest.Event{Exit: &exit}); err != nil { // returns when the host keeps it
		fmt.Println("millrace-init:", err)
	}
	powerOff()
}

func hello() *guest.Hello {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return &guest.Hello{Kernel: strings.TrimSpace(string(release)), BootID: strings.TrimSpace(string(boot))}
}

// live is everything between the first word and the last.
func live(g *guest.Guest) (guest.Exit, error) {
	configured := make(chan guest.Config, 1)
	failed := make(chan error, 1)
	go func() { // the host may be asking GitHub while the devices come up
		c, err := g.Config()
		if err != nil {
			failed <- err
			return
		}
		configured <- c
	}()
	if err := loadModules("/modules/late"); err != nil {
		return guest.Exit{}, err
	}
	if err := enterRoot(); err != nil {
		return guest.Exit{}, err
	}
	if err := configureNetwork(); err != nil {
		return guest.Exit{}, err
	}
	var config guest.Config
	select {
	case config = <-configured:
	case err := <-failed:
		return guest.Exit{}, fmt.Errorf("waiting for the configuration: %w", err)
	}
	if err := personalise(config); err != nil {
		return guest.Exit{}, err
	}
	return runRunner(g, config)
}

// powerOff ends the machine; the monitor, told not to reboot, ends with it. Devices aren't shut down first (sysrq b; Reboot is for
// kernels without it): Debian's 6.1 breaks virtio queues then, and a packet that is on its way has the network's driver wait for its
// end for ever.
func powerOff() {
	unix.Sync()
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1) // what was printed arrives
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for {
		time.Sleep(time.Hour) // PID 1 must not return
	}
}

// filesystem is one of the kernel's own.
type filesystem struct{ source, target, kind, data string }

// What the first word needs, and what the rest needs besides.
var (
	needed = []filesystem{{"proc", "/proc", "proc", ""}, {"sysfs", "/sys", "sysfs", ""}, {"dev", "/dev", "devtmpfs", ""}}
	useful = []filesystem{
		{"pts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666"}, {"shm", "/dev/shm", "tmpfs", "mode=1777"}, {"run", "/run", "tmpfs", "mode=0755"},
	}
)

// mount mounts file systems below root.
func mount(root string, list []filesystem) {
	for _, m := range list {
		_ = os.MkdirAll(root+m.target, 0o755)
		_ = unix.Mount(m.source, root+m.target, m.kind, unix.MS_NOSUID, m.data) // one that is missing shows where it is used
	}
}

// loadModules loads the modules in a folder, in the order of their names.
func loadModules(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// ChannelName is the name of the virtio-serial port that leads to the host.
const ChannelName = "millrace"

// openChannel loads what the channel needs, before everything else, and opens it.
func openChannel() (*os.File, error) {
	if err := loadModules("/modules/early"); err != nil {
		return nil, err
	}
	var path string
	err := wait("the channel to the host", func() bool {
		ports, _ := os.ReadDir("/sys/class/virtio-ports")
		for _, port := range ports {
			if content, err := os.ReadFile("/sys/class/virtio-ports/" + port.Name() + "/name"); err == nil && strings.TrimSpace(string(content)) == ChannelName {
				path = "/dev/" + port.Name()
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// wait polls for something that a driver makes in the background.
func wait(what string, there func() bool) error {
	for range 25_000 {
		if there() {
			return nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return fmt.Errorf("%s did not appear", what)
}

// enterRoot makes the root disk the root of all that follows.
func enterRoot() error {
	const disk, root = "/dev/vda", "/newroot"
	if err := wait("the root disk", func() bool { _, err := os.Stat(disk); return err == nil }); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(disk, root, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mounting the root disk: %w", err)
	}
	mount(root, needed)
	mount(root, useful)
	_ = os.Symlink("/proc/self/fd", root+"/dev/fd")
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}
