package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm/network"
)

// Health is how bad a finding is.
type Health string

// The degrees: nothing to do; works, but worse than it could; can't run jobs like this.
const (
	Good Health = "good"
	Poor Health = "poor"
	Bad  Health = "bad"
)

// Finding is what was found about one thing that a host needs, and what to do about it.
type Finding struct {
	Check  string `json:"check"`
	Health Health `json:"health"`
	Found  string `json:"found"`
	Do     string `json:"do,omitempty"` // "" when good
}

// Machine is where [Examine] looks. Its zero value finds nothing; [ThisMachine] is the one it runs on.
type Machine struct {
	Root     string // of the file system
	Dir      string // the agent's
	GuestDir string // the guest kernel's
	LookPath func(string) (string, error)
	HTTP     *http.Client
	Now      func() time.Time
	Networks func() error             // why VMs can't have taps, see [network.Check]
	Rivals   func() ([]string, error) // see [network.Rivals]
}

// ThisMachine is the real one.
func ThisMachine(dir, guestDir string) Machine {
	return Machine{
		Root: "/", Dir: dir, GuestDir: guestDir, LookPath: exec.LookPath, HTTP: client.NewHTTP(), Now: time.Now,
		Networks: network.Check, Rivals: network.Rivals,
	}
}

// Thresholds of what a host should have.
const (
	goodMemoryMB = 2048
	goodDiskMB   = 10 << 10
	badDiskMB    = 1 << 10
)

// Examine looks at everything that a host needs. It changes nothing.
func Examine(ctx context.Context, m Machine) []Finding {
	found := []Finding{m.kvm(), m.qemu(), m.kernel(), m.networks(), m.memory(), m.disk()}
	id, err := LoadIdentity(m.Dir)
	if err != nil {
		return append(found, Finding{"identity", Bad, err.Error(), "Run millrace-agent enroll --url URL with an enrollment token from your org's Hosts page."})
	}
	found = append(found, Finding{Check: "identity", Health: Good, Found: fmt.Sprintf("%s of org %s at %s", id.HostID, id.Org, id.URL)})
	return append(found, m.server(ctx, id.URL)...)
}

// kvm looks for what hardware virtualization needs. Whether it really works only a boot can tell (/dev/kvm opens on
// machines whose guests then hang); the agent tries one before it uses it.
func (m Machine) kvm() Finding {
	const check = "kvm"
	const slow = "VMs are emulated, which is slow; that is fine for trying things out"
	name := filepath.Join(m.Root, "dev/kvm")
	if _, err := os.Stat(name); err != nil {
		return Finding{check, Poor, "There is no /dev/kvm: " + slow + ".", "Switch virtualization on in the firmware, or use a machine (or cloud instance type) that has it."}
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return Finding{check, Poor, "/dev/kvm cannot be opened: " + slow + ".", "Run the agent as root or as a member of the group kvm."}
	}
	_ = f.Close()
	if runtime.GOARCH == string(millrace.AMD64) {
		intel, amd := filepath.Join(m.Root, "sys/module/kvm_intel"), filepath.Join(m.Root, "sys/module/kvm_amd")
		if !exists(intel) && !exists(amd) {
			return Finding{check, Poor, "/dev/kvm opens, but neither kvm_intel nor kvm_amd is loaded: unless a trial boot succeeds, " + slow + ".", "Use bare metal, or an instance type with nested virtualization."}
		}
	}
	return Finding{Check: check, Health: Good, Found: "/dev/kvm opens; the agent tries a boot before it uses it"}
}

func (m Machine) qemu() Finding {
	binary, pkg := "qemu-system-x86_64", "qemu-system-x86"
	if runtime.GOARCH == string(millrace.ARM64) {
		binary, pkg = "qemu-system-aarch64", "qemu-system-arm"
	}
	path, err := m.LookPath(binary)
	if err != nil {
		return Finding{"qemu", Bad, "There is no " + binary + ".", "Install it: apt-get install " + pkg + " qemu-utils."}
	}
	return Finding{Check: "qemu", Health: Good, Found: path}
}

func (m Machine) kernel() Finding {
	for _, name := range []string{"vmlinux", "vmlinuz"} {
		if path := filepath.Join(m.GuestDir, name); exists(path) {
			return Finding{Check: "guest kernel", Health: Good, Found: path}
		}
	}
	return Finding{"guest kernel", Bad, "There is no kernel in " + m.GuestDir + ".", "Run make deps in a checkout, or set MILLRACE_GUEST_DIR to where it is."}
}

func (m Machine) networks() Finding {
	const check = "vm networks"
	if err := m.Networks(); err != nil {
		return Finding{
			check, Poor, "VMs get QEMU's user-mode network, from which they reach what this host reaches, its own services included: " + err.Error() + ".",
			"Run the agent (and doctor) as root, on a kernel with taps and nftables. Until then, run no job here that you don't trust.",
		}
	}
	switch rivals, err := m.Rivals(); {
	case err != nil:
		return Finding{check, Poor, "The rules of nftables cannot be read: " + err.Error() + ".", "Run doctor as root."}
	case len(rivals) > 0:
		return Finding{
			check, Poor, "Each VM gets a tap, but other rules may keep it from the internet: " + strings.Join(rivals, ", ") + " drops what no rule of its own accepts.",
			"Have that accept what comes from and goes to interfaces mr-*. For Docker: iptables -I DOCKER-USER -i mr-+ -j ACCEPT, and the same with -o.",
		}
	}
	return Finding{Check: check, Health: Good, Found: "each VM gets a tap, from which it reaches the internet and what --allow says"}
}

func (m Machine) memory() Finding {
	mb, err := memoryMB(filepath.Join(m.Root, "proc/meminfo"))
	switch found := fmt.Sprintf("%d MB", mb); {
	case err != nil:
		return Finding{"memory", Bad, err.Error(), "Mount /proc."}
	case mb < goodMemoryMB:
		return Finding{"memory", Poor, found, fmt.Sprintf("Use a machine with %d MB or more.", goodMemoryMB)}
	default:
		return Finding{Check: "memory", Health: Good, Found: found}
	}
}

func (m Machine) disk() Finding {
	dir := m.Dir
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Finding{"disk", Bad, err.Error(), "Make " + m.Dir + " a directory on a disk of this machine."}
	}
	free := int(fs.Bavail * uint64(fs.Bsize) >> 20)
	f := Finding{Check: "disk", Health: Good, Found: fmt.Sprintf("%d MB free under %s", free, dir)}
	if free < goodDiskMB {
		f.Health, f.Do = Poor, fmt.Sprintf("Free some, or move --dir to a disk with %d MB or more.", goodDiskMB)
	}
	if free < badDiskMB {
		f.Health = Bad
	}
	return f
}

// server asks the control plane whether it lives, and for its time.
func (m Machine) server(ctx context.Context, url string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	const do = "Check the address, DNS, the firewall (only outgoing connections are needed) and HTTPS_PROXY."
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", http.NoBody)
	if err != nil {
		return []Finding{{"control plane", Bad, err.Error(), do}}
	}
	began := m.Now()
	res, err := m.HTTP.Do(r)
	if err != nil {
		return []Finding{{"control plane", Bad, err.Error(), do}}
	}
	_ = res.Body.Close()
	took := m.Now().Sub(began).Round(time.Millisecond)
	found := []Finding{{Check: "control plane", Health: Good, Found: fmt.Sprintf("%s answers in %s", url, took)}}
	if res.StatusCode != http.StatusOK {
		found[0] = Finding{"control plane", Bad, fmt.Sprintf("%s answers %s", url, res.Status), do}
	}
	date, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return found
	}
	skew := date.Sub(m.Now()).Round(time.Second)
	clock := Finding{Check: "clock", Health: Good, Found: fmt.Sprintf("%s off the control plane's", skew.Abs())}
	if skew.Abs() > client.MaxSkew/2 {
		clock.Health, clock.Do = Poor, "Run an NTP client, such as chrony. The agent makes up for a wrong clock; logs and certificates do not."
	}
	return append(found, clock)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
