package cgroup_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm/cgroup"
)

// TestMain is also PID 1 of a VM that package qemu's tests boot, where [TestKernel] has a kernel of its own to try cgroups with,
// and a child of that, which does what the environment says.
func TestMain(m *testing.M) {
	if work := os.Getenv(does); work != "" {
		works[work]()
		return
	}
	if os.Getpid() == 1 {
		os.Args = []string{os.Args[0], "-test.v", "-test.run=^TestKernel$"}
		flag.Parse()
		err := errors.Join(unix.Mount("dev", "/dev", "devtmpfs", 0, ""), unix.Mount("proc", "/proc", "proc", 0, ""), os.Mkdir("/cgroup", 0o755), unix.Mount("cgroup2", "/cgroup", "cgroup2", 0, ""))
		fmt.Printf("Mounted: %v. Tests ended with %d.\n", err, m.Run())
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU ends
	}
	os.Exit(m.Run())
}

const does = "MILLRACE_TEST_DOES"

var works = map[string]func(){
	"spin": func() {
		for { //nolint:staticcheck // it is to be killed
		}
	},
	"eat": func() {
		var all [][]byte
		for range 400 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
		runtime.KeepAlive(all)
	},
	"thread": func() {
		for range 200 {
			go func() {
				runtime.LockOSThread()
				time.Sleep(time.Minute)
			}()
		}
		time.Sleep(time.Minute)
	},
}

// guest is a kernel of this test's own.
type guest struct{ *testing.T }

const unit = "/cgroup/unit"

func (g guest) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// write writes a file below /cgroup.
func (g guest) write(name, value string) error {
	return os.WriteFile(filepath.Join("/cgroup", name), []byte(value), 0)
}

// number is one of a file of the VM's cgroup: the word after key, or the first.
func (g guest) number(id, file, key string) int {
	g.Helper()
	content, err := os.ReadFile(filepath.Join(unit, "vm-"+id, file))
	g.must(err)
	words := strings.Fields(string(content))
	for i, w := range words {
		if key == "" || w == key && i+1 < len(words) {
			if key != "" {
				w = words[i+1]
			}
			n, err := strconv.Atoi(w)
			g.must(err)
			return n
		}
	}
	g.Fatalf("%s has no %s: %s", file, key, content)
	return 0
}

// run has a child do work in a group for a while, then kills it.
func (g guest) run(group *cgroup.Group, work string, within time.Duration) {
	g.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{does + "=" + work, "GOMAXPROCS=1"}
	g.must(cmd.Start())
	g.must(group.Put(cmd.Process.Pid))
	killed := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	killed.Stop()
}

// TestKernel is what a real kernel does with what this package writes, and all that cgrouptest's claims to do as it does.
func TestKernel(t *testing.T) { //nolint:paralleltest // alone in its VM
	if os.Getpid() != 1 {
		t.Skip("it runs in a VM, see package qemu's tests")
	}
	g := guest{t}
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		g.must(g.write("cgroup.subtree_control", "+"+c))
	}
	g.must(os.Mkdir(unit, 0o755))
	g.must(g.write("unit/cgroup.procs", "1"))
	if err := g.write("unit/cgroup.subtree_control", "+memory"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a cgroup with processes is divided: %v", err)
	}
	if err := g.write("unit/cgroup.subtree_control", "+hugetlb"); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("a controller that isn't offered: %v", err)
	}
	if _, err := cgroup.Open(cgroup.Config{Root: "/cgroup"}); refused(t, err).Why != "the agent's cgroup is the machine's root" {
		t.Error(err)
	}
	tree, err := cgroup.Open(cgroup.Config{Root: unit})
	g.must(err)
	g.must(tree.Lacks())

	group := func(id string, l cgroup.Limits) *cgroup.Group {
		made, err := tree.Make(id, l)
		g.must(err)
		return made
	}
	quarter := cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 1}
	slow, bursts := group("slow", quarter), group("bursts", cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 1, Burstable: true})
	g.run(slow, "spin", 2*time.Second)
	g.run(bursts, "spin", 2*time.Second)
	used, more := g.number("slow", "cpu.stat", "usage_usec"), g.number("bursts", "cpu.stat", "usage_usec")
	t.Logf("in 2 s a VM of 250 thousandths used %d ms, a burstable one %d ms", used/1000, more/1000)
	if used > 800_000 || more < 2*used {
		t.Errorf("used %d and %d µs", used, more)
	}
	if slow.OutOfMemory() {
		t.Error("it is out of memory")
	}
	g.run(bursts, "eat", time.Minute)
	if !bursts.OutOfMemory() {
		t.Errorf("it has more memory than it may: %d bytes", g.number("bursts", "memory.peak", ""))
	}
	g.run(bursts, "thread", time.Minute)
	if g.number("bursts", "pids.events", "max") == 0 {
		t.Error("it has more threads than it may")
	}
	g.must(bursts.Remove())

	// A service that starts again: as systemd does it.
	if err := g.write("unit/cgroup.procs", "1"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a process is put into a cgroup that is divided: %v", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{does + "=spin"}
	g.must(cmd.Start())
	g.must(slow.Put(cmd.Process.Pid))
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		g.must(g.write("unit/cgroup.subtree_control", "-"+c))
	}
	g.must(g.write("unit/cgroup.procs", "1"))
	if _, err := os.Stat(unit + "/vm-slow/cpu.max"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the limits outlive their controller: %v", err)
	}
	tree, err = cgroup.Open(cgroup.Config{Root: unit})
	g.must(err)
	slow = group("slow", quarter)
	if n := g.number("slow", "cpu.max", ""); n != 25_000 || g.number("slow", "memory.max", "") != 257<<20 {
		t.Errorf("the limits aren't back: cpu.max is %d", n)
	}
	if n := g.number("slow", "cgroup.procs", ""); n != cmd.Process.Pid {
		t.Errorf("it has process %d", n)
	}
	tree.Sweep()
	if err := unix.Rmdir(unit + "/vm-slow"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("one with a process is removed: %v", err)
	}
	ended := exec.Command("/proc/self/exe")
	ended.Env = []string{does + "=spin"}
	g.must(ended.Start())
	g.must(group("ended", quarter).Put(ended.Process.Pid))
	g.must(ended.Process.Kill())
	g.must(unix.Waitid(unix.P_PID, ended.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	tree.Sweep()
	if left, _ := filepath.Glob(unit + "/vm-*"); len(left) != 1 {
		t.Errorf("left %v: a process that nobody waited for yet keeps its cgroup", left)
	}
	_ = ended.Wait()
	go cmd.Wait()         //nolint:errcheck // it is killed
	g.must(slow.Remove()) // which kills what runs
	if left, _ := filepath.Glob(unit + "/vm-*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
