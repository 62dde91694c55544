package cgroup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/cgroup/cgrouptest"
)

var all = []string{"cpuset", "cpu", "io", "memory", "pids"}

// open divides k's cgroup; pauses counts the waits.
func open(k *cgrouptest.Kernel, pauses *int) (*cgroup.Tree, error) {
	return cgroup.Open(cgroup.Config{Root: k.Root, Files: k, Wait: func(time.Duration) {
		if pauses != nil {
			*pauses++
		}
	}})
}

func mustOpen(t *testing.T, k *cgrouptest.Kernel) *cgroup.Tree {
	t.Helper()
	tree, err := open(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// refused is the refusal that an error is.
func refused(t *testing.T, err error) *cgroup.Refusal {
	t.Helper()
	var r *cgroup.Refusal
	if !errors.As(err, &r) || r.Why == "" || r.Do == "" {
		t.Fatalf("%v is no refusal that teaches", err)
	}
	return r
}

func TestOpen(t *testing.T) {
	t.Parallel()
	k := cgrouptest.New(t, all...)
	tree := mustOpen(t, k)
	if err := tree.Lacks(); err != nil {
		t.Error(err)
	}
	if in, enabled := k.Get("agent/cgroup.procs"), k.Get("cgroup.subtree_control"); in != strconv.Itoa(os.Getpid()) || enabled != "cpu memory pids io" {
		t.Errorf("the leaf has %q; enabled are %q", in, enabled)
	}
	if k.Get("cgroup.procs") != "" {
		t.Error("a process is in a cgroup that is divided")
	}
	// An agent that is started again finds it so.
	if again := mustOpen(t, k); again.Lacks() != nil {
		t.Error(again.Lacks())
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		controllers []string
		change      func(*testing.T, *cgrouptest.Kernel)
		why         string
		lacks       bool // some limits only
	}{
		"the machine's root": {controllers: all, why: "the machine's root", change: func(t *testing.T, k *cgrouptest.Kernel) {
			if err := os.Remove(filepath.Join(k.Root, "cgroup.type")); err != nil {
				t.Error(err)
			}
		}},
		"others are in it":         {controllers: all, why: "process 1 is in it", change: func(t *testing.T, k *cgrouptest.Kernel) { k.Set(t, "cgroup.procs", "1\n") }},
		"another namespace's":      {controllers: all, why: "process 0 is in it", change: func(t *testing.T, k *cgrouptest.Kernel) { k.Set(t, "cgroup.procs", "0\n") }},
		"read-only":                {controllers: all, why: "read-only", change: func(_ *testing.T, k *cgrouptest.Kernel) { k.Fail("agent", unix.EROFS) }},
		"not delegated":            {controllers: all, why: "permission denied", change: func(_ *testing.T, k *cgrouptest.Kernel) { k.Fail("agent", unix.EACCES) }},
		"moves are denied":         {controllers: all, why: "may not move", change: func(_ *testing.T, k *cgrouptest.Kernel) { k.Fail("agent/cgroup.procs", unix.EACCES) }},
		"controllers are denied":   {controllers: all, why: "can be enabled", change: func(_ *testing.T, k *cgrouptest.Kernel) { k.Fail("cgroup.subtree_control", unix.EACCES) }},
		"none is offered":          {controllers: []string{"hugetlb"}, why: "cpu, memory, pids"},
		"memory is switched off":   {controllers: []string{"cpu", "pids"}, why: ": memory", lacks: true},
		"memory and cpu are taken": {controllers: []string{"pids", "io"}, why: ": cpu, memory", lacks: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := cgrouptest.New(t, c.controllers...)
			if c.change != nil {
				c.change(t, k)
			}
			tree, err := open(k, nil)
			if c.lacks {
				if err != nil {
					t.Fatal(err)
				}
				err = tree.Lacks()
				if _, makeErr := tree.Make("a", cgroup.Limits{VCPUs: 1, MemoryMB: 256}); makeErr != nil {
					t.Errorf("no VM without the rest: %v", makeErr)
				}
			}
			if r := refused(t, err); !strings.Contains(r.Why, c.why) || r.Command == "" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A machine's own cgroup, as /proc and /sys have it.
func TestOwn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ proc, controllers, want string }{
		"systemd's service":       {"0::/system.slice/millrace-launcher.service\n", "cpu memory pids\n", "system.slice/millrace-launcher.service"},
		"with a subgroup already": {"0::/system.slice/millrace-launcher.service/agent\n", "cpu memory pids\n", "system.slice/millrace-launcher.service"},
		"hybrid":                  {"9:name=systemd:/\n4:memory:/x\n0::/\n", "", ""},
		"v1 alone":                {"4:memory:/x\n", "cpu\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for file, text := range map[string]string{"proc/self/cgroup": c.proc, "sys/fs/cgroup/cgroup.controllers": c.controllers} {
				if text == "" {
					continue
				}
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := cgroup.Own(root)
			if c.want == "" {
				_ = refused(t, err)
			} else if want := filepath.Join(root, "sys/fs/cgroup", c.want); got != want || err != nil {
				t.Errorf("got %s, %v; want %s", got, err, want)
			}
			if err := cgroup.Check(root); (err == nil) != (c.controllers == "cpu memory pids\n") {
				t.Errorf("checked: %v", err)
			}
		})
	}
	if _, err := cgroup.Own(t.TempDir()); refused(t, err).Command == "" {
		t.Error("nothing to do on a machine without /proc")
	}
}

// Limits are the kernel's numbers, all set before a process is put in.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits cgroup.Limits
		want   string
	}{
		"two vCPUs":        {cgroup.Limits{VCPUs: 2, MilliCPU: 2000, MemoryMB: 4096}, "memory.max=4630511616 memory.swap.max=0 pids.max=130 cpu.weight=200 cpu.max=200000 100000"},
		"a quarter":        {cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 256}, "memory.max=541065216 memory.swap.max=0 pids.max=129 cpu.weight=25 cpu.max=25000 100000"},
		"burstable":        {cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 256, Burstable: true}, "memory.max=541065216 memory.swap.max=0 pids.max=129 cpu.weight=25 cpu.max=max 100000"},
		"emulated":         {cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 256, Emulated: true}, "memory.max=809500672 memory.swap.max=0 pids.max=129 cpu.weight=25 cpu.max=50000 100000"},
		"emulated, large":  {cgroup.Limits{VCPUs: 4, MilliCPU: 3500, MemoryMB: 256, Emulated: true}, "memory.max=809500672 memory.swap.max=0 pids.max=132 cpu.weight=350 cpu.max=350000 100000"},
		"the smallest":     {cgroup.Limits{VCPUs: 1, MilliCPU: 1, MemoryMB: 1}, "memory.max=269484032 memory.swap.max=0 pids.max=129 cpu.weight=1 cpu.max=1000 100000"},
		"the largest":      {cgroup.Limits{VCPUs: 1024, MilliCPU: 1_024_000, MemoryMB: 1}, "memory.max=269484032 memory.swap.max=0 pids.max=1152 cpu.weight=10000 cpu.max=102400000 100000"},
		"a driver's trial": {cgroup.Limits{VCPUs: 1, MemoryMB: 1}, "memory.max=269484032 memory.swap.max=0 pids.max=129 cpu.weight=100 cpu.max=100000 100000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := cgrouptest.New(t, all...)
			tree := mustOpen(t, k)
			opened := len(k.Writes())
			g, err := tree.Make("a", c.limits)
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Put(4711); err != nil {
				t.Error(err)
			}
			got := strings.ReplaceAll(strings.Join(k.Writes()[opened:], " "), "vm-a/", "")
			if got != c.want+" cgroup.procs=4711" {
				t.Errorf("wrote %s", got)
			}
		})
	}
}

// A VM's limits are all set, or there is no VM.
func TestLimitThatCantBeSet(t *testing.T) {
	t.Parallel()
	for file, err := range map[string]error{
		"cpu.max": unix.EACCES, "cpu.weight": unix.EINVAL, "memory.max": unix.EROFS, "memory.swap.max": unix.EACCES, "pids.max": unix.ENOSPC, "": unix.EAGAIN,
	} {
		k := cgrouptest.New(t, all...)
		tree := mustOpen(t, k)
		k.Fail(filepath.Join("vm-a", file), err)
		if g, got := tree.Make("a", cgroup.Limits{VCPUs: 1, MemoryMB: 256}); g != nil || !errors.Is(got, err) {
			t.Errorf("%s: %v, %v", file, g, got)
		}
		if slices.Contains(k.Groups(), "vm-a") {
			t.Errorf("%s: the cgroup is left", file)
		}
	}
	// A kernel that doesn't count swap has no limit of it.
	k := cgrouptest.New(t, all...)
	tree := mustOpen(t, k)
	k.Fail("vm-a/memory.swap.max", unix.ENOENT)
	g, err := tree.Make("a", cgroup.Limits{VCPUs: 1, MemoryMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	k.Fail("vm-a/cgroup.procs", unix.ESRCH)
	if err := g.Put(4711); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a process that is gone: %v", err)
	}
}

// What systemd does to a service that starts again takes the limits away; they are given anew.
func TestLimitsAfterARestart(t *testing.T) {
	t.Parallel()
	k := cgrouptest.New(t, all...)
	limits := cgroup.Limits{VCPUs: 1, MilliCPU: 250, MemoryMB: 256}
	g, err := mustOpen(t, k).Make("a", limits)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Put(4711); err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if err := k.Write(filepath.Join(k.Root, "cgroup.subtree_control"), "-"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Write(filepath.Join(k.Root, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		t.Fatalf("the service can't be started: %v", err)
	}
	if k.Get("vm-a/cpu.max") != "" {
		t.Fatal("the limits outlive their controller")
	}
	if g, err = mustOpen(t, k).Make("a", limits); err != nil {
		t.Fatal(err)
	}
	if err := g.Put(4711); err != nil {
		t.Error(err)
	}
	if k.Get("vm-a/cpu.max") != "25000 100000" || k.Get("vm-a/memory.swap.max") != "0" || k.Get("vm-a/cgroup.procs") != "4711" {
		t.Errorf("limits %q, processes %q", k.Get("vm-a/cpu.max"), k.Get("vm-a/cgroup.procs"))
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	k := cgrouptest.New(t, all...)
	var pauses int
	tree, err := open(k, &pauses)
	if err != nil {
		t.Fatal(err)
	}
	remove := func(busy int) error {
		g, err := tree.Make("a", cgroup.Limits{VCPUs: 1, MemoryMB: 256})
		if err != nil {
			t.Fatal(err)
		}
		pauses = 0
		k.Busy("vm-a", busy)
		return g.Remove()
	}
	if err := remove(0); err != nil || pauses != 0 || len(k.Groups()) != 1 {
		t.Errorf("a free one: %v after %d pauses", err, pauses)
	}
	if err := remove(3); err != nil || pauses != 3 || len(k.Groups()) != 1 {
		t.Errorf("one that is busy for a moment: %v after %d pauses", err, pauses)
	}
	if err := remove(1 << 20); err != nil || pauses != 101 || !slices.Contains(k.Writes(), "vm-a/cgroup.kill=1") {
		t.Errorf("one with a process that doesn't end by itself: %v after %d pauses", err, pauses)
	}
	k.Fail("vm-a/cgroup.kill", unix.ENOENT) // before Linux 5.14
	if err := remove(1 << 20); !errors.Is(err, unix.EBUSY) || pauses != 200 {
		t.Errorf("one that can't be ended: %v after %d pauses", err, pauses)
	}
	k.Busy("vm-a", 0)
	k.Fail("vm-a", unix.EACCES)
	tree.Sweep()
	if groups := k.Groups(); len(groups) != 2 {
		t.Errorf("left %v", groups)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	k := cgrouptest.New(t, all...)
	tree := mustOpen(t, k)
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, ended.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	defer ended.Wait() //nolint:errcheck // it has ended well
	for id, pid := range map[string]int{"gone": 1 << 30, "empty": 0, "ended": ended.Process.Pid, "runs": os.Getpid()} {
		g, err := tree.Make(id, cgroup.Limits{VCPUs: 1, MemoryMB: 256})
		if err != nil {
			t.Fatal(err)
		}
		if pid != 0 {
			k.Set(t, "vm-"+id+"/cgroup.procs", strconv.Itoa(pid))
		}
		if g.OutOfMemory() {
			t.Errorf("%s is out of memory", id)
		}
		k.Set(t, "vm-"+id+"/memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\n")
		if !g.OutOfMemory() {
			t.Errorf("%s is not out of memory", id)
		}
	}
	k.Busy("vm-empty", 3) // its process has just ended
	tree.Sweep()
	if groups := k.Groups(); !slices.Equal(groups, []string{"agent", "vm-runs"}) {
		t.Errorf("left %v", groups)
	}
}

// Without a tree there are no limits, and all else goes on.
func TestNone(t *testing.T) {
	t.Parallel()
	var none *cgroup.Tree
	none.Sweep()
	g, err := none.Make("a", cgroup.Limits{})
	if g != nil || err != nil {
		t.Error(g, err)
	}
	if g.Put(1) != nil || g.Remove() != nil || g.OutOfMemory() {
		t.Error("no group does something")
	}
}
