// Package cgroup holds each VM to what it was given, by Linux's control groups, version 2 (kernel documentation,
// admin-guide/cgroup-v2): its monitor is a process in a cgroup of its own, so that what emulation, disks and networks cost counts,
// too, and not the guest alone.
//
//	millrace-launcher.service    ours to divide (Delegate=yes): controllers are enabled here, and no process is in it
//	├── agent                    this process
//	├── vm-vm_01h…-1             a VM's monitor, with its limits
//	└── vm-…
//
// The tree has no further level, because of what systemd does when a service starts again whose processes run on (systemd
// issues 8364 and 24064): it takes the controllers out of the service's cgroup, then puts the new process there. Both work while
// nothing below enables controllers of its own. The VMs' limits go with the controllers: whoever adopts a VM gives it them anew
// ([Tree.Make]).
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Config is where a tree is.
type Config struct {
	Root  string              // the directory of a cgroup that is ours to divide, see [Own]
	Files Files               // nil: the kernel's
	Wait  func(time.Duration) // between tries to remove what is busy; nil: time.Sleep
	Log   *slog.Logger        // nil: none
}

// Files changes a cgroup file system; it is read as any other.
type Files interface {
	Mkdir(dir string) error
	Rmdir(dir string) error
	Write(file, value string) error // a file that the kernel made
}

// kernel is the real one.
type kernel struct{}

func (kernel) Mkdir(dir string) error { return os.Mkdir(dir, 0o755) }
func (kernel) Rmdir(dir string) error { return unix.Rmdir(dir) }

func (kernel) Write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Names in a tree.
const (
	ownLeaf  = "agent"
	vmPrefix = "vm-"
)

// needed are the controllers that limits need. A further one, io, is enabled where it is: with it what a VM writes is held back
// by its own memory's limit, not by the host's.
var needed = []string{"cpu", "memory", "pids"}

// Refusal is why VMs can't be held by cgroups, and what to do.
type Refusal struct {
	Why         string
	Do, Command string // Command is "" where none helps
}

func (r *Refusal) Error() string { return r.Why }

func noV2() *Refusal {
	return &Refusal{
		Why:     "there is no cgroup v2 at /sys/fs/cgroup",
		Do:      "Have systemd mount it, as it does since its version 243 unless it is told otherwise.",
		Command: `sed -i 's/^GRUB_CMDLINE_LINUX="/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub && update-grub && reboot`,
	}
}

func notOurs(why string) *Refusal {
	return &Refusal{
		Why: why, Do: "Start the agent by its systemd units, which delegate a cgroup to it (Delegate=yes).",
		Command: "systemctl restart millrace-launcher",
	}
}

func lacking(names []string) *Refusal {
	r := &Refusal{
		Why: "the kernel's controllers that are missing or can't be enabled: " + strings.Join(names, ", "),
		Do:  "Have the kernel and systemd offer them to services (Delegate=yes).", Command: "cat /sys/fs/cgroup/cgroup.controllers",
	}
	if slices.Contains(names, "memory") { // off at first on some boards
		r.Do, r.Command = "Switch them on by the kernel's command line.", `sed -i 's/^GRUB_CMDLINE_LINUX="/&cgroup_enable=memory /' /etc/default/grub && update-grub && reboot`
	}
	return r
}

// Check says why a machine whose file system is at root can't hold VMs by cgroups, nil if nothing speaks against it; the error is a
// [*Refusal]. [Open] is the proof.
func Check(root string) error {
	offered, err := os.ReadFile(filepath.Join(root, mount, "cgroup.controllers"))
	if err != nil {
		return noV2()
	}
	if names := missing(strings.Fields(string(offered))); len(names) > 0 {
		return lacking(names)
	}
	return nil
}

const mount = "sys/fs/cgroup"

// missing are those of needed that aren't in names.
func missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(needed), func(n string) bool { return slices.Contains(names, n) })
}

// Own is the directory of the cgroup that this process was started in, on a machine whose file system is at root. Whether it may be
// divided, [Open] finds out. The error is a [*Refusal].
func Own(root string) (string, error) {
	if _, err := os.Stat(filepath.Join(root, mount, "cgroup.controllers")); err != nil {
		return "", noV2()
	}
	lines, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return "", &Refusal{Why: err.Error(), Do: "Mount /proc.", Command: "mount -t proc proc /proc"}
	}
	for line := range strings.Lines(string(lines)) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			if filepath.Base(name) == ownLeaf { // systemd's DelegateSubgroup
				name = filepath.Dir(name)
			}
			return filepath.Join(root, mount, name), nil
		}
	}
	return "", noV2()
}

// Tree is a cgroup that is divided among VMs. A nil Tree makes nil groups, which limit nothing.
type Tree struct {
	Config
	enabled []string // controllers
}

// Open takes charge of the cgroup c.Root: its processes, this one and VMs of older agents, move into a leaf, and the controllers are
// enabled. The error is a [*Refusal], and nothing is limited then.
func Open(c Config) (*Tree, error) {
	if c.Files == nil {
		c.Files = kernel{}
	}
	if c.Wait == nil {
		c.Wait = time.Sleep
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tree{Config: c}
	if _, err := os.Stat(filepath.Join(t.Root, "cgroup.type")); err != nil {
		return nil, notOurs("the agent's cgroup is the machine's root")
	}
	if err := t.leave(); err != nil {
		return nil, err
	}
	offered := t.words(filepath.Join(t.Root, "cgroup.controllers"))
	if len(missing(offered)) == len(needed) {
		return nil, lacking(needed)
	}
	for _, name := range append(slices.Clone(needed), "io") {
		if !slices.Contains(offered, name) {
			continue
		}
		if err := t.Files.Write(filepath.Join(t.Root, "cgroup.subtree_control"), "+"+name); err != nil {
			t.Log.Warn("A controller of cgroups can't be enabled.", "controller", name, "error", err)
			continue
		}
		t.enabled = append(t.enabled, name)
	}
	if len(missing(t.enabled)) == len(needed) {
		return nil, notOurs("none of the cgroup's controllers can be enabled in " + t.Root)
	}
	return t, nil
}

// leave moves all processes from the root into the leaf, unless some are others'.
func (t *Tree) leave() error {
	leaf := filepath.Join(t.Root, ownLeaf)
	for range 5 { // who forks meanwhile leaves one more
		pids := t.words(filepath.Join(t.Root, "cgroup.procs"))
		for _, pid := range pids {
			if !ours(pid) {
				return notOurs(fmt.Sprintf("the agent's cgroup %s isn't its own: process %s is in it, too", t.Root, pid))
			}
		}
		if err := t.Files.Mkdir(leaf); err != nil && !errors.Is(err, fs.ErrExist) {
			return notOurs(fmt.Sprintf("the agent may make no cgroup: %v", err))
		}
		for _, pid := range pids {
			if err := t.Files.Write(filepath.Join(leaf, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return notOurs(fmt.Sprintf("the agent may not move processes between cgroups: %v", err))
			}
		}
		if len(pids) == 0 {
			return nil
		}
	}
	return notOurs("processes keep coming into the agent's cgroup " + t.Root)
}

// ours reports whether a process is this one, another one of its program, a VM's monitor, or gone.
func ours(pid string) bool {
	if pid == strconv.Itoa(os.Getpid()) {
		return true
	}
	exe, err := os.Readlink("/proc/" + pid + "/exe")
	if errors.Is(err, fs.ErrNotExist) && pid != "0" { // 0: another namespace's
		return true
	}
	own, _ := os.Readlink("/proc/self/exe")
	return err == nil && (exe == own || strings.HasPrefix(filepath.Base(exe), "qemu-system-"))
}

// Lacks says which limits VMs are without, nil: none. The error is a [*Refusal].
func (t *Tree) Lacks() error {
	if names := missing(t.enabled); len(names) > 0 {
		return lacking(names)
	}
	return nil
}

// words are those of a file; none when it can't be read.
func (t *Tree) words(file string) []string {
	content, _ := os.ReadFile(file)
	return strings.Fields(string(content))
}

// Make is the cgroup for the VM named id, with its limits; it may be there already.
func (t *Tree) Make(id string, l Limits) (*Group, error) {
	if t == nil {
		return nil, nil
	}
	g := &Group{t, filepath.Join(t.Root, vmPrefix+id)}
	if err := t.Files.Mkdir(g.dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("a VM's cgroup: %w", err)
	}
	for _, s := range l.settings() {
		controller, _, _ := strings.Cut(s.file, ".")
		if !slices.Contains(t.enabled, controller) {
			continue
		}
		err := t.Files.Write(filepath.Join(g.dir, s.file), s.value)
		if errors.Is(err, fs.ErrNotExist) && s.file == "memory.swap.max" { // a kernel that doesn't swap, or doesn't count it
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("a VM's limit %s=%s: %w", s.file, s.value, err), g.Remove())
		}
	}
	return g, nil
}

// Sweep removes what VMs left that are gone: cgroups without a process.
func (t *Tree) Sweep() {
	if t == nil {
		return
	}
	left, _ := filepath.Glob(filepath.Join(t.Root, vmPrefix+"*"))
	for _, dir := range left {
		err := t.Files.Rmdir(dir)
		if errors.Is(err, unix.EBUSY) {
			if len(t.words(filepath.Join(dir, "cgroup.procs"))) > 0 { // it runs
				continue
			}
			err = (&Group{t, dir}).Remove()
		}
		if err != nil {
			t.Log.Warn("A cgroup of a VM that is gone can't be removed.", "cgroup", dir, "error", err)
		}
	}
}

// Group is a VM's cgroup.
type Group struct {
	tree *Tree
	dir  string
}

// Put has a process, and those that it starts, be limited. What memory it has by then doesn't count.
func (g *Group) Put(pid int) error {
	if g == nil {
		return nil
	}
	if err := g.tree.Files.Write(filepath.Join(g.dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("putting a VM into its cgroup: %w", err)
	}
	return nil
}

// OutOfMemory reports whether the kernel ended a process of the group because it needed more memory than its limit.
func (g *Group) OutOfMemory() bool {
	if g == nil {
		return false
	}
	words := g.tree.words(filepath.Join(g.dir, "memory.events"))
	i := slices.Index(words, "oom_kill")
	return i >= 0 && i+1 < len(words) && words[i+1] != "0"
}

// A cgroup stays busy for a moment after its last process has ended.
const (
	busyEvery = 10 * time.Millisecond
	busyTries = 200
)

// Remove removes the group, and ends what is left in it. It takes up to 2 s.
func (g *Group) Remove() (err error) {
	if g == nil {
		return nil
	}
	for try := range busyTries {
		err = g.tree.Files.Rmdir(g.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		if try == busyTries/2 {
			if err := g.tree.Files.Write(filepath.Join(g.dir, "cgroup.kill"), "1"); err != nil && !errors.Is(err, fs.ErrNotExist) { // since Linux 5.14
				g.tree.Log.Warn("What is left of a VM can't be ended.", "cgroup", g.dir, "error", err)
			}
		}
		g.tree.Wait(busyEvery)
	}
	return fmt.Errorf("removing a VM's cgroup: %w", err)
}
