package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm"
)

// How long the real kernel may take to its first word: under KVM it takes a tenth of it. On some machines /dev/kvm opens, a
// guest can be made, and its kernel hangs.
var probeWithin = map[Accel]time.Duration{AccelKVM: 5 * time.Second, AccelTCG: time.Minute}

// probed is what a probe found, kept for as long as what it depends on stays the same.
type probed struct {
	Of     probedOf
	Accel  Accel
	Why    string
	BootMS int64 // how long the machine took that booted; 0: none had to
}

// probedOf is what a probe depends on.
type probedOf struct {
	Guest, Host, QEMU string
	Boot              string // of the host: with another, its firmware or its modules may be others
	KVM               bool   // its device may be opened, and is to be used if it works
	Wanted            Accel
	Trial             bool
}

// kvmDevice is where the kernel has KVM.
const kvmDevice = "/dev/kvm"

// opensKVM reports whether KVM may be opened where it is not ruled out. That can change while this process runs.
func (d *Driver) opensKVM() bool {
	if d.cfg.Accel == AccelTCG {
		return false
	}
	kvm, err := os.OpenFile(d.kvm, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	kvm.Close()
	return true
}

// dependsOn is what a probe would depend on now.
func (d *Driver) dependsOn() (of probedOf, err error) {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // an empty release only makes the probe's result less lasting
	version, _ := os.ReadFile(filepath.Join(d.cfg.Guest, "version"))
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
	info, err := os.Stat(d.qemu)
	if err != nil {
		return of, err
	}
	return probedOf{
		Guest: strings.TrimSpace(string(version)), Host: unix.ByteSliceToString(uts.Release[:]), QEMU: info.ModTime().String(),
		Boot: strings.TrimSpace(string(boot)), KVM: d.opensKVM(), Wanted: d.cfg.Accel, Trial: d.cfg.Trial,
	}, nil
}

// probe finds out by booting a machine how machines run: with KVM where that works and is not ruled out, else emulated where
// that is not. The error says why neither will do.
func (d *Driver) probe(ctx context.Context) (found probed, err error) {
	if found.Of, err = d.dependsOn(); err != nil {
		return found, err
	}
	file := filepath.Join(d.cfg.Dir, "probe.json")
	var kept probed
	if content, err := os.ReadFile(file); err == nil && json.Unmarshal(content, &kept) == nil && kept.Of == found.Of {
		kept.Why += " (probed before)"
		return kept, nil
	}
	if d.cfg.Accel != AccelTCG {
		found.Accel = AccelKVM
		if found.Why = d.try(ctx, &found); found.Why == "" {
			found.Why = "a guest booted under KVM"
		} else if d.cfg.Accel == AccelKVM {
			return found, fmt.Errorf("KVM does not work here (%s); --driver auto would emulate, which is slow", found.Why)
		} else {
			found.Accel = AccelTCG
		}
	} else {
		found.Accel, found.Why = AccelTCG, "it is to be emulated"
	}
	if found.Accel == AccelTCG && d.cfg.Trial {
		if why := d.try(ctx, &found); why != "" {
			return found, errors.New(why)
		}
	}
	if err := ctx.Err(); err != nil {
		return found, err
	}
	if content, err := json.Marshal(found); err == nil {
		_ = os.WriteFile(file, content, 0o600) // else it is probed again
	}
	return found, nil
}

// try boots a machine the way found says, and notes how long it took; it says why that won't do, or "".
func (d *Driver) try(ctx context.Context, found *probed) string {
	if found.Accel == AccelKVM && !found.Of.KVM {
		return "no " + kvmDevice + " that may be opened"
	}
	began := time.Now()
	if err := d.bootProbe(ctx, found.Accel); err != nil {
		return fmt.Sprintf("a guest did not boot under %s: %v", strings.ToUpper(string(found.Accel)), err)
	}
	found.BootMS = max(1, time.Since(began).Milliseconds())
	return ""
}

// bootProbe boots the real kernel and initrd and waits for the guest's first byte.
func (d *Driver) bootProbe(ctx context.Context, accel Accel) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin[accel])
	defer cancel()
	dir := filepath.Join(d.cfg.Dir, "vms", "probe")
	if err := os.RemoveAll(dir); err != nil { // a killed process's
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	m, err := d.launch(accel, vm.Spec{ID: "probe", VCPUs: 1, MemoryMB: 256}, "", disk{}, dir)
	if err != nil {
		os.RemoveAll(dir)
		return err
	}
	defer context.AfterFunc(ctx, m.Kill)()
	var first [1]byte
	_, readErr := m.channel.Read(first[:])
	if readErr == nil {
		m.Kill()
	}
	m.channel.Close()
	<-m.done // the guest spoke, QEMU ended by itself, or the time is over
	switch {
	case readErr == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("it said nothing within %v", probeWithin[accel])
	default:
		return m.Err()
	}
}
