package agent

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
)

// hostile is a control plane that somebody took over. It attacks until it is made honest again; the agent, its client and HTTP
// are the real ones, on connections in memory so that time is the test's.
type hostile struct {
	*control
	key    ed25519.PublicKey
	l      *pipes
	served int64 // for its versions: each of its answers is news

	mu       sync.Mutex
	attack   attack
	honest   bool
	asked    map[string]int // calls, by the last part of their path
	answered int64          // bytes of the longest answer that the agent took
}

// attack is one hostile command, or an answer that is to hurt in another way.
type attack struct {
	name  string
	call  string // sync, start, jit, console, samples or "": all
	serve func(h *hostile, w http.ResponseWriter, r *http.Request)
	// starts is how many machines it may have the agent start, each of them within the offer.
	starts int
	none   bool // of them has the internet
}

// Offered is what the host's owner gave.
var offered = millrace.Size{MilliCPU: 2000, MemoryMB: 1024}

// pipes is a listener of connections in memory, and their dialer.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	dialed sync.Map // addresses
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	p.dialed.Store(address, true)
	here, there := net.Pipe()
	select {
	case p.accept <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// ServeHTTP answers as the attack has it, or honestly.
func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut short
	}
	if _, err := client.Verify(r, body, func(millrace.HostID) (ed25519.PublicKey, error) { return h.key, nil }, time.Now()); err != nil && h.isHonest() {
		problemOf(w, err)
		return
	}
	if int64(len(body)) > 4<<20 { // what an honest one reads at the most
		problemOf(w, millrace.Errorf(millrace.TooLarge, "The body is too large."))
		return
	}
	if strings.Contains(string(body)+r.URL.String()+fmt.Sprint(r.Header), canary) {
		h.t.Error("the agent sent what is none of the control plane's business")
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	call := parts[len(parts)-1]
	h.mu.Lock()
	h.asked[call]++
	attacks := !h.honest && (h.attack.call == "" || h.attack.call == call)
	h.mu.Unlock()
	if attacks {
		h.attack.serve(h, w, r)
		return
	}
	h.serve(w, r, call, body)
}

func (h *hostile) isHonest() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.honest
}

// serve is an honest control plane.
func (h *hostile) serve(w http.ResponseWriter, r *http.Request, call string, body []byte) {
	var out any
	var err error
	switch call {
	case "start":
		var in client.StartRequest
		if err = json.Unmarshal(body, &in); err == nil {
			out, err = h.Start(r.Context(), in)
			out = client.StartResponse{Epoch: out.(client.StartResponse).Epoch, ServerTime: time.Now()}
		}
	case "sync":
		var in client.SyncRequest
		if err = json.Unmarshal(body, &in); err == nil {
			if len(in.VMs) > 10_000 { // as package api has it
				err = millrace.Errorf(millrace.Unprocessable, "A host reports at most 10000 VMs.")
				break
			}
			var answer client.SyncResponse
			answer, err = h.Sync(r.Context(), in)
			if answer.VMs == nil {
				answer.VMs = []client.VMOrder{}
			}
			out = answer
		}
	case "jit":
		var in client.JITRequest
		id, _ := millrace.ParseVMID(strings.Split(r.URL.Path, "/")[4])
		if err = json.Unmarshal(body, &in); err == nil {
			out, err = h.JIT(r.Context(), id, in.Epoch)
		}
	default:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err != nil {
		problemOf(w, err)
		return
	}
	answerJSON(w, out)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func problemOf(w http.ResponseWriter, err error) {
	p := client.NewProblem(err, "")
	w.Header().Set("Content-Type", client.ProblemType)
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// recorder is a driver that holds every start to what the host's owner gave.
type recorder struct {
	machines
	mu    sync.Mutex
	specs []vm.Spec
	odd   []string // what is not within bounds
}

var machineID = regexp.MustCompile(`^vm_[0-7][0-9a-hjkmnp-tv-z]{25}-[1-9][0-9]{0,18}$`)

func (d *recorder) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	d.mu.Lock()
	d.specs = append(d.specs, spec)
	size := millrace.Size{MilliCPU: spec.MilliCPU, MemoryMB: spec.MemoryMB}
	if !machineID.MatchString(spec.ID) || len(spec.ID) > 64 || spec.Arch != millrace.AMD64 || spec.MilliCPU < 1 || spec.MilliCPU > offered.MilliCPU ||
		spec.VCPUs != size.VCPUs() || spec.MemoryMB < millrace.MinMemoryMB || spec.MemoryMB > offered.MemoryMB ||
		spec.Egress != "" && spec.Egress != millrace.EgressInternet && spec.Egress != millrace.EgressNone {
		d.odd = append(d.odd, fmt.Sprintf("%+v", spec))
	}
	if n := d.count() + 1; n*spec.MemoryMB > offered.MemoryMB {
		d.odd = append(d.odd, fmt.Sprintf("%d machines of %d MB at once", n, spec.MemoryMB))
	}
	d.mu.Unlock()
	return d.machines.Start(ctx, spec)
}

func (d *recorder) started() []vm.Spec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]vm.Spec(nil), d.specs...)
}

// watch sees every file of a tree that is opened, made or removed.
type watch struct {
	fd    int
	names map[int32]string
}

func newWatch(t *testing.T, root string) *watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{fd: fd, names: map[int32]string{}}
	t.Cleanup(func() { unix.Close(fd) })
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			var wd int
			wd, err = unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS)
			w.names[int32(wd)] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.seen(t) // the walk itself
	return w
}

// seen is what happened since it was last asked.
func (w *watch) seen(t *testing.T) (paths []string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return paths
		}
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
			size := int(uint32(b[12]) | uint32(b[13])<<8 | uint32(b[14])<<16 | uint32(b[15])<<24)
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
			paths = append(paths, filepath.Join(w.names[wd], name))
			b = b[unix.SizeofInotifyEvent+size:]
		}
	}
}

// children are the processes that this one started.
func children(t *testing.T) string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Skip("the kernel doesn't list children")
	}
	var all strings.Builder
	for _, name := range lists {
		if content, err := os.ReadFile(name); err == nil { // a thread may have ended
			all.Write(content)
		}
	}
	return all.String()
}

// heap is what is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const (
	attackFor   = 70 * time.Second
	canary      = "the host's own secret"
	maxGrowth   = 8 << 20 // bytes of heap that an attack may leave
	maxAnswered = 7 << 20 // bytes of one answer that the agent may take off the wire: six for each of 1 MB in the smallest chunks
	// maxCalls of one kind in attackFor: 25 each second.
	maxCalls = int(attackFor/time.Second) * 25
)

// try runs an agent under an attack and then under an honest control plane, and returns what went wrong.
func (a attack) try(t *testing.T) (wrong []string) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "host", "agent")
	for _, path := range []string{"host/agent/journal", "host/etc", "etc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"host/etc/shadow", "etc/shadow", "host/agent/identity.json", "host/secret", "dev/sda"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(canary), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, before, processes := newWatch(t, root), heap(), children(t)
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	synctest.Test(t, func(t *testing.T) {
		_, private, _ := ed25519.GenerateKey(nil)
		h := &hostile{control: newControl(t), key: private.Public().(ed25519.PublicKey), l: newPipes(), attack: a, asked: map[string]int{}}
		server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go server.Serve(h.l) //nolint:errcheck // Close ends it
		defer server.Close()
		web := client.NewHTTP()
		transport := web.Transport.(*http.Transport)
		transport.DialContext, transport.Proxy = h.l.dial, nil
		defer transport.CloseIdleConnections()

		d := &recorder{machines: machines{guest: runsAJob}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		var starts atomic.Int64
		go func() {
			defer close(ended)
			for ctx.Err() == nil { // as systemd does
				starts.Add(1)
				c := Config{
					Server: &client.Agent{URL: "http://control.test", Host: h.host, Key: private, HTTP: web}, Host: h.host, SealKeys: []*ecdh.PrivateKey{h.control.key}, Driver: d, Dir: dir,
					Log: slog.New(slog.DiscardHandler), Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: offered}, EndVMs: ctx.Err() != nil,
				}
				if err := Run(ctx, c); err != nil && !errors.Is(err, EndRestart) {
					complain("the agent ended: %v", err)
				}
				select {
				case <-time.After(2 * time.Second):
				case <-ctx.Done():
				}
			}
		}()

		time.Sleep(attackFor)
		h.mu.Lock()
		h.honest = true
		for call, n := range h.asked {
			if n > maxCalls {
				complain("%d calls of %s in %v", n, call, attackFor)
			}
		}
		if h.answered > maxAnswered {
			complain("the agent took %d bytes of an answer", h.answered)
		}
		h.mu.Unlock()
		if n := starts.Load(); n > int64(attackFor/(2*time.Second))+1 {
			complain("%d starts in %v", n, attackFor)
		}
		specs := d.started()
		if len(specs) != a.starts {
			complain("%d machines were started, not %d: %.2000s", len(specs), a.starts, fmt.Sprint(specs))
		}
		for _, s := range specs {
			if a.none && s.Egress != millrace.EgressNone {
				complain("%+v may reach the internet", s)
			}
		}

		h.set()
		time.Sleep(2 * time.Minute)
		h.set(order(201))
		time.Sleep(30 * time.Second)
		if r := h.report(201); r.State != millrace.VMBusy {
			complain("afterwards a good order came to %.300s", fmt.Sprintf("%+v", r))
		}
		if grown := heap() - before; grown > maxGrowth {
			complain("%d bytes of memory are left", grown)
		}
		h.set()
		time.Sleep(20 * time.Second)
		cancel()
		<-ended
		transport.CloseIdleConnections()
		server.Close()
		time.Sleep(time.Minute)
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, odd := range d.odd {
			complain("a machine was started out of bounds: %s", odd)
		}
		h.l.dialed.Range(func(address, _ any) bool {
			if address != "control.test:80" {
				complain("the agent dialed %v", address)
			}
			return true
		})
	})
	entry := regexp.MustCompile(`^` + regexp.QuoteMeta(filepath.Join(dir, "journal")) + `(/vm_[0-9a-z]{26}--?[0-9]+\.json(\.new)?)?$`)
	for _, path := range files.seen(t) {
		if path != dir && path != root && !entry.MatchString(path) {
			complain("the agent touched %s", path)
		}
	}
	if now := children(t); now != processes {
		complain("processes were started: %q, before %q", now, processes)
	}
	return wrong
}

// A control plane that somebody took over gets nothing of a host but VMs within the owner's bounds: no program, no file, no
// other address, no memory without bound; and the agent serves a good order afterwards.
func TestHostileControlPlane(t *testing.T) { //nolint:paralleltest // it weighs the process's heap and counts its children
	attacks := hostileAttacks(t)
	failed := 0
	names := map[string]bool{}
	for _, a := range attacks { //nolint:paralleltest // as above
		if names[a.name] {
			t.Errorf("there are two of %s", a.name)
		}
		names[a.name] = true
		t.Run(a.name, func(t *testing.T) {
			if wrong := a.try(t); len(wrong) > 0 {
				failed++
				t.Error(strings.Join(wrong, "\n"))
			}
		})
	}
	t.Logf("hostile control plane: %d of %d commands did more than a host's owner allows", failed, len(attacks))
	if len(attacks) < 60 {
		t.Errorf("only %d commands", len(attacks))
	}
}
