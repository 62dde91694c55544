package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
)

// patient is a machine whose /dev, /proc and /sys are files of a test.
type patient struct {
	*testing.T
	Machine
}

// bare has nothing of what a host needs.
func bare(t *testing.T) *patient {
	t.Helper()
	root := t.TempDir()
	return &patient{t, Machine{
		Root: root, Dir: filepath.Join(root, "state"), GuestDir: filepath.Join(root, "guest"), HTTP: client.NewHTTP(), Now: time.Now,
		LookPath: func(string) (string, error) { return "", errors.New("not found") },
		Networks: func() error { return unix.EPERM },
		Cgroups:  func() error { return cgroup.Check(root) },
		Rivals:   func() ([]string, error) { return nil, nil },
		Boot:     func(context.Context) (string, vm.Boot, error) { return "", vm.Boot{}, errors.New("no QEMU") },
	}}
}

// healthy has all of it.
func healthy(t *testing.T) *patient {
	t.Helper()
	p := bare(t)
	for name, text := range map[string]string{
		"dev/kvm": "", "guest/vmlinuz": "", "sys/module/kvm_intel/parameters/nested": "Y",
		"proc/meminfo": "MemTotal:       16777216 kB\n", "proc/sys/kernel/osrelease": "6.1.0-38-amd64", "proc/swaps": swapsHeader, "proc/cmdline": "quiet",
		"sys/fs/cgroup/cgroup.controllers":  "cpuset cpu io memory hugetlb pids rdma misc",
		"proc/cpuinfo":                      "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu svm\n",
		"sys/devices/system/cpu/smt/active": "0",
		"sys/kernel/mm/ksm/run":             "0",
		vulnerable + "meltdown":             "Not affected",
		vulnerable + "spectre_v2":           "Mitigation: Enhanced IBRS",
	} {
		p.write(name, text)
	}
	p.LookPath = func(name string) (string, error) { return "/usr/bin/" + name, nil }
	p.Networks = func() error { return nil }
	p.Boot = func(context.Context) (string, vm.Boot, error) {
		return "qemu/kvm", vm.Boot{Took: 180 * time.Millisecond, Why: "a guest booted under KVM"}, nil
	}
	return p
}

const (
	swapsHeader = "Filename\t\t\tType\t\tSize\tUsed\tPriority\n"
	vulnerable  = "sys/devices/system/cpu/vulnerabilities/"
)

func (p *patient) write(name, text string) {
	p.Helper()
	path := filepath.Join(p.Root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
}

// enroll makes it a host of the control plane at address.
func (p *patient) enroll(address string) {
	p.Helper()
	id := Identity{URL: address, Org: "calm", HostID: millrace.HostID{15: 1}, Seeds: Seeds{SignSeed: make([]byte, 32), SealSeed: make([]byte, 32)}}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		p.Fatal(err)
	}
	if err := id.write(p.Dir); err != nil {
		p.Fatal(err)
	}
}

// examine is the findings by what they are about. Each is whole: what is not ok has something to do.
func (p *patient) examine() map[string]millrace.Finding {
	p.Helper()
	found := map[string]millrace.Finding{}
	for _, f := range Examine(p.Context(), p.Machine) {
		found[f.Check] = f
		if f.Found == "" || (f.Do == "") != (f.Level == millrace.LevelOK) || f.Command != "" && f.Do == "" {
			p.Errorf("%+v", f)
		}
	}
	if len(found) > millrace.MaxFindings {
		p.Errorf("%d findings", len(found))
	}
	return found
}

func TestHealthyMachine(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}))
	defer srv.Close()
	p := healthy(t)
	p.enroll(srv.URL)
	p.GitHub = []string{srv.URL}
	found := p.examine()
	for check, f := range found {
		if f.Level != millrace.LevelOK && check != "disk" { // which is the real one's space
			t.Errorf("%+v", f)
		}
	}
	if len(found) != 18 || !strings.Contains(found["boot"].Found, "180ms with qemu/kvm") {
		t.Errorf("%d findings, boot %+v", len(found), found["boot"])
	}
}

func TestBareMachine(t *testing.T) {
	t.Parallel()
	found := bare(t).examine()
	for check, want := range map[string]millrace.Level{
		"boot": millrace.LevelFailure, "kvm": millrace.LevelWarning, "qemu": millrace.LevelFailure, "guest kernel": millrace.LevelFailure, "kernel": millrace.LevelWarning,
		"vm networks": millrace.LevelWarning, "vm limits": millrace.LevelWarning, "cpu vulnerabilities": millrace.LevelWarning, "memory": millrace.LevelFailure, "identity": millrace.LevelFailure,
	} {
		if found[check].Level != want {
			t.Errorf("%s is %+v, want %s", check, found[check], want)
		}
	}
}

// Each of these ails a machine that is healthy but for it.
func TestAilments(t *testing.T) {
	t.Parallel()
	file := func(name, text string) func(*patient) { return func(p *patient) { p.write(name, text) } }
	for name, c := range map[string]struct {
		ails    func(*patient)
		check   string
		level   millrace.Level
		found   string // is in what was found
		command string // is in what mends it
	}{
		"emulation": {func(p *patient) {
			p.Boot = func(context.Context) (string, vm.Boot, error) {
				return "qemu/tcg", vm.Boot{Took: 2 * time.Second, Why: "a guest did not boot under KVM: killed."}, nil
			}
		}, "boot", millrace.LevelWarning, "booted in 2s, but by emulation, in which jobs take many times longer: a guest did not boot under KVM: killed.", ""},
		"no module": {func(p *patient) { os.Remove(filepath.Join(p.Root, "dev/kvm")) }, "kvm", millrace.LevelWarning, "no /dev/kvm", "modprobe kvm_amd"},
		"no KVM": {func(p *patient) {
			os.Remove(filepath.Join(p.Root, "dev/kvm"))
			p.write("proc/cpuinfo", "flags : fpu\n")
		}, "kvm", millrace.LevelWarning, "no /dev/kvm", ""},
		"no nesting":    {file("sys/module/kvm_intel/parameters/nested", "N\n"), "nested virtualization", millrace.LevelWarning, "can't start VMs", "kvm_intel nested=1"},
		"an old kernel": {file("proc/sys/kernel/osrelease", "5.4.0-150-generic"), "kernel", millrace.LevelFailure, "5.4.0", "full-upgrade"},
		"a strange one": {file("proc/sys/kernel/osrelease", "six"), "kernel", millrace.LevelWarning, `"six"`, "uname"},
		"no rules":      {func(p *patient) { p.Networks = func() error { return unix.EOPNOTSUPP } }, "vm networks", millrace.LevelWarning, "not supported", "modprobe -a tun nf_tables"},
		"others' rules": {func(p *patient) {
			p.Rivals = func() ([]string, error) { return []string{"FORWARD in table filter"}, nil }
		}, "vm networks", millrace.LevelWarning, "FORWARD in table filter", "iptables -I DOCKER-USER -i mr-+ -j ACCEPT; iptables -I DOCKER-USER -o mr-+ -j ACCEPT"},
		"shared cores":    {file("sys/devices/system/cpu/smt/active", "1\n"), "smt", millrace.LevelWarning, "share a core", "echo off >"},
		"merged pages":    {file("sys/kernel/mm/ksm/run", "1\n"), "ksm", millrace.LevelWarning, "merges", "echo 2 >"},
		"swap":            {file("proc/swaps", swapsHeader+"/dev/zram0 partition 1 0 100\n/dev/sda2\tpartition\t1\t0\t-2\n/swapfile file 1 0 -3\n"), "swap", millrace.LevelWarning, "to /dev/sda2, /swapfile,", "swapoff"},
		"a hole":          {file(vulnerable+"mds", "Vulnerable: Clear CPU buffers attempted, no microcode"), "cpu vulnerabilities", millrace.LevelWarning, "these: mds.", "amd64-microcode"},
		"a small machine": {file("proc/meminfo", "MemTotal:       524288 kB\n"), "memory", millrace.LevelWarning, "512 MB", ""},
		"no mitigations": {func(p *patient) {
			p.write(vulnerable+"mds", "Vulnerable")
			p.write("proc/cmdline", "quiet mitigations=off")
		}, "cpu vulnerabilities", millrace.LevelWarning, "mds", "mitigations=off"},
		"no qemu-img": {func(p *patient) {
			p.LookPath = func(name string) (string, error) {
				if name == "qemu-img" {
					return "", errors.New("not found")
				}
				return "/usr/bin/" + name, nil
			}
		}, "qemu", millrace.LevelFailure, "qemu-img", "apt-get install"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.check == "kvm" && runtime.GOARCH != "amd64" {
				t.Skip("of amd64's processors")
			}
			p := healthy(t)
			if f := p.examine()[c.check]; f.Level != millrace.LevelOK {
				t.Fatalf("when healthy: %+v", f)
			}
			c.ails(p)
			f := p.examine()[c.check]
			if f.Level != c.level || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Command, c.command) || (c.command == "") != (f.Command == "") {
				t.Errorf("%+v", f)
			}
		})
	}
	p := healthy(t)
	p.write("proc/swaps", swapsHeader+"/dev/zram0 partition 1 0 100\n")
	if f := p.examine()["swap"]; f.Level != millrace.LevelOK {
		t.Errorf("zram: %+v", f)
	}
}

// A disk spins or doesn't by what the kernel says of the one that a partition is a part of.
func TestSpinningDisk(t *testing.T) {
	t.Parallel()
	var st unix.Stat_t
	if err := unix.Stat(t.TempDir(), &st); err != nil {
		t.Fatal(err)
	}
	for disk, want := range map[string]bool{"sda": true, "vda": false} {
		p := bare(t)
		p.write("sys/devices/"+disk+"/queue/rotational", "1\n")
		p.write("sys/devices/"+disk+"/"+disk+"1/partition", "1\n")
		p.write("sys/dev/block/none", "")
		link := filepath.Join(p.Root, fmt.Sprintf("sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
		if err := os.Symlink("../../devices/"+disk+"/"+disk+"1", link); err != nil {
			t.Fatal(err)
		}
		if got := p.spins(st.Dev); got != want {
			t.Errorf("%s spins: %v", disk, got)
		}
		p.write("sys/devices/"+disk+"/queue/rotational", "0\n")
		if p.spins(st.Dev) {
			t.Errorf("%s spins, which is an SSD", disk)
		}
	}
}

func TestServerAndClock(t *testing.T) {
	t.Parallel()
	status, skew := http.StatusOK, time.Duration(0)
	now := time.Date(2026, 11, 24, 12, 0, 0, int(800*time.Millisecond), time.UTC)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.Add(skew).Format(http.TimeFormat)) // in whole seconds
		w.WriteHeader(status)
	}))
	defer srv.Close()
	p := healthy(t)
	p.Now = func() time.Time { return now }
	p.enroll(srv.URL)
	if found := p.examine()["clock"].Found; found != "0s off the control plane's" {
		t.Errorf("a clock that is right is %s", found)
	}
	expect := func(when string, server, clock millrace.Level) {
		t.Helper()
		if found := p.examine(); found["control plane"].Level != server || found["clock"].Level != clock {
			t.Errorf("%s: %+v, %+v", when, found["control plane"], found["clock"])
		}
	}
	expect("a good server", millrace.LevelOK, millrace.LevelOK)
	skew = -time.Hour
	expect("another time", millrace.LevelOK, millrace.LevelWarning)
	skew, status = 0, http.StatusServiceUnavailable
	expect("a sick server", millrace.LevelFailure, millrace.LevelOK)
	srv.Close()
	expect("none", millrace.LevelFailure, "")
}

// GitHub's hosts count as there when they answer, whatever they do, through a proxy or without.
func TestGitHub(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer srv.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	p := healthy(t)
	p.GitHub = []string{srv.URL}
	if f := p.examine()["github"]; f.Level != millrace.LevelOK {
		t.Errorf("%+v", f)
	}
	p.GitHub = []string{srv.URL, gone.URL}
	if f := p.examine()["github"]; f.Level != millrace.LevelWarning || !strings.Contains(f.Found, gone.URL+" (") || strings.Contains(f.Found, srv.URL) || f.Command != "curl -v "+gone.URL {
		t.Errorf("%+v", f)
	}

	proxy, err := url.Parse(srv.URL) // it answers for everybody
	if err != nil {
		t.Fatal(err)
	}
	p.GitHub = []string{"http://github.invalid/"}
	if f := p.examine()["github"]; f.Level != millrace.LevelWarning {
		t.Errorf("without a proxy: %+v", f)
	}
	p.HTTP = client.NewHTTP()
	p.HTTP.Transport.(*http.Transport).Proxy = http.ProxyURL(proxy)
	if f := p.examine()["github"]; f.Level != millrace.LevelOK || !strings.Contains(f.Found, "through the proxy "+proxy.Host) {
		t.Errorf("with a proxy: %+v", f)
	}
	if p.GitHub = nil; p.examine()["github"].Check != "" {
		t.Error("a finding about no hosts")
	}
}

// What takes longer than there is time is left open, and the rest is told.
func TestExamineInTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(release)
	p := healthy(t)
	p.enroll(srv.URL)
	p.GitHub = []string{srv.URL}
	p.Boot = func(ctx context.Context) (string, vm.Boot, error) {
		<-ctx.Done()
		return "", vm.Boot{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	open := 0
	for _, f := range Examine(ctx, p.Machine) {
		if f.Command == "millrace-agent doctor" {
			open++
		}
		if f.Level == millrace.LevelFailure {
			t.Errorf("%+v", f)
		}
	}
	if open != 3 {
		t.Errorf("%d are left open", open)
	}
}
