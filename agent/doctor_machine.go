package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm/cgroup"
)

// Thresholds of what a host should have.
const (
	goodMemoryMB = 2048
	goodDiskMB   = 10 << 10
)

// kvm looks for what KVM needs. Whether it works is [Machine.boot]'s to say.
func (m Machine) kvm() millrace.Finding {
	const check = "kvm"
	name := filepath.Join(m.Root, "dev/kvm")
	if !exists(name) {
		switch flags := m.cpu("flags"); {
		case slices.Contains(flags, "vmx"):
			return warn(check, "The processor has what KVM needs, but there is no /dev/kvm.", "Load the module; if that fails, switch virtualization (VT-x) on in the firmware.", "modprobe kvm_intel")
		case slices.Contains(flags, "svm"):
			return warn(check, "The processor has what KVM needs, but there is no /dev/kvm.", "Load the module; if that fails, switch virtualization (SVM) on in the firmware.", "modprobe kvm_amd")
		}
		return warn(check, "There is no /dev/kvm.", "Switch virtualization on in the firmware, or use a machine or cloud instance type that has it.", "")
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return warn(check, "/dev/kvm cannot be opened.", "Run the agent as root or as a member of the group kvm.", `usermod -aG kvm "$SUDO_USER"`)
	}
	_ = f.Close()
	if runtime.GOARCH == string(millrace.AMD64) && m.module() == "" {
		return warn(check, "/dev/kvm opens, but neither kvm_intel nor kvm_amd is loaded: it is another hypervisor's, and may boot no ordinary kernel.",
			"Use bare metal, or an instance type with nested virtualization.", "")
	}
	return fine(check, "/dev/kvm opens")
}

// module is KVM's module for the processor; "" when none is loaded.
func (m Machine) module() string {
	for _, name := range []string{"kvm_intel", "kvm_amd"} {
		if m.exists("sys/module/" + name) {
			return name
		}
	}
	return ""
}

// nested says whether jobs can start VMs of their own, as tests of kernels and Android's emulators do (kernel documentation,
// virt/kvm/x86/running-nested-guests). It is of amd64 alone.
func (m Machine) nested() millrace.Finding {
	const check = "nested virtualization"
	module := m.module()
	switch on := m.read("sys/module/" + module + "/parameters/nested"); {
	case module == "":
		return fine(check, "jobs can start no VMs of their own by KVM: this host's have none")
	case on == "Y" || on == "1":
		return fine(check, "jobs can start VMs of their own")
	}
	return warn(check, "Jobs can't start VMs of their own, as tests of kernels and Android's emulators do.", "Have "+module+" allow it, when no VM runs.",
		fmt.Sprintf("echo options %[1]s nested=1 >/etc/modprobe.d/millrace.conf && modprobe -r %[1]s && modprobe %[1]s", module))
}

func (m Machine) qemu() millrace.Finding {
	binary, pkg := "qemu-system-x86_64", "qemu-system-x86"
	if runtime.GOARCH == string(millrace.ARM64) {
		binary, pkg = "qemu-system-aarch64", "qemu-system-arm"
	}
	for _, name := range []string{binary, "qemu-img"} {
		if _, err := m.LookPath(name); err != nil {
			return fail("qemu", "There is no "+name+".", "Install it.", "apt-get install --no-install-recommends "+pkg+" qemu-utils")
		}
	}
	path, _ := m.LookPath(binary)
	return fine("qemu", "%s", path)
}

func (m Machine) guestKernel() millrace.Finding {
	for _, name := range []string{"vmlinux", "vmlinuz"} {
		if path := filepath.Join(m.GuestDir, name); exists(path) {
			return fine("guest kernel", "%s", path)
		}
	}
	return fail("guest kernel", "There is no kernel in "+m.GuestDir+".", "Run make deps in a checkout, or set MILLRACE_GUEST_DIR to where it is.", "make deps")
}

// kernel compares the host's with the oldest that has what the agent calls: pidfd_open(2) with PIDFD_NONBLOCK, since 5.10.
func (m Machine) kernel() millrace.Finding {
	const check, major, minor = "kernel", 5, 10
	release := m.read("proc/sys/kernel/osrelease")
	var has [2]int
	if n, _ := fmt.Sscanf(release, "%d.%d", &has[0], &has[1]); n != 2 {
		return warn(check, fmt.Sprintf("The kernel's release %q is not understood.", release), fmt.Sprintf("See that it is Linux %d.%d or later.", major, minor), "uname -r")
	}
	if slices.Compare(has[:], []int{major, minor}) < 0 {
		return fail(check, "Linux "+release, fmt.Sprintf("The agent needs Linux %d.%d or later.", major, minor), "apt-get update && apt-get -y full-upgrade && reboot")
	}
	return fine(check, "Linux %s", release)
}

// cgroups says whether VMs are held to their size. Without, a job takes what CPU its whole vCPUs get.
func (m Machine) cgroups() millrace.Finding {
	const check = "vm limits"
	err := m.Cgroups()
	if err == nil {
		return fine(check, "cgroups hold each VM to its part of CPU and memory")
	}
	do := &cgroup.Refusal{Do: "See the agent's log."}
	errors.As(err, &do)
	return warn(check, "VMs aren't held to their part of CPU and memory: "+err.Error()+".", do.Do, do.Command)
}

// What follows is about jobs that spy on each other, or on the host, through what they share: Firecracker's "Production host
// setup recommendations" say what to switch off.

func (m Machine) smt() millrace.Finding {
	if m.read("sys/devices/system/cpu/smt/active") != "1" {
		return fine("smt", "no two VMs share a core's threads")
	}
	return warn("smt", "Two VMs may share a core, whose threads can spy on each other.", "Switch multithreading off where jobs run that you don't trust; it halves the vCPUs.",
		"echo off >/sys/devices/system/cpu/smt/control")
}

func (m Machine) ksm() millrace.Finding {
	if run := m.read("sys/kernel/mm/ksm/run"); run != "1" {
		return fine("ksm", "VMs share no pages of memory")
	}
	return warn("ksm", "The kernel merges pages of memory that are the same, by which a VM can tell what another one has.", "Switch it off, and part what it has merged.",
		"echo 2 >/sys/kernel/mm/ksm/run")
}

// swap counts zram as memory, which it is.
func (m Machine) swap() millrace.Finding {
	var areas []string
	lines := strings.Split(m.read("proc/swaps"), "\n")
	for _, line := range lines[1:] {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "/dev/zram") {
			areas = append(areas, fields[0])
		}
	}
	if len(areas) == 0 {
		return fine("swap", "no VM's memory goes to a disk")
	}
	return warn("swap", "VMs' memory, with jobs' secrets, may go to "+strings.Join(areas, ", ")+", and a host that swaps is slow.", "Switch swap off, now and at the next boot.",
		`swapoff -a && sed -i '/\sswap\s/s/^/#/' /etc/fstab`)
}

// vulnerabilities are the processor's that the kernel does nothing against (kernel documentation, admin-guide/hw-vuln).
func (m Machine) vulnerabilities() millrace.Finding {
	const check, dir = "cpu vulnerabilities", "sys/devices/system/cpu/vulnerabilities"
	files, err := os.ReadDir(filepath.Join(m.Root, dir))
	if err != nil {
		return warn(check, "The kernel doesn't say which it does something against.", "See that /sys is mounted, and Linux is recent.", "ls /"+dir)
	}
	var open []string
	for _, f := range files {
		if strings.HasPrefix(m.read(filepath.Join(dir, f.Name())), "Vulnerable") {
			open = append(open, f.Name())
		}
	}
	if len(open) == 0 {
		return fine(check, "none of the %d that the kernel knows is open", len(files))
	}
	found := "A job could use these: " + strings.Join(open, ", ") + "."
	if slices.Contains(strings.Fields(m.read("proc/cmdline")), "mitigations=off") {
		return warn(check, found, "Take mitigations=off from the kernel's command line.", "sed -i 's/ *mitigations=off//' /etc/default/grub && update-grub && reboot")
	}
	microcode := map[string]string{"AuthenticAMD": " amd64-microcode", "GenuineIntel": " intel-microcode"}[strings.Join(m.cpu("vendor_id"), "")]
	return warn(check, found, "Bring kernel and microcode up to date; on a virtual machine that is its provider's to do.",
		"apt-get update && apt-get -y full-upgrade && apt-get -y install"+microcode+" && reboot")
}

// cpu are the words after a key of the first processor's part of /proc/cpuinfo.
func (m Machine) cpu(key string) []string {
	for line := range strings.Lines(m.read("proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.Fields(value)
		}
	}
	return nil
}

func (m Machine) memory() millrace.Finding {
	mb, err := memoryMB(filepath.Join(m.Root, "proc/meminfo"))
	switch found := fmt.Sprintf("%d MB", mb); {
	case err != nil:
		return fail("memory", err.Error(), "Mount /proc.", "mount -t proc proc /proc")
	case mb < goodMemoryMB:
		return warn("memory", found, fmt.Sprintf("Use a machine with %d MB or more.", goodMemoryMB), "")
	default:
		return fine("memory", "%s", found)
	}
}

// fileSystems are names for what statfs(2) has numbers for; cloning says that a disk's clone shares its blocks.
var fileSystems = map[int64]struct {
	name            string
	cloning, remote bool
}{
	unix.EXT4_SUPER_MAGIC:      {name: "ext4"},
	unix.XFS_SUPER_MAGIC:       {name: "XFS", cloning: true},
	unix.BTRFS_SUPER_MAGIC:     {name: "btrfs", cloning: true},
	unix.OVERLAYFS_SUPER_MAGIC: {name: "overlayfs"},
	unix.TMPFS_MAGIC:           {name: "tmpfs"},
	unix.NFS_SUPER_MAGIC:       {name: "NFS", remote: true},
	0x2fc12fc1:                 {name: "ZFS"}, // its own module's, zfs_super.c
}

// disk looks at the one that VMs live on: the space, the file system, and whether it spins.
func (m Machine) disk() millrace.Finding {
	const check = "disk"
	dir := m.Dir
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fail(check, err.Error(), "Make "+m.Dir+" a directory on a disk of this machine.", "")
	}
	_ = unix.Stat(dir, &st) // of no device nothing is known
	kind, ok := fileSystems[int64(fs.Type)]
	if !ok {
		kind.name = "a file system of type 0x" + strconv.FormatInt(int64(fs.Type), 16)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	found := fmt.Sprintf("%d MB free under %s, %s", free>>20, dir, kind.name)
	const vacuum = "journalctl --vacuum-size=200M && apt-get clean"
	switch {
	case nearlyFull(free, fs.Blocks*uint64(fs.Bsize)) != "":
		return fail(check, found, "Free some, or move the agent's --dir to a larger disk: a host whose disk is nearly full takes no job.", vacuum)
	case free>>20 < goodDiskMB:
		return warn(check, found, fmt.Sprintf("Free some, or move the agent's --dir to a disk with %d MB or more.", goodDiskMB), vacuum)
	case kind.remote:
		return warn(check, found, "Move the agent's --dir to a disk of this machine: jobs wait for each write.", "")
	case m.spins(uint64(st.Dev)):
		return warn(check, found+", on a disk that spins", "Move the agent's --dir to an SSD: jobs wait for each write.", "")
	case kind.cloning:
		return fine(check, "%s: a VM's disk shares what it doesn't change", found)
	default:
		return fine(check, "%s", found)
	}
}

// spins reports whether the kernel takes a device, or the disk that it is a part of, for one that spins. Of a hypervisor's own
// disks (vda, xvda) it takes that until told otherwise, and nothing tells it.
func (m Machine) spins(dev uint64) bool {
	at := fmt.Sprintf("sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
	link, err := filepath.EvalSymlinks(filepath.Join(m.Root, at))
	if name := filepath.Base(link); err != nil || strings.HasPrefix(name, "vd") || strings.HasPrefix(name, "xvd") {
		return false
	}
	for _, dir := range []string{link, filepath.Dir(link)} {
		if content, err := os.ReadFile(filepath.Join(dir, "queue/rotational")); err == nil {
			return strings.TrimSpace(string(content)) == "1"
		}
	}
	return false
}
