package qemu

import "github.com/millrace-ci/millrace"

// board is how machines of an architecture are made. Research on such machines found what isn't plain (100 boots each).
type board struct {
	qemu, pkg string // QEMU's program, and Debian's package that has it
	machine   string // -M
	kernel    string // arguments

	// What emulation needs besides; KVM passes the host's processor through.
	emulatedCPU, emulatedKernel string
}

var boards = map[millrace.Arch]board{
	millrace.AMD64: {
		qemu: "qemu-system-x86_64", pkg: "qemu-system-x86",
		machine: "microvm,pit=off,pic=off", // with ACPI and a legacy timer some QEMU versions hang right after interrupts are on
		kernel:  "console=ttyS0 reboot=t",
		// QEMU 7.2 emulates cmpxchg16b wrongly: one boot in ten panics.
		emulatedCPU: "max,-cx16",
		// Emulated time is too jittery to calibrate against: a busy host would hang the boot.
		emulatedKernel: "tsc_early_khz=2600000 tsc=reliable lpj=26000000 no_timer_check",
	},
	millrace.ARM64: {
		qemu: "qemu-system-aarch64", pkg: "qemu-system-arm",
		machine: "virt,gic-version=max", // the default, version 2, ends at 8 vCPUs and is missing under KVM on many machines
		kernel:  "console=ttyAMA0",
		// Pointers are authenticated on each call and return: to emulate that makes a boot take 15 s instead of 2.
		emulatedCPU: "max,pauth=off",
	},
}
