package qemu_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/cgroup"
	"github.com/millrace-ci/millrace/vm/cgroup/cgrouptest"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// prepare makes a driver whose state is in dir, and whose machines have a user-mode network.
func prepare(t testing.TB, dir string) *qemu.Driver { return prepareOn(t, dir, nil) }

func prepareOn(t testing.TB, dir string, n *network.Network) *qemu.Driver {
	t.Helper()
	return prepareArch(t, dir, millrace.Arch(runtime.GOARCH), n)
}

func prepareArch(t testing.TB, dir string, arch millrace.Arch, n *network.Network) *qemu.Driver {
	t.Helper()
	programs, err := guest.Programs(arch)
	if err != nil {
		t.Fatal(err)
	}
	d, err := qemu.New(qemu.Config{Dir: dir, Arch: arch, Programs: programs, Accel: qemu.AccelAuto, Network: n})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// broker is a broker with one job; research for its protocol is in github/githubtest.
type broker struct {
	*http.ServeMux
	mu         sync.Mutex
	log        strings.Builder
	conclusion string
}

func newBroker(run string) *broker {
	b := &broker{ServeMux: http.NewServeMux()}
	b.HandleFunc("POST /_broker/session", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	b.HandleFunc("POST /_broker/poll", func(w http.ResponseWriter, _ *http.Request) {
		answer := map[string]any{"job": map[string]any{"id": 7, "name": "j", "steps": []any{map[string]any{"number": 1, "name": "s", "run": run}}}}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			panic(err)
		}
	})
	b.HandleFunc("POST /_broker/jobs/7/log", func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.log.Write(content)
	})
	b.HandleFunc("POST /_broker/jobs/7/steps/1", func(http.ResponseWriter, *http.Request) {})
	b.HandleFunc("POST /_broker/jobs/7/complete", func(_ http.ResponseWriter, r *http.Request) {
		var in struct{ Conclusion string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			panic(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.conclusion = in.Conclusion
	})
	return b
}

// serve serves h on loopback and returns the address at which guests reach it.
func serve(t testing.TB, h http.Handler) (fromGuest string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go server.Serve(l) //nolint:errcheck // Close ends it
	t.Cleanup(func() { server.Close() })
	return fmt.Sprintf("http://10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
}

func jit(url string) string {
	return base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf(`{"server_url":%q,"runner_name":"r","token":"sekrit"}`, url)))
}

// said is all that a guest said until it ended.
type said struct {
	hello   *guest.Hello
	states  []millrace.VMState
	console strings.Builder
	usage   millrace.Metering
	exit    *guest.Exit
}

// start starts a machine, which is killed if it outlives the test.
func start(t testing.TB, d *qemu.Driver, id string) vm.Machine {
	t.Helper()
	m, err := d.Start(t.Context(), vm.Spec{ID: id, Arch: d.Arch(), VCPUs: 1, MemoryMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Kill(); <-m.Done() })
	return m
}

// resume is the host of m from byte console on.
func resume(t testing.TB, m vm.Machine, console int64) *guest.Host {
	t.Helper()
	host := guest.NewHost(m.Channel())
	if err := host.Resume(console); err != nil {
		t.Fatal(err)
	}
	return host
}

// boot boots one machine with a config and collects what it says to its end, which must come within a while.
func boot(t testing.TB, d *qemu.Driver, id string, c guest.Config, within time.Duration) *said {
	t.Helper()
	m := start(t, d, id)
	defer time.AfterFunc(within, m.Kill).Stop()
	host := resume(t, m, 0)
	if err := host.Configure(c); err != nil { // is there when the guest looks for it
		t.Fatal(err)
	}
	s := &said{}
	s.listen(host, func() bool { return false })
	<-m.Done()
	if err := m.Err(); err != nil {
		t.Fatalf("the machine: %v; it said %+v\n%s", err, s, s.console.String())
	}
	return s
}

// listen notes what a guest says, and that it is kept, until it says no more or enough is.
func (s *said) listen(host *guest.Host, enough func() bool) {
	for !enough() {
		e, err := host.Next()
		if err != nil {
			return
		}
		switch {
		case e.Hello != nil:
			s.hello = e.Hello
		case e.State != "":
			s.states = append(s.states, e.State)
		case e.Usage != nil:
			s.usage = e.Usage.Metering
		case e.Exit != nil:
			s.exit = e.Exit
			_ = host.Heard() // or the machine's end ends this
		default:
			s.console.Write(e.Console)
		}
	}
}

// A VM is the same on every architecture, the host's own and one that is emulated.
func TestBootRunsAJob(t *testing.T) {
	t.Parallel()
	for arch, machine := range map[millrace.Arch]string{millrace.AMD64: "x86_64", millrace.ARM64: "aarch64"} {
		t.Run(string(arch), func(t *testing.T) {
			t.Parallel()
			if arch != millrace.Arch(runtime.GOARCH) {
				needEmulator(t, machine)
			}
			bootRunsAJob(t, arch, machine)
		})
	}
}

// needEmulator skips a test where QEMU for another processor than this machine's is missing.
func needEmulator(t *testing.T, machine string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-" + machine); err != nil {
		t.Skipf("%v; make deps installs it where it can", err)
	}
}

func bootRunsAJob(t *testing.T, arch millrace.Arch, machine string) {
	dir := t.TempDir()
	d := prepareArch(t, dir, arch, nil)
	t.Logf("VMs by %s", d.Name())
	b := newBroker(`id -u; hostname; uname -r; cat /proc/sys/kernel/random/boot_id; date +%Y; uname -m; dd if=/dev/zero of=work bs=64k count=16 2>/dev/null; sync
cat /proc/cmdline; tr '\0' '\n' </proc/1/environ; env; exit 3`)
	began := time.Now()
	s := boot(t, d, "one", guest.Config{Hostname: "vm-one", JIT: jit(serve(t, b)), Now: time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC)}, time.Minute)
	t.Logf("the whole VM took %v", time.Since(began))

	hostBoot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if s.hello == nil || s.hello.BootID == "" || s.hello.BootID == strings.TrimSpace(string(hostBoot)) {
		t.Fatalf("hello %+v", s.hello)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := strings.Split(b.log.String(), "\n")
	if len(lines) < 7 || lines[1] != "1000" || lines[2] != "vm-one" || lines[3] != s.hello.Kernel || lines[4] != s.hello.BootID || lines[5] != "2031" || lines[6] != machine {
		t.Errorf("the job's log:\n%s", b.log.String())
	}
	if strings.Contains(b.log.String(), "JITCONFIG") || strings.Contains(b.log.String(), "sekrit") || strings.Contains(s.console.String(), "sekrit") {
		t.Error("the registration can be read by the job")
	}
	if b.conclusion != "failure" || s.exit == nil || s.exit.Code != 0 {
		t.Errorf("conclusion %q, exit %+v", b.conclusion, s.exit)
	}
	if len(s.states) != 2 || s.states[0] != millrace.VMOnline || s.states[1] != millrace.VMBusy {
		t.Errorf("states %v in:\n%s", s.states, s.console.String())
	}
	if u := s.usage; u.PeakMemory < 1<<20 || u.CPUMillis == 0 || u.DiskWrite < 1<<20 || u.NetRx == 0 || u.NetTx == 0 {
		t.Errorf("usage %+v", u)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOtherArchIsEmulated(t *testing.T) {
	t.Parallel()
	other, machine := millrace.ARM64, "aarch64"
	if runtime.GOARCH == "arm64" {
		other, machine = millrace.AMD64, "x86_64"
	}
	needEmulator(t, machine)
	if d, err := qemu.New(qemu.Config{Dir: t.TempDir(), Arch: other, Accel: qemu.AccelAuto}); err != nil || d.Name() != "qemu/tcg" {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := qemu.New(qemu.Config{Dir: t.TempDir(), Arch: other, Accel: qemu.AccelKVM}); err == nil {
		t.Errorf("%s by KVM on %s", other, runtime.GOARCH)
	}
	if _, err := qemu.New(qemu.Config{Dir: t.TempDir(), Arch: millrace.ArchAny}); err == nil {
		t.Error("machines of any architecture")
	}
}

// Two guests have the same address, each on a network of its own: neither reaches the other.
func TestGuestsAreApart(t *testing.T) {
	t.Parallel()
	d := prepare(t, t.TempDir())
	var wg sync.WaitGroup
	for _, id := range []string{"left", "right"} {
		wg.Go(func() {
			// Each serves its name on its address for a while and asks all addresses there are for the other's.
			b := newBroker(`mkdir www; echo ` + id + ` >www/name
(while true; do { printf 'HTTP/1.0 200 OK\r\n\r\n'; cat www/name; } | nc -l -p 8099 >/dev/null; done) &
for n in 1 2 3; do for a in 10.0.2.15 10.0.2.2 10.0.2.16 10.0.2.255; do echo "$a: $(timeout 1 wget -q -O - http://$a:8099/name 2>&1)"; done; done`)
			boot(t, d, id, guest.Config{Hostname: id, JIT: jit(serve(t, b))}, time.Minute)
			other := map[string]string{"left": "right", "right": "left"}[id]
			b.mu.Lock()
			defer b.mu.Unlock()
			if strings.Contains(b.log.String(), ": "+other) || !strings.Contains(b.log.String(), "10.0.2.15: "+id) {
				t.Errorf("%s sees:\n%s", id, b.log.String())
			}
		})
	}
	wg.Wait()
}

func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := prepare(t, dir)
	m := start(t, d, "killed")
	m.Kill()
	<-m.Done()
	if m.Err() == nil {
		t.Error("a machine that was killed says that it powered off")
	}
	if dirs, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
	if _, err := d.Start(t.Context(), vm.Spec{ID: "../../etc", Arch: d.Arch()}); err == nil {
		t.Error("a path passed for an ID")
	}
}

// TestAdopt is what an agent does that comes after one that was killed: it goes on with the machines that it knows of, in the
// middle of their jobs, and removes all else.
func TestAdopt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := prepare(t, dir)
	b := newBroker(`echo begins; for n in $(seq 1 200); do echo line $n; sleep 0.02; done; exit 3`)
	known, unknown := start(t, d, "known"), start(t, d, "unknown")
	defer time.AfterFunc(90*time.Second, known.Kill).Stop()
	host := resume(t, known, 0)
	if err := host.Configure(guest.Config{Hostname: "vm", JIT: jit(serve(t, b))}); err != nil {
		t.Fatal(err)
	}
	s := &said{}
	s.listen(host, func() bool { return strings.Contains(s.console.String(), "line 5\n") })
	known.Channel().Close() // as the kernel does for a process that is killed

	// What isn't a machine is none of ours, though it works where one was: a shell that looks for what went wrong.
	lost := filepath.Join(dir, "vms", "lost")
	if err := os.Mkdir(lost, 0o700); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "sleep", "1000")
	shell.Dir = lost
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // the guest prints into nothing

	later := prepare(t, dir)
	adopted, err := later.Adopt(t.Context(), []string{"known", "lost", "never"})
	if err != nil {
		t.Fatal(err)
	}
	m := adopted["known"]
	if m == nil || len(adopted) != 1 {
		t.Fatalf("adopted %v", adopted)
	}
	<-unknown.Done()
	if dirs, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(dirs) != 1 {
		t.Errorf("there are %v", dirs)
	}
	if err := shell.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the shell is gone: %v", err)
	}
	_ = shell.Process.Kill()
	_ = shell.Wait()

	first := s.console.String()
	s = &said{}
	s.listen(resume(t, m, int64(len(first))), func() bool { return false })
	<-m.Done()
	if m.Err() != nil || s.hello == nil || !s.hello.Configured || len(s.states) != 2 || s.usage.CPUMillis == 0 || s.exit == nil || s.exit.Code != 0 {
		t.Errorf("%v; it said %+v", m.Err(), s)
	}
	for n, all := 1, first+s.console.String(); n <= 200; n++ {
		if strings.Count(all, fmt.Sprintf("line %d\n", n)) != 1 {
			t.Fatalf("line %d is missing or twice in:\n%s", n, all)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conclusion != "failure" || !strings.Contains(b.log.String(), "line 200\n") {
		t.Errorf("the job ended %q:\n%s", b.conclusion, b.log.String())
	}
	if dirs, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
}

// TestAdoptKills: a machine that was adopted ends when it is killed.
func TestAdoptKills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, prepare(t, dir), "m")
	adopted, err := prepare(t, dir).Adopt(t.Context(), []string{"m"})
	if err != nil || adopted["m"] == nil {
		t.Fatalf("%v, %v", adopted, err)
	}
	adopted["m"].Kill()
	<-adopted["m"].Done()
	if adopted["m"].Err() == nil {
		t.Error("it was not killed")
	}
}

// process is a kernel as one process knows it. Once that has ended, it removes no cgroup: its driver, which in a test lives on,
// would be there before the one that comes after.
type process struct {
	*cgrouptest.Kernel
	ended atomic.Bool
}

func (p *process) Rmdir(dir string) error {
	if p.ended.Load() {
		return nil
	}
	return p.Kernel.Rmdir(dir)
}

// confined makes a driver of p whose machines are in cgroups.
func confined(t *testing.T, dir string, p *process) *qemu.Driver {
	t.Helper()
	tree, err := cgroup.Open(cgroup.Config{Root: p.Root, Files: p})
	if err != nil {
		t.Fatal(err)
	}
	programs, err := guest.Programs(millrace.Arch(runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	d, err := qemu.New(qemu.Config{Dir: dir, Programs: programs, Accel: qemu.AccelTCG, Cgroups: tree})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// A machine's cgroup has its limits before its process, is found by who comes after, and goes with it.
func TestCgroups(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), cgrouptest.New(t, "cpu", "memory", "pids")
	former := &process{Kernel: k}
	d := confined(t, dir, former)
	opened := len(k.Writes())
	m, err := d.Start(t.Context(), vm.Spec{ID: "a", Arch: d.Arch(), VCPUs: 1, MilliCPU: 750, MemoryMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	bursts, err := d.Start(t.Context(), vm.Spec{ID: "b", Arch: d.Arch(), VCPUs: 1, MilliCPU: 750, MemoryMB: 256, Burstable: true})
	if err != nil {
		t.Fatal(err)
	}
	wrote := k.Writes()[opened:]
	if len(wrote) != 12 || wrote[4] != "vm-a/cpu.max=75000 100000" || !strings.HasPrefix(wrote[5], "vm-a/cgroup.procs=") || wrote[10] != "vm-b/cpu.max=max 100000" {
		t.Errorf("wrote %q", wrote)
	}
	t.Cleanup(func() { m.Kill(); bursts.Kill() })
	if e, err := resume(t, m, 0).Next(); err != nil || e.Hello == nil {
		t.Errorf("it doesn't boot: %+v, %v", e, err)
	}
	m.Channel().Close()

	// Who comes after finds the one that it knows without limits, as systemd leaves it, and removes the other.
	k.Set(t, "vm-a/cpu.max", "max 100000\n")
	former.ended.Store(true)
	later := confined(t, dir, &process{Kernel: k})
	adopted, err := later.Adopt(t.Context(), []string{"a"})
	if err != nil || adopted["a"] == nil {
		t.Fatalf("%v, %v", adopted, err)
	}
	<-bursts.Done()
	if groups, limit := k.Groups(), k.Get("vm-a/cpu.max"); !slices.Equal(groups, []string{"agent", "vm-a"}) || limit != "75000 100000" {
		t.Errorf("there are %v, the limit is %q", groups, limit)
	}
	k.Set(t, "vm-a/memory.events", "oom_kill 1\n")
	if err := syscall.Kill(pidOf(t, k, "vm-a"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-adopted["a"].Done()
	if err := adopted["a"].Err(); err == nil || !strings.Contains(err.Error(), "more memory") {
		t.Errorf("it ended: %v", err)
	}
	<-m.Done()
	if groups := k.Groups(); !slices.Equal(groups, []string{"agent"}) {
		t.Errorf("left %v", groups)
	}

	// A machine whose limits can't be set isn't started, and leaves nothing.
	for _, file := range []string{"vm-c", "vm-c/memory.max", "vm-c/cgroup.procs"} {
		k.Fail(file, syscall.EACCES)
		if _, err := later.Start(t.Context(), vm.Spec{ID: "c", Arch: d.Arch(), VCPUs: 1, MilliCPU: 750, MemoryMB: 256}); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%s: %v", file, err)
		}
		k.Fail(file, nil)
		if dirs, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(dirs) > 0 || len(k.Groups()) != 1 {
			t.Errorf("%s: left %v and %v", file, dirs, k.Groups())
		}
	}
}

// pidOf is the process in a cgroup.
func pidOf(t *testing.T, k *cgrouptest.Kernel, group string) int {
	t.Helper()
	pid, err := strconv.Atoi(k.Get(group + "/cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
