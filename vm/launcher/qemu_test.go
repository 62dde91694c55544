package launcher_test

import (
	"runtime"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm/launcher"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// A real VM that a launcher started outlives it: the next agent, by the next launcher, hears it say its first word again, and
// ends it.
func TestARealMachine(t *testing.T) {
	t.Parallel()
	dir, arch := t.TempDir(), millrace.Arch(runtime.GOARCH)
	programs, err := guest.Programs(arch)
	if err != nil {
		t.Fatal(err)
	}
	launch := func() (d *launcher.Driver, end func()) {
		t.Helper()
		real, err := qemu.New(qemu.Config{Dir: dir, Programs: programs, Accel: qemu.AccelTCG})
		if err != nil {
			t.Fatal(err)
		}
		path, ended := serve(t, dir, launcher.Config{Driver: real, Host: launcher.Host{Facts: millrace.HostFacts{Arch: arch, Offer: millrace.Size{MilliCPU: 1000, MemoryMB: 512}}}})
		d = dial(t, path)
		return d, func() {
			t.Helper()
			d.Close()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	}
	first, end := launch()
	if err := first.Prepare(t.Context()); err != nil || first.Name() != "qemu/tcg" {
		t.Fatal(first.Name(), err)
	}
	s := spec("one", 1000, 256)
	s.Arch = arch
	m := start(t, first, s)
	h := guest.NewHost(m.Channel())
	if err := h.Resume(0); err != nil {
		t.Fatal(err)
	}
	said, err := h.Next()
	if err != nil || said.Hello == nil {
		t.Fatalf("%+v, %v", said, err)
	}
	boot := said.Hello.BootID
	end()
	m.Channel().Close()

	second, end := launch()
	defer end()
	adopted, err := second.Adopt(t.Context(), []string{"one"})
	if err != nil || adopted["one"] == nil {
		t.Fatal(adopted, err)
	}
	t.Cleanup(adopted["one"].Kill)
	h = guest.NewHost(adopted["one"].Channel())
	if err := h.Resume(0); err != nil {
		t.Fatal(err)
	}
	if said, err = h.Next(); err != nil || said.Hello == nil || said.Hello.BootID != boot {
		t.Fatalf("%+v, %v", said, err)
	}
	adopted["one"].Kill()
	if err := ends(t, adopted["one"]); err == nil || err.Error() != "killed" {
		t.Errorf("it ended with %v", err)
	}
	s.ID = "../../etc"
	if _, err := second.Start(t.Context(), s); err == nil {
		t.Error("a machine beyond its directory")
	}
}
