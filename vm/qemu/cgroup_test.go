package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/millrace-ci/millrace/vm"
)

// Package cgroup's TestKernel runs as PID 1 of a VM: the machine that tests run on may have no cgroup v2 to divide, a VM's kernel
// does.
func TestCgroupsByARealKernel(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "cgroup.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "../cgroup")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	test, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Dir: t.TempDir(), Programs: fstest.MapFS{"millrace-init": {Data: []byte("none")}}, Accel: AccelTCG})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.cfg.Dir, "vms", "kernel")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d.initrd = filepath.Join(d.cfg.Dir, "initrd")
	if err := d.buildInitrd(d.initrd, cpio.StaticFile("cgroup.test", string(test), 0o755)); err != nil {
		t.Fatal(err)
	}
	m, err := d.launch(AccelTCG, vm.Spec{ID: "kernel", VCPUs: 1, MemoryMB: 768}, "rdinit=/cgroup.test", disk{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(2*time.Minute, m.Kill).Stop()
	<-m.Done()
	m.channel.Close()
	printed := string(m.console.buf)
	if m.Err() != nil || !strings.Contains(printed, "--- PASS: TestKernel") || !strings.Contains(printed, "Tests ended with 0.") {
		t.Errorf("%v\n%s", m.Err(), printed)
	}
	t.Log(printed)
}
