package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
)

// Offer is what the host's owner gives of it. It is kept on the host: the control plane can't raise it.
type Offer struct {
	Labels          []string
	Emulates        []millrace.Arch // architectures of VMs beside the machine's own
	CPUOvercommit   float64         // vCPUs sold for each one there is; 0 is 1
	MemoryReserveMB int             // kept for the host itself and what runs its VMs; 0: by their number, see [Offer.reserveMB]
	MaxVMs          int             // at once; 0: as many as fit
}

const (
	// hostMB is for the host's own programs, Millrace's among them.
	hostMB = 512
	// monitorMB is what a VM's monitor takes beside its guest: QEMU 7.2 was seen to take 44 to 53 MB, beside what it translates when it
	// emulates.
	monitorMB = 64
	// tablesShare is the part of a guest's memory that its page tables take: two of 8 bytes for each 4 kB.
	tablesShare = 256
	// leastMB is the least that is worth offering.
	leastMB = 128
)

// Facts are those of this machine, with dir on the disk that VMs live on, offered as o says. The driver's name is added
// by [Run], which knows it.
func Facts(dir string, o Offer) (millrace.HostFacts, error) {
	mem, err := memoryMB("/proc/meminfo")
	if err != nil {
		return millrace.HostFacts{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return millrace.HostFacts{}, fmt.Errorf("the disk under %s: %w", dir, err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return millrace.HostFacts{}, fmt.Errorf("the kernel's name: %w", err)
	}
	f := millrace.HostFacts{
		Arch:     millrace.Arch(runtime.GOARCH),
		Emulates: o.Emulates,
		VCPUs:    runtime.NumCPU(),
		MemoryMB: mem,
		DiskMB:   int(fs.Bavail * uint64(fs.Bsize) >> 20),
		Labels:   append([]string{}, o.Labels...),
		Version:  Version(),
		Kernel:   unix.ByteSliceToString(uts.Release[:]),
		CPUModel: cpuModel("/proc/cpuinfo"),
	}
	for _, arch := range o.Emulates {
		if arch == f.Arch || arch != millrace.AMD64 && arch != millrace.ARM64 {
			return f, millrace.Errorf(millrace.Invalid, "A machine that is %s emulates amd64 or arm64, whichever it isn't, and not %q.", f.Arch, arch)
		}
	}
	f.Emulates = slices.Compact(slices.Sorted(slices.Values(f.Emulates)))
	if o.MaxVMs < 0 || o.MaxVMs > millrace.MaxHostVMs {
		return f, millrace.Errorf(millrace.Invalid, "A machine runs 1 to %d VMs at once, or with 0 as many as fit; not %d.", millrace.MaxHostVMs, o.MaxVMs)
	}
	f.MaxVMs = o.MaxVMs
	f.Offer, err = o.of(f)
	return f, err
}

// of is the part of a machine with facts f that o offers.
func (o Offer) of(f millrace.HostFacts) (millrace.Size, error) {
	if o.CPUOvercommit == 0 {
		o.CPUOvercommit = 1
	}
	size := millrace.Size{MilliCPU: int(float64(f.VCPUs) * 1000 * o.CPUOvercommit)}
	switch {
	case o.MemoryReserveMB < 0:
		return millrace.Size{}, millrace.Errorf(millrace.Invalid, "The memory to keep for the host is 0 or more MB, not %d.", o.MemoryReserveMB)
	case o.MemoryReserveMB == 0:
		o.MemoryReserveMB = o.reserveMB(size.MilliCPU, f.MemoryMB)
	}
	size.MemoryMB = f.MemoryMB - o.MemoryReserveMB
	if o.CPUOvercommit < 0.1 || o.CPUOvercommit > 64 || size.MemoryMB < leastMB {
		return millrace.Size{}, millrace.Errorf(millrace.Invalid,
			"Of %d vCPUs and %d MB, a CPU over-commit of %g (0.1 to 64) and a reserve of %d MB leave nothing to offer.",
			f.VCPUs, f.MemoryMB, o.CPUOvercommit, o.MemoryReserveMB)
	}
	return size, nil
}

// reserveMB is what a machine with memoryMB of memory keeps for itself where its owner doesn't say. Guests use all that they were
// given, for their caches if for nothing else: what their monitors take beside it must be left, or the kernel ends VMs. How many
// there will be is not known; counted are those that have a vCPU and 1 GB each.
func (o Offer) reserveMB(milliCPU, memoryMB int) int {
	vms := min(milliCPU/1000, memoryMB/1024)
	if o.MaxVMs > 0 {
		vms = min(vms, o.MaxVMs)
	}
	return hostMB + vms*monitorMB + memoryMB/tablesShare
}

// Version is this program's, as the build recorded it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

// bootID names this boot of the machine: random(4). "" where the kernel gives none.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// memoryMB is MemTotal of a file like /proc/meminfo (proc_meminfo(5)).
func memoryMB(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kb, err := strconv.Atoi(fields[1])
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no MemTotal", file)
}

// cpuModel is the first processor's name; "" where the kernel gives none, as on many arm64 machines.
func cpuModel(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
