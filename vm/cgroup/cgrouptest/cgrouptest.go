// Package cgrouptest is a kernel's cgroup file system for tests: a directory with the kernel's files, which behaves as far as
// package cgroup needs it, and fails on demand. Tests of package cgroup compare it with a real kernel.
package cgrouptest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Kernel is a [cgroup.Files].
type Kernel struct {
	Root string // a service's cgroup

	mu     sync.Mutex
	fails  map[string]error
	busy   map[string]int
	writes []string
}

// files are what a cgroup has by its parent's controllers; those with "" are of every one.
var files = map[string]map[string]string{
	"":       {"cgroup.procs": "", "cgroup.controllers": "", "cgroup.subtree_control": "", "cgroup.type": "domain\n", "cgroup.kill": ""},
	"cpu":    {"cpu.max": "max 100000\n", "cpu.weight": "100\n"},
	"memory": {"memory.max": "max\n", "memory.swap.max": "max\n", "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"},
	"pids":   {"pids.max": "max\n"},
	"io":     {"io.weight": "default 100\n"},
}

// New makes a service's cgroup that was given the controllers, with this process in it.
func New(t testing.TB, controllers ...string) *Kernel {
	t.Helper()
	k := &Kernel{Root: filepath.Join(t.TempDir(), "millrace-launcher.service"), fails: map[string]error{}, busy: map[string]int{}}
	if err := k.populate(k.Root, controllers); err != nil {
		t.Fatal(err)
	}
	k.Set(t, "cgroup.procs", strconv.Itoa(os.Getpid())+"\n")
	return k
}

// Fail has what is done to a path below Root fail from now on; nil: not any more.
func (k *Kernel) Fail(path string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails[filepath.Join(k.Root, path)] = err
}

// Busy has a cgroup below Root stay busy for that many tries to remove it.
func (k *Kernel) Busy(path string, tries int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy[filepath.Join(k.Root, path)] = tries
}

// Set sets a file below Root.
func (k *Kernel) Set(t testing.TB, path, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.Root, path), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Get is a file's content below Root without space around it; "" when there is none.
func (k *Kernel) Get(path string) string {
	content, _ := os.ReadFile(filepath.Join(k.Root, path))
	return strings.TrimSpace(string(content))
}

// Groups are the cgroups below Root.
func (k *Kernel) Groups() (names []string) {
	entries, _ := os.ReadDir(k.Root)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Writes are those that were made, in order: "vm-a/cpu.max=max 100000".
func (k *Kernel) Writes() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.writes)
}

// populate makes a cgroup with the files of controllers.
func (k *Kernel) populate(dir string, controllers []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range append([]string{""}, controllers...) {
		for name, text := range files[c] {
			if name == "cgroup.controllers" {
				text = strings.Join(controllers, " ") + "\n"
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Mkdir makes a cgroup, with the files of the controllers that its parent enabled.
func (k *Kernel) Mkdir(dir string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fails[dir]; err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return k.populate(dir, k.words(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control")))
}

// runs reports whether a process hasn't ended; one that its parent hasn't waited for yet has.
func runs(pid string) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat")) // see proc_pid_stat(5)
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Rmdir removes a cgroup in which no process runs.
func (k *Kernel) Rmdir(dir string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fails[dir]; err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil {
		return unix.ENOENT
	}
	if k.busy[dir]--; k.busy[dir] >= 0 {
		return unix.EBUSY
	}
	for _, pid := range k.words(filepath.Join(dir, "cgroup.procs")) {
		if runs(pid) {
			return unix.EBUSY
		}
	}
	return os.RemoveAll(dir)
}

// Write writes to a file that is there.
func (k *Kernel) Write(file, value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.fails[file]
	if _, statErr := os.Stat(file); err == nil {
		err = statErr
	}
	if err == nil {
		err = k.write(file, value)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: file, Err: err}
	}
	name, _ := filepath.Rel(k.Root, file)
	k.writes = append(k.writes, name+"="+value)
	return nil
}

func (k *Kernel) write(file, value string) error {
	dir := filepath.Dir(file)
	switch filepath.Base(file) {
	case "cgroup.kill":
		k.busy[dir] = 0
		return nil
	case "cgroup.procs":
		return k.move(dir, value)
	case "cgroup.subtree_control":
		return k.control(dir, value)
	}
	return os.WriteFile(file, []byte(value+"\n"), 0o600)
}

// move moves a process into dir.
func (k *Kernel) move(dir, pid string) error {
	if len(k.words(filepath.Join(dir, "cgroup.subtree_control"))) > 0 {
		return unix.EBUSY // no process is in a cgroup that is divided
	}
	groups, _ := filepath.Glob(filepath.Join(k.Root, "*", "cgroup.procs"))
	for _, file := range append(groups, filepath.Join(k.Root, "cgroup.procs")) {
		left := slices.DeleteFunc(k.words(file), func(p string) bool { return p == pid })
		if filepath.Dir(file) == dir {
			left = append(left, pid)
		}
		if err := os.WriteFile(file, []byte(strings.Join(left, "\n")+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// control enables or disables a controller in dir: cgroups in it get or lose its files.
func (k *Kernel) control(dir, value string) error {
	name, on := strings.CutPrefix(value, "+")
	name = strings.TrimPrefix(name, "-")
	enabled := k.words(filepath.Join(dir, "cgroup.subtree_control"))
	switch {
	case !slices.Contains(k.words(filepath.Join(dir, "cgroup.controllers")), name):
		return unix.ENOENT
	case on && len(k.words(filepath.Join(dir, "cgroup.procs"))) > 0:
		return unix.EBUSY
	case on == slices.Contains(enabled, name):
		return nil
	}
	enabled = slices.DeleteFunc(enabled, func(n string) bool { return n == name })
	if on {
		enabled = append(enabled, name)
	}
	children, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, child := range children {
		child = filepath.Dir(child)
		for file, text := range files[name] {
			path := filepath.Join(child, file)
			var err error
			if on {
				err = os.WriteFile(path, []byte(text), 0o600)
			} else {
				err = os.Remove(path)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		if err := os.WriteFile(filepath.Join(child, "cgroup.controllers"), []byte(strings.Join(enabled, " ")+"\n"), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(enabled, " ")+"\n"), 0o600)
}

func (k *Kernel) words(file string) []string {
	content, _ := os.ReadFile(file)
	return strings.Fields(string(content))
}
