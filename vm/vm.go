// Package vm is the machine seam: what an agent needs of a virtual machine monitor, whichever it is. Drivers live
// below it (vm/qemu; vm/fake for tests of everything else); they know machines, disks and networks, and nothing of
// jobs, GitHub or the control plane. What happens inside the guest is package guest's.
package vm

import (
	"context"
	"io"
	"time"

	"github.com/millrace-ci/millrace"
)

// Spec is a machine to start.
type Spec struct {
	ID        string // safe as a file name: letters, digits, '_' and '-'
	Arch      millrace.Arch
	VCPUs     int
	MilliCPU  int  // of them, what the machine has a claim to
	Burstable bool // it may use more while nobody else wants it
	MemoryMB  int
	Egress    millrace.Egress // what it may reach, at the most; "" is the internet
}

// Size is what the machine gets.
func (s Spec) Size() millrace.Size {
	return millrace.Size{MilliCPU: s.MilliCPU, MemoryMB: s.MemoryMB}
}

// Driver starts machines of one kind on this host. Machines outlive the process that started them: it may be killed at any
// moment, and the next one adopts them.
type Driver interface {
	// Name says which monitor and acceleration, e.g. "qemu/kvm", "qemu/tcg", "fake".
	Name() string
	// Adopt takes over those of the machines named ids that an earlier process started and that still run, by their IDs. All
	// else that it left is removed: other machines, disks, sockets. It is called before Start.
	Adopt(ctx context.Context, ids []string) (map[string]Machine, error)
	// Prepare makes everything that machines share (initrd, base disk), and finds out whether one can run: an error says
	// why not. It may be called again, and is quick when there is nothing to do.
	Prepare(ctx context.Context) error
	// Boot is what Prepare found out by booting a machine.
	Boot() Boot
	// Start clones the disk and boots. When ctx ends before it returns there is no machine; after that ctx means nothing.
	Start(ctx context.Context, spec Spec) (Machine, error)
}

// Boot is the trial of a driver.
type Boot struct {
	Took time.Duration // until the guest's first word; 0: none was booted
	Why  string        // why machines run the way that the driver's name says
}

// Machine is one running guest.
type Machine interface {
	// Channel is the byte stream to the guest's PID 1 (virtio-serial, vsock). To close it doesn't end the machine.
	Channel() io.ReadWriteCloser
	// Done is closed when the monitor's process is gone and disk and sockets are removed. Err says why after that: nil
	// when the guest powered off by itself, or when that can't be told from other ends of an adopted machine.
	Done() <-chan struct{}
	Err() error
	// Kill ends the machine at once. It returns without waiting; Done follows.
	Kill()
}
