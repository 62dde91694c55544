package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm"
)

// probeWithin is how long the real kernel may take to its first word under KVM, where it takes a tenth of it. On some
// machines /dev/kvm opens, a guest can be made, and its kernel hangs.
const probeWithin = 5 * time.Second

// probed is the result of a probe, kept for as long as what it depends on stays the same.
type probed struct {
	Guest, Host, QEMU string
	Works             bool
	Why               string
}

// probe decides between KVM and emulation by booting a guest.
func (d *Driver) probe(ctx context.Context) (Accel, string) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return AccelTCG, "no /dev/kvm that may be opened"
	}
	kvm.Close()
	var uts unix.Utsname
	_ = unix.Uname(&uts) // an empty release only makes the probe's result less lasting
	version, _ := os.ReadFile(filepath.Join(d.cfg.Guest, "version"))
	info, err := os.Stat(d.qemu)
	if err != nil {
		return AccelTCG, err.Error()
	}
	now := probed{Guest: strings.TrimSpace(string(version)), Host: unix.ByteSliceToString(uts.Release[:]), QEMU: info.ModTime().String()}
	file := filepath.Join(d.cfg.Dir, "kvm-probe.json")
	var kept probed
	if content, err := os.ReadFile(file); err == nil && json.Unmarshal(content, &kept) == nil &&
		kept.Guest == now.Guest && kept.Host == now.Host && kept.QEMU == now.QEMU {
		return kept.accel(), kept.Why + " (probed before)"
	}
	if err := d.bootProbe(ctx); err != nil {
		now.Why = "a guest did not boot under KVM: " + err.Error()
	} else {
		now.Works, now.Why = true, "a guest booted under KVM"
	}
	if ctx.Err() == nil {
		if content, err := json.Marshal(now); err == nil {
			_ = os.WriteFile(file, content, 0o600) // else it is probed again
		}
	}
	return now.accel(), now.Why
}

func (p probed) accel() Accel {
	if p.Works {
		return AccelKVM
	}
	return AccelTCG
}

// bootProbe boots the real kernel and initrd under KVM and waits for the guest's first byte.
func (d *Driver) bootProbe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	dir := filepath.Join(d.cfg.Dir, "vms", "probe")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	m, err := d.launch(AccelKVM, vm.Spec{VCPUs: 1, MemoryMB: 256}, "", disk{}, dir)
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
		return fmt.Errorf("it said nothing within %v", probeWithin)
	default:
		return m.Err()
	}
}
