package qemu_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/qemu"
)

// prepare makes a driver whose state is in dir, and whose machines have a user-mode network.
func prepare(t testing.TB, dir string) *qemu.Driver { return prepareOn(t, dir, nil) }

func prepareOn(t testing.TB, dir string, n *network.Network) *qemu.Driver {
	t.Helper()
	init, err := guest.Binary(millrace.AMD64, "millrace-init")
	if err != nil {
		t.Fatal(err)
	}
	runner, err := guest.Binary(millrace.AMD64, "testrunner")
	if err != nil {
		t.Fatal(err)
	}
	d, err := qemu.New(qemu.Config{Dir: dir, Init: init, Runner: runner, Accel: qemu.AccelAuto, Network: n})
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

// boot boots one machine with a config and collects what it says to its end.
func boot(t testing.TB, d *qemu.Driver, id string, c guest.Config) *said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a machine that is busy takes its time
	defer cancel()
	m, err := d.Start(ctx, vm.Spec{ID: id, Arch: millrace.AMD64, VCPUs: 1, MemoryMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	host := guest.NewHost(m.Channel())
	if err := host.Configure(c); err != nil { // is there when the guest looks for it
		t.Fatal(err)
	}
	s := &said{}
	for {
		e, err := host.Next()
		if err != nil {
			break
		}
		switch {
		case e.Hello != nil:
			s.hello = e.Hello
		case e.State != "":
			s.states = append(s.states, e.State)
		case e.Usage != nil:
			s.usage = *e.Usage
		case e.Exit != nil:
			s.exit = e.Exit
		default:
			s.console.Write(e.Console)
		}
	}
	<-m.Done()
	if err := m.Err(); err != nil {
		t.Fatalf("the machine: %v; it said %+v\n%s", err, s, s.console.String())
	}
	return s
}

func TestBootRunsAJob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := prepare(t, dir)
	t.Logf("VMs by %s", d.Name())
	b := newBroker(`id -u; hostname; uname -r; cat /proc/sys/kernel/random/boot_id; date +%Y; dd if=/dev/zero of=work bs=64k count=16 2>/dev/null; sync
cat /proc/cmdline; tr '\0' '\n' </proc/1/environ; env; exit 3`)
	began := time.Now()
	s := boot(t, d, "one", guest.Config{Hostname: "vm-one", JIT: jit(serve(t, b)), Now: time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC)})
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
	if len(lines) < 6 || lines[1] != "1000" || lines[2] != "vm-one" || lines[3] != s.hello.Kernel || lines[4] != s.hello.BootID || lines[5] != "2031" {
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
			boot(t, d, id, guest.Config{Hostname: id, JIT: jit(serve(t, b))})
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

func TestKillAndLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := prepare(t, dir)
	start := func(id string) vm.Machine {
		t.Helper()
		m, err := d.Start(t.Context(), vm.Spec{ID: id, Arch: millrace.AMD64, VCPUs: 1, MemoryMB: 256})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	killed := start("killed")
	killed.Kill()
	<-killed.Done()
	if killed.Err() == nil {
		t.Error("a machine that was killed says that it powered off")
	}
	left := start("left")
	prepare(t, dir) // as an agent does that comes after one that was killed
	<-left.Done()
	if left.Err() == nil {
		t.Error("a machine that was left over runs on")
	}
	if dirs, _ := filepath.Glob(filepath.Join(dir, "vms", "*")); len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
	if _, err := d.Start(t.Context(), vm.Spec{ID: "../../etc"}); err == nil {
		t.Error("a path passed for an ID")
	}
}
