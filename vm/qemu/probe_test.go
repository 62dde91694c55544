package qemu

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// probing is a driver in dir, on a machine whose KVM is the file kvm.
func probing(t *testing.T, dir, kvm string, accel Accel) *Driver {
	t.Helper()
	d, err := New(Config{Dir: dir, Programs: os.DirFS("../../guest/bin/" + runtime.GOARCH), Accel: accel}) // as package guest embeds them
	if err != nil {
		t.Fatal(err)
	}
	d.kvm = kvm
	return d
}

// device makes a file that opens as KVM does, and can do nothing.
func device(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// foundKVM has an earlier process of d's have found KVM to work; change says what was different then.
func foundKVM(t *testing.T, d *Driver, change func(*probedOf)) {
	t.Helper()
	of, err := d.dependsOn()
	if err != nil {
		t.Fatal(err)
	}
	change(&of)
	content, err := json.Marshal(probed{Of: of, Accel: AccelKVM, Why: "a guest booted under KVM"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.cfg.Dir, "probe.json"), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Emulation is kept only until the machine has a KVM to try.
func TestProbeSeesKVMCome(t *testing.T) {
	t.Parallel()
	dir, kvm := t.TempDir(), filepath.Join(t.TempDir(), "kvm")
	prepare := func(d *Driver) (why string) {
		t.Helper()
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		return d.Boot().Why
	}
	if why := prepare(probing(t, dir, kvm, AccelAuto)); !strings.Contains(why, "no /dev/kvm") || strings.Contains(why, "before") {
		t.Errorf("without: %s", why)
	}
	running := probing(t, dir, kvm, AccelAuto)
	if why := prepare(running); !strings.Contains(why, "no /dev/kvm") || !strings.Contains(why, "probed before") {
		t.Errorf("again: %s", why)
	}
	device(t, kvm)
	for name, d := range map[string]*Driver{"the same process": running, "the next": probing(t, dir, kvm, AccelAuto)} {
		if why := prepare(d); !strings.Contains(why, "guest") { // booted under KVM, or didn't: it was tried
			t.Errorf("KVM has come, %s: %s", name, why)
		}
	}
}

// KVM that worked is relied on only while it is there.
func TestProbeSeesKVMGo(t *testing.T) {
	t.Parallel()
	for accel, refuses := range map[Accel]string{AccelAuto: "", AccelKVM: "KVM does not work here"} {
		t.Run(string(accel), func(t *testing.T) {
			t.Parallel()
			kvm := filepath.Join(t.TempDir(), "kvm")
			device(t, kvm)
			d := probing(t, t.TempDir(), kvm, accel)
			foundKVM(t, d, func(*probedOf) {})
			if err := d.Prepare(t.Context()); err != nil || d.Name() != "qemu/kvm" || !strings.Contains(d.Boot().Why, "probed before") {
				t.Fatalf("%v, %s, %+v", err, d.Name(), d.Boot())
			}
			if err := os.Remove(kvm); err != nil {
				t.Fatal(err)
			}
			for name, d := range map[string]*Driver{"the same process": d, "the next": probing(t, d.cfg.Dir, kvm, accel)} {
				switch err := d.Prepare(t.Context()); {
				case refuses == "" && (err != nil || d.Name() != "qemu/tcg"):
					t.Errorf("%s: %v, %s", name, err, d.Name())
				case refuses != "" && (err == nil || !strings.Contains(err.Error(), refuses)):
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// What another boot of the machine found says nothing of this one.
func TestProbeOfAnotherBoot(t *testing.T) {
	t.Parallel()
	kvm := filepath.Join(t.TempDir(), "kvm")
	device(t, kvm)
	d := probing(t, t.TempDir(), kvm, AccelAuto)
	foundKVM(t, d, func(of *probedOf) {
		if of.Boot == "" {
			t.Error("a probe doesn't know this boot of the machine")
		}
		of.Boot = "another"
	})
	if err := d.Prepare(t.Context()); err != nil || strings.Contains(d.Boot().Why, "before") {
		t.Errorf("%v, %+v", err, d.Boot())
	}
}
