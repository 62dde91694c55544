package qemu

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/millrace-ci/millrace/vm"
)

// BenchmarkBoot times, in turns, a machine's start until millrace-init has spoken, and the floor under it: the same
// kernel, initrd and machine with an init that only powers off, until QEMU has ended. It reports both medians in ms.
func BenchmarkBoot(b *testing.B) {
	programs := os.DirFS("../../guest/bin/amd64") // as package guest embeds them
	d, err := New(Config{Dir: b.TempDir(), Programs: programs, Accel: AccelAuto})
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	d.initrd = filepath.Join(d.cfg.Dir, "initrd-with-floor")
	if err := d.buildInitrd(d.initrd, cpio.StaticFile("floor", string(powersOff()), 0o755)); err != nil {
		b.Fatal(err)
	}
	start := func(args string, id string) *machine {
		dir := filepath.Join(d.cfg.Dir, "vms", id)
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		clone, err := cloneDisk(b.Context(), d.disk, filepath.Join(dir, "root"))
		if err != nil {
			b.Fatal(err)
		}
		m, err := d.launch(d.accel, vm.Spec{ID: id, VCPUs: 1, MemoryMB: 256}, args, clone, dir)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	var hello, floor []time.Duration
	timeFloor := func() {
		began := time.Now()
		m := start("rdinit=/floor", "floor")
		<-m.Done()
		floor = append(floor, time.Since(began))
		m.channel.Close()
		if m.Err() != nil {
			b.Fatal(m.Err())
		}
	}
	timeHello := func() {
		began := time.Now()
		m := start("", "hello")
		first := make([]byte, 1)
		if _, err := m.channel.Read(first); err != nil {
			b.Fatalf("the guest said nothing: %v: %s", err, m.console.last())
		}
		hello = append(hello, time.Since(began))
		m.Kill()
		m.channel.Close()
		<-m.Done()
	}
	for b.Loop() {
		if len(floor)%2 == 0 { // neither always has the machine as the other left it
			timeFloor()
			timeHello()
		} else {
			timeHello()
			timeFloor()
		}
	}
	median := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[len(list)/2].Microseconds()) / 1000
	}
	b.ReportMetric(median(hello), "hello-ms")
	b.ReportMetric(median(floor), "floor-ms")
	b.ReportMetric(median(hello)/median(floor), "ratio")
}

// powersOff is a program that only powers off, as small as an ELF file can plainly be: reboot(2) with RESTART, which ends
// QEMU under -no-reboot.
func powersOff() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xb8, 169, 0, 0, 0, // mov eax, SYS_reboot
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
		0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, LINUX_REBOOT_CMD_RESTART
		0x0f, 0x05, // syscall
		0xeb, 0xfe, // jmp $
	}
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v) //nolint:errcheck // a buffer takes everything
		}
	}
	size := uint64(headers + len(code))
	// The ELF header and its one program header (elf(5)).
	put([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint16(2), uint16(62), uint32(1), uint64(base+headers), uint64(64), uint64(0),
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000))
	b.Write(code)
	return b.Bytes()
}
