package launcher_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/launcher"
)

// asStranger is where a process of this test finds a launcher that serves another agent.
const asStranger = "TEST_LAUNCHER_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(asStranger); path != "" {
		_, _ = os.Stdout.WriteString(answerOf(path, os.Getenv("TEST_LAUNCHER_ASKS")))
		return
	}
	os.Exit(m.Run())
}

// answerOf is what a launcher answers to a packet.
func answerOf(path, packet string) string {
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if _, err := c.Write([]byte(packet)); err != nil {
		return err.Error()
	}
	answer := make([]byte, 128<<10)
	n, err := c.Read(answer)
	if err != nil {
		return err.Error()
	}
	return string(answer[:n])
}

// machines is a driver whose machines echo what they hear, and power off when they hear an end.
type machines struct {
	slow  bool   // a start takes until it is given up
	looks func() // is called when Adopt has looked for machines

	mu      sync.Mutex
	running map[string]*machine
	broken  error
}

func (d *machines) Name() string { return "test" }
func (d *machines) Boot() vm.Boot {
	return vm.Boot{Took: 512 * time.Millisecond, Why: "a guest booted"}
}

func (d *machines) Prepare(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

func (d *machines) Adopt(_ context.Context, ids []string) (map[string]vm.Machine, error) {
	if d.looks != nil {
		defer d.looks()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	adopted := map[string]vm.Machine{}
	for id, m := range d.running {
		if slices.Contains(ids, id) {
			adopted[id] = m.begin()
		} else {
			go m.Kill()
		}
	}
	return adopted, nil
}

func (d *machines) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if d.slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return nil, d.broken
	}
	m := (&machine{done: make(chan struct{})}).begin()
	d.running[spec.ID] = m
	context.AfterFunc(context.Background(), func() {
		<-m.done
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, spec.ID)
	})
	return m, nil
}

type machine struct {
	channel net.Conn
	once    sync.Once
	done    chan struct{}
	err     error
}

// begin opens a channel to the machine.
func (m *machine) begin() *machine {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "channel")
		if ends[i], err = net.FileConn(f); err != nil {
			panic(err)
		}
		f.Close()
	}
	m.channel = ends[0]
	go func() {
		defer ends[1].Close()
		heard := make([]byte, 64)
		for {
			n, err := ends[1].Read(heard)
			if err != nil {
				return
			}
			if string(heard[:n]) == "end" {
				m.end(nil)
				return
			}
			_, _ = ends[1].Write(heard[:n])
		}
	}()
	return m
}

func (m *machine) end(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.done)
	})
}

func (m *machine) Channel() io.ReadWriteCloser { return m.channel }
func (m *machine) Done() <-chan struct{}       { return m.done }
func (m *machine) Err() error                  { return m.err }
func (m *machine) Kill()                       { m.end(errors.New("killed")) }

var host = launcher.Host{Facts: millrace.HostFacts{
	Arch: millrace.AMD64, VCPUs: 2, MemoryMB: 2048, Offer: millrace.Size{MilliCPU: 2000, MemoryMB: 1024}, Labels: []string{"rack-7"},
}}

// serve serves machines until the agent or the test ends.
func serve(t *testing.T, dir string, c launcher.Config) (path string, ended <-chan error) {
	t.Helper()
	path = filepath.Join(dir, "socket")
	l, err := launcher.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Host.Dir, c.Log = dir, slog.New(slog.DiscardHandler)
	if c.Said == nil {
		c.Said = launcher.NewLog()
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		done <- launcher.Serve(ctx, l, c)
	}()
	t.Cleanup(func() {
		cancel()
		for range done {
		}
	})
	return path, done
}

func dial(t *testing.T, path string) *launcher.Driver {
	t.Helper()
	d, err := launcher.Dial(t.Context(), path, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func spec(id string, milli, memory int) vm.Spec {
	return vm.Spec{ID: id, Arch: millrace.AMD64, VCPUs: millrace.Size{MilliCPU: milli}.VCPUs(), MilliCPU: milli, MemoryMB: memory}
}

func start(t *testing.T, d vm.Driver, s vm.Spec) vm.Machine {
	t.Helper()
	m, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// echoes fails the test unless the machine says what it is told.
func echoes(t *testing.T, m vm.Machine) {
	t.Helper()
	heard := make([]byte, 64)
	if _, err := m.Channel().Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Channel().Read(heard); err != nil || string(heard[:n]) != "hello" {
		t.Fatalf("%q, %v", heard[:n], err)
	}
}

// ends waits for the end of a machine.
func ends(t *testing.T, m vm.Machine) error {
	t.Helper()
	select {
	case <-m.Done():
		return m.Err()
	case <-time.After(10 * time.Second):
		t.Fatal("the machine didn't end")
		return nil
	}
}

func TestMachines(t *testing.T) {
	t.Parallel()
	var rebooted atomic.Int32
	found := []millrace.Finding{{Check: "smt", Level: millrace.LevelOK, Found: "off"}}
	real := &machines{running: map[string]*machine{}}
	may := host
	may.Facts.Reboots = true
	path, ended := serve(t, t.TempDir(), launcher.Config{
		Driver: real, Host: may, Examine: func(context.Context) []millrace.Finding { return found },
		Reboot: func(context.Context) error { rebooted.Add(1); return nil },
	})
	d := dial(t, path)
	if h := d.Host(); h.Facts.Offer != host.Facts.Offer || h.Facts.Labels[0] != "rack-7" || !h.Facts.Reboots || h.Dir == "" {
		t.Errorf("%+v", h)
	}
	if err := d.Prepare(t.Context()); err != nil || d.Name() != "test" || d.Boot() != real.Boot() {
		t.Errorf("prepared: %v, %s, %+v", err, d.Name(), d.Boot())
	}
	if got, err := d.Examine(t.Context()); err != nil || !slices.Equal(got, found) {
		t.Errorf("examined: %+v, %v", got, err)
	}
	if err := d.Reboot(t.Context()); err != nil || rebooted.Load() != 1 {
		t.Errorf("rebooted %d times: %v", rebooted.Load(), err)
	}

	one, two := start(t, d, spec("one", 1000, 512)), start(t, d, spec("two", 500, 256))
	echoes(t, one)
	echoes(t, two)
	one.Kill()
	if err := ends(t, one); err == nil || err.Error() != "killed" {
		t.Errorf("one: %v", err)
	}
	if _, err := two.Channel().Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	if err := ends(t, two); err != nil {
		t.Errorf("two: %v", err)
	}
	one.Kill() // once more is no error
	real.mu.Lock()
	real.broken = errors.New("the disk is full")
	real.mu.Unlock()
	for what, err := range map[string]error{
		"started":  func() error { _, err := d.Start(t.Context(), spec("three", 500, 256)); return err }(),
		"prepared": d.Prepare(t.Context()),
	} {
		if err == nil || err.Error() != "the disk is full" {
			t.Errorf("%s with a broken driver: %v", what, err)
		}
	}
	d.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with its agent: %v", err)
	}
}

// A start that is given up leaves nothing, and what it took is free again.
func TestStartGivenUp(t *testing.T) {
	t.Parallel()
	real := &machines{running: map[string]*machine{}, slow: true}
	path, _ := serve(t, t.TempDir(), launcher.Config{Driver: real, Host: host})
	d := dial(t, path)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := d.Start(ctx, spec("one", 2000, 1024)); err == nil || !strings.Contains(err.Error(), "canceled") {
			t.Errorf("got %v", err)
		}
	}
}

// The host's owner has the last word, whatever the agent says: also of machines that an earlier launcher started.
func TestBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real := &machines{running: map[string]*machine{}}
	path, ended := serve(t, dir, launcher.Config{Driver: real, Host: host})
	d := dial(t, path)
	big := start(t, d, spec("big", 1500, 768))
	refused := func(d *launcher.Driver, specs map[string]vm.Spec) {
		t.Helper()
		for name, s := range specs {
			if _, err := d.Start(t.Context(), s); err == nil {
				t.Errorf("%s was started", name)
			}
		}
	}
	left := map[string]vm.Spec{"more memory than is left": spec("a", 250, 257), "more of a CPU than is left": spec("b", 501, 128)}
	refused(d, left)
	refused(d, map[string]vm.Spec{
		"the same once more":     spec("big", 250, 128),
		"no CPU":                 spec("c", 0, 128),
		"less than no CPU":       spec("d", -1000, 128),
		"less than no memory":    spec("e", 250, -1<<62),
		"all memory there is":    spec("f", 250, 1<<62),
		"all CPUs there are":     spec("g", 1<<62, 128),
		"CPUs it doesn't count":  {ID: "h", Arch: millrace.AMD64, VCPUs: 64, MilliCPU: 100, MemoryMB: 128},
		"no CPUs but a claim":    {ID: "i", Arch: millrace.AMD64, MilliCPU: 100, MemoryMB: 128},
		"another architecture":   {ID: "j", Arch: millrace.ARM64, VCPUs: 1, MilliCPU: 100, MemoryMB: 128},
		"no architecture at all": {ID: "k", VCPUs: 1, MilliCPU: 100, MemoryMB: 128},
	})
	if err := d.Reboot(t.Context()); err == nil || !strings.Contains(err.Error(), "owner") {
		t.Errorf("a machine whose owner doesn't want it is rebooted: %v", err)
	}
	d.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	path, _ = serve(t, dir, launcher.Config{Driver: real, Host: host})
	d = dial(t, path)
	adopted, err := d.Adopt(t.Context(), []string{"big", "never was"})
	if err != nil || len(adopted) != 1 || adopted["big"] == nil {
		t.Fatalf("adopted %v, %v", adopted, err)
	}
	echoes(t, adopted["big"])
	refused(d, left)
	small := start(t, d, spec("small", 500, 256))
	adopted["big"].Kill()
	if err := ends(t, adopted["big"]); err == nil {
		t.Error("killed, and it ended by itself")
	}
	start(t, d, spec("a", 1500, 768))
	small.Kill()
	_ = ends(t, small)
	select {
	case <-big.Done():
		t.Error("an end is told by a launcher that has ended itself")
	default:
	}
}

// No machine escapes the bounds because others are taken over while it is started, or later.
func TestAdoptComesFirst(t *testing.T) {
	t.Parallel()
	looks, started := make(chan struct{}), make(chan vm.Machine)
	real := &machines{running: map[string]*machine{}}
	real.looks = func() {
		close(looks)
		select {
		case m := <-started:
			go func() { started <- m }()
		case <-time.After(200 * time.Millisecond): // it waits, as it should
		}
	}
	path, _ := serve(t, t.TempDir(), launcher.Config{Driver: real, Host: host})
	d := dial(t, path)
	go func() {
		<-looks
		m, err := d.Start(t.Context(), spec("one", 2000, 1024))
		if err != nil {
			t.Error(err)
		}
		started <- m
	}()
	if _, err := d.Adopt(t.Context(), nil); err != nil {
		t.Error(err)
	}
	<-started
	if _, err := d.Start(t.Context(), spec("two", 2000, 1024)); err == nil || !strings.Contains(err.Error(), "more than is left") {
		t.Errorf("a second machine of all there is: %v", err)
	}

	for name, first := range map[string]func(*launcher.Driver){
		"one was started": func(d *launcher.Driver) { start(t, d, spec("one", 500, 256)) },
		"they were":       func(d *launcher.Driver) { _, _ = d.Adopt(t.Context(), nil) },
	} {
		path, _ := serve(t, t.TempDir(), launcher.Config{Driver: &machines{running: map[string]*machine{}}, Host: host})
		d := dial(t, path)
		first(d)
		if _, err := d.Adopt(t.Context(), []string{"one"}); err == nil || !strings.Contains(err.Error(), "once") {
			t.Errorf("machines are taken over after %s: %v", name, err)
		}
	}
}

// The host's owner may say how many machines run at once.
func TestMaxVMs(t *testing.T) {
	t.Parallel()
	bounded := host
	bounded.Facts.MaxVMs = 2
	path, _ := serve(t, t.TempDir(), launcher.Config{Driver: &machines{running: map[string]*machine{}}, Host: bounded})
	d := dial(t, path)
	first := start(t, d, spec("a", 100, 64))
	start(t, d, spec("b", 100, 64))
	if _, err := d.Start(t.Context(), spec("c", 100, 64)); err == nil || !strings.Contains(err.Error(), "2 VMs") {
		t.Errorf("a third machine: %v", err)
	}
	first.Kill()
	_ = ends(t, first)
	start(t, d, spec("c", 100, 64))
}

// One process has the launcher: others may neither ask nor become it, and what can't be understood is done by nobody.
func TestStrangers(t *testing.T) {
	t.Parallel()
	real := &machines{running: map[string]*machine{}}
	path, _ := serve(t, t.TempDir(), launcher.Config{Driver: real, Host: host})
	d := dial(t, path)
	if _, err := launcher.Dial(t.Context(), path, io.Discard); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
	const vm = `{"do":"start","spec":{"ID":"evil","Arch":"amd64","VCPUs":1,"MilliCPU":1000,"MemoryMB":128}}`
	for _, packet := range []string{`{"do":"hello"}`, vm, `{"do":"adopt"}`, `{"do":"reboot"}`, `{"do":"attach","ids":["a"]}`} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), asStranger+"="+path, "TEST_LAUNCHER_ASKS="+packet)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "another agent") {
			t.Errorf("%s of another process: %s, %v", packet, out, err)
		}
	}
	for _, packet := range []string{
		"null", "[]", "{", `{"do":"exec","ids":["sh","-c","id"]}`, `{"do":"read","ids":["/etc/shadow"]}`, `{"do":""}`, `{"do":"attach","ids":["../../etc"]}`, `{"do":"kill"}`,
		`{"do":"prepare","argv":["sh"]}`, strings.Replace(vm, `"ID"`, `"Drive":"/dev/sda","ID"`, 1), strings.Replace(vm, `"ID"`, `"KernelArgs":"init=/bin/sh","ID"`, 1),
		`{"do":"start","spec":{"ID":7}}`, strings.Repeat("[", 100_000), strings.Repeat(" ", 140<<10),
	} {
		if got := answerOf(path, packet); !strings.Contains(got, `"error":"`) {
			t.Errorf("%.80q: %s", packet, got)
		}
	}
	real.mu.Lock()
	if len(real.running) != 0 {
		t.Errorf("machines: %v", real.running)
	}
	real.mu.Unlock()
	m := start(t, d, spec("one", 1000, 512))
	echoes(t, m)
	m.Kill()
	_ = ends(t, m)
}

// What a launcher says reaches its agent in order, from before it came on: whole lines, and the newest where there are too many.
func TestSaid(t *testing.T) {
	t.Parallel()
	said := launcher.NewLog()
	say := func(from, to int) {
		for n := range to - from {
			fmt.Fprintf(said, "line %06d, which is as long as lines are, some sixty bytes\n", from+n)
		}
	}
	say(0, 3000)
	path, _ := serve(t, t.TempDir(), launcher.Config{Driver: &machines{running: map[string]*machine{}}, Host: host, Said: said})
	heard, w := io.Pipe()
	defer heard.Close()
	d, err := launcher.Dial(t.Context(), path, w)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	lines := bufio.NewScanner(heard)
	next := -1
	for next < 3010 && lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "line %06d, which is as long as lines are, some sixty bytes", &n); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		switch {
		case next == -1 && (n < 1000 || n > 2500): // some 1,000 lines wait
			t.Errorf("it begins with line %d of 3,000", n)
		case next >= 0 && n != next:
			t.Fatalf("line %d comes where %d should", n, next)
		case n == 2999:
			say(3000, 3010)
		}
		next = n + 1
	}
	if next != 3010 {
		t.Errorf("nothing comes after line %d: %v", next-1, lines.Err())
	}
}

// An agent learns that its launcher has ended, and takes no machine for gone.
func TestLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := launcher.Listen(filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	may := host
	may.Dir = dir
	go func() {
		served <- launcher.Serve(ctx, l, launcher.Config{Driver: &machines{running: map[string]*machine{}}, Host: may, Log: slog.New(slog.DiscardHandler), Said: launcher.NewLog()})
	}()
	d := dial(t, l.Addr().String())
	m := start(t, d, spec("one", 1000, 512))
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	<-d.Lost()
	if _, err := d.Start(t.Context(), spec("two", 500, 256)); err == nil {
		t.Error("a machine was started without a launcher")
	}
	select {
	case <-m.Done():
		t.Error("the machine is taken for gone")
	default:
	}
	echoes(t, m) // the channel is the machine's, not the launcher's
	within, giveUp := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer giveUp()
	if _, err := launcher.Dial(within, l.Addr().String(), io.Discard); err == nil || !strings.Contains(err.Error(), "no launcher") {
		t.Errorf("dialed: %v", err)
	}
}
