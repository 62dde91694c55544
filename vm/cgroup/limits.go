package cgroup

import (
	"fmt"
	"strconv"
)

// Limits are a VM's. They count all that its monitor does: the guest's vCPUs, and emulation, disk and network for it.
type Limits struct {
	VCPUs     int
	MilliCPU  int  // of them, what it has a claim to; 0: all
	Burstable bool // it may use more of the CPU while nobody else wants it
	MemoryMB  int  // the guest's
	Emulated  bool // its processor is software
}

const (
	// period is that of a CPU quota, in microseconds: the kernel's own choice. A guest that used up its part stands still until the
	// next one begins.
	period = 100_000
	// leastEmulatedMilliCPU is what an emulated VM may have at the least: with less its kernel isn't up in the time that it has.
	leastEmulatedMilliCPU = 500
	// leastQuota is the kernel's, in microseconds.
	leastQuota = 1000

	// overheadMB is what a monitor takes besides its guest's memory: its program and buffers, and the cache of the VM's disk, which the
	// kernel gives back when it has to. Page tables take two of 8 bytes for each 4 kB of the guest's memory, a 256th; the limit has four
	// times that.
	overheadMB  = 256
	tablesShare = 64
	// EmulatorMB is the code that an emulator keeps, translated; QEMU takes it as tb-size, and 1 GB without.
	EmulatorMB = 256

	// threads are those that a monitor has besides one for each vCPU: QEMU's pool for disks has up to 64.
	threads = 128
)

// setting is what to write into a file of a cgroup.
type setting struct{ file, value string }

// settings are the limits as the kernel has them.
func (l Limits) settings() []setting {
	milli := l.MilliCPU
	if milli == 0 {
		milli = l.VCPUs * 1000
	}
	// By weight VMs share a CPU that all want; 100 is a whole vCPU's, and this process's.
	weight := min(max(milli/10, 1), 10_000)
	list := []setting{
		{"memory.max", strconv.Itoa(l.MaxMemoryMB() << 20)},
		{"memory.swap.max", "0"},
		{"pids.max", strconv.Itoa(l.VCPUs + threads)},
		{"cpu.weight", strconv.Itoa(weight)},
	}
	if l.Burstable {
		return append(list, setting{"cpu.max", fmt.Sprintf("max %d", period)})
	}
	if l.Emulated {
		milli = max(milli, leastEmulatedMilliCPU)
	}
	return append(list, setting{"cpu.max", fmt.Sprintf("%d %d", max(milli*period/1000, leastQuota), period)})
}

// MaxMemoryMB is the memory that a VM's monitor may have, the guest's included.
func (l Limits) MaxMemoryMB() int {
	mb := l.MemoryMB + overheadMB + l.MemoryMB/tablesShare
	if l.Emulated {
		mb += EmulatorMB
	}
	return mb
}
