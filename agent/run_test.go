package agent

import (
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
)

// machines is a driver whose guests are goroutines, which outlive the agent's loop.
type machines struct {
	guest func(ctx context.Context, g *guest.Guest)
	talk  func(*fake.Port) // instead of guest: one that isn't ours
	fail  error

	mu      sync.Mutex
	started int
	running map[string]*portMachine
	broken  error // of Prepare
}

func (d *machines) Name() string { return "test" }

func (d *machines) Boot() vm.Boot { return vm.Boot{Took: 512 * time.Millisecond} }

func (d *machines) Prepare(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

func (d *machines) Adopt(_ context.Context, ids []string) (map[string]vm.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	adopted := map[string]vm.Machine{}
	for id, m := range d.running {
		if !slices.Contains(ids, id) {
			m.kill()
			continue
		}
		again := *m
		again.channel = m.port.Connect()
		adopted[id] = &again
	}
	return adopted, nil
}

func (d *machines) Start(_ context.Context, spec vm.Spec) (vm.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.started++
	if d.fail != nil {
		return nil, d.fail
	}
	ctx, kill := context.WithCancel(context.Background())
	port := fake.NewPort()
	m := &portMachine{port: port, channel: port.Connect(), kill: kill, done: make(chan struct{}), err: new(error)}
	if d.running == nil {
		d.running = map[string]*portMachine{}
	}
	d.running[spec.ID] = m
	go func() {
		defer close(m.done)
		context.AfterFunc(ctx, func() { port.Close() })
		if d.talk != nil {
			d.talk(port)
		} else {
			d.guest(ctx, guest.NewGuest(port))
		}
		if ctx.Err() != nil {
			*m.err = errors.New("killed")
		}
		kill()
		d.mu.Lock()
		delete(d.running, spec.ID)
		d.mu.Unlock()
	}()
	return m, nil
}

// count is the number of machines that run.
func (d *machines) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.running)
}

type portMachine struct {
	port    *fake.Port
	channel io.ReadWriteCloser
	kill    func()
	done    chan struct{}
	err     *error
}

func (m *portMachine) Channel() io.ReadWriteCloser { return m.channel }
func (m *portMachine) Done() <-chan struct{}       { return m.done }
func (m *portMachine) Err() error                  { return *m.err }
func (m *portMachine) Kill()                       { m.kill() }

// boots is a guest that boots for a second and tells its configuration.
func boots(g *guest.Guest) (guest.Config, bool) {
	time.Sleep(time.Second)
	_ = g.Say(guest.Event{Hello: &guest.Hello{Kernel: "6.1"}})
	c, err := g.Config()
	return c, err == nil
}

// runsAJob is a guest that runs one job of a minute.
func runsAJob(ctx context.Context, g *guest.Guest) {
	c, ok := boots(g)
	if !ok {
		return
	}
	for _, ev := range []guest.Event{
		{State: millrace.VMOnline},
		{State: millrace.VMBusy},
		{Console: []byte("I am " + c.Hostname + " with " + c.JIT + "\n")},
	} {
		_ = g.Say(ev)
	}
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done(): // killed: it says no more
		return
	}
	_ = g.Say(guest.Event{Usage: &guest.Usage{Metering: millrace.Metering{CPUMillis: 60_000}, UptimeMS: 61_000}})
	_ = g.Say(guest.Event{Exit: &guest.Exit{Code: 0}})
}

// runs is Run in the background, until the test ends it; then it ends its machines.
func runs(t *testing.T, c *control, d *machines) (stop func()) {
	t.Helper()
	end := runsIn(t, c, d, t.TempDir(), true)
	return func() {
		t.Helper()
		end()
		if n := d.count(); n != 0 {
			t.Errorf("%d machines run on", n)
		}
	}
}

// runsIn is Run in dir in the background, until the test ends it.
func runsIn(t *testing.T, c *control, d *machines, dir string, endVMs bool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{
			Server: c, Host: c.host, SealKeys: []*ecdh.PrivateKey{c.key}, Driver: d, Dir: dir, EndVMs: endVMs, Log: slog.New(slog.DiscardHandler),
			Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 2000, MemoryMB: 1024}},
		})
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(time.Second) // the guests see it
	}
}

// An agent that is asked to start anew ends and leaves its VMs to the next; one whose host was removed ends them.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d, dir := newControl(t), &machines{guest: runsAJob}, t.TempDir()
		run := func() error {
			return Run(t.Context(), Config{
				Server: c, Host: c.host, SealKeys: []*ecdh.PrivateKey{c.key}, Driver: d, Dir: dir, Log: slog.New(slog.DiscardHandler),
				Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 2000, MemoryMB: 1024}},
			})
		}
		c.set(order(1))
		c.ask(true, nil)
		if err := run(); !errors.Is(err, EndRestart) || d.count() != 1 {
			t.Errorf("%v, %d machines", err, d.count())
		}
		c.ask(false, millrace.Errorf(millrace.HostRemoved, "removed"))
		if err := run(); !errors.Is(err, EndRemoved) || d.count() != 0 {
			t.Errorf("%v, %d machines", err, d.count())
		}
		time.Sleep(time.Second) // the guests see it
	})
}

// What an agent finds at its start goes with it, and takes no longer than a host may be silent.
func TestRunTellsWhatItFinds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newControl(t)
		ctx, cancel := context.WithTimeout(t.Context(), millrace.OfflineAfter)
		defer cancel()
		began, asked := time.Now(), time.Duration(0)
		err := Run(ctx, Config{
			Server: c, Host: c.host, SealKeys: []*ecdh.PrivateKey{c.key}, Driver: &machines{}, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
			Examine: func(ctx context.Context) []millrace.Finding {
				<-ctx.Done()
				asked = time.Since(began)
				return []millrace.Finding{fine("smt", "off")}
			},
		})
		if err != nil || c.facts.BootMS != 512 || len(c.facts.Findings) != 1 || asked > millrace.OfflineAfter/3 {
			t.Errorf("%v, %+v after %v", err, c.facts, asked)
		}
	})
}

// What the agent says reaches the control plane, also what it said before that could be reached, and its last word.
func TestOwnLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newControl(t)
		c.away = true
		stop := runs(t, c, &machines{guest: runsAJob})
		time.Sleep(time.Minute)
		c.mu.Lock()
		c.away = false
		c.mu.Unlock()
		time.Sleep(time.Minute)
		c.set(order(1))
		time.Sleep(3 * time.Minute)
		stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, want := range []string{"The control plane did not answer", "The control plane knows this agent.", "A VM is started.", "A VM is gone."} {
			if !strings.Contains(string(c.log), want) {
				t.Errorf("nothing of %q in\n%s", want, c.log)
			}
		}
		if strings.Contains(string(c.log), "config of ") {
			t.Errorf("a registration is in the log:\n%s", c.log)
		}
	})
}

// A guest that says the same for ever, at length, fills no log.
func TestTalkativeGuest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newControl(t)
		stop := runs(t, c, &machines{talk: func(port *fake.Port) {
			var first struct{ Resume struct{ Session []byte } }
			if err := json.NewDecoder(port).Decode(&first); err != nil {
				t.Error(err)
			}
			say := func(kind byte, payload string) {
				head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload))) // as guest/channel.go has it
				if _, err := port.Write(append(head, payload...)); err != nil {
					t.Error(err)
				}
			}
			long := strings.Repeat("long", 10_000)
			say('o', string(first.Resume.Session))
			for range 20 {
				say('h', `{"kernel":"`+long+`","boot_id":"`+long+`"}`)
				say('s', "online")
				say('s', "busy")
				say('x', `{"code":0,"reason":"`+long+`"}`)
			}
			time.Sleep(time.Second)
		}})
		c.set(order(1))
		time.Sleep(3 * time.Minute)
		stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, line := range []string{"A VM's kernel runs.", "A VM's runner is online.", "A VM's runner is busy.", "A VM's runner has ended."} {
			if n := strings.Count(string(c.log), line); n != 1 {
				t.Errorf("%q is there %d times", line, n)
			}
		}
		if len(c.log) > 10<<10 {
			t.Errorf("the log has %d bytes", len(c.log))
		}
	})
}

func TestRunAJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d := newControl(t), &machines{guest: runsAJob}
		stop := runs(t, c, d)
		c.set(order(1), order(2))
		time.Sleep(30 * time.Second)
		if r := c.report(1); r.State != millrace.VMBusy {
			t.Errorf("after 30 s: %+v", r)
		}
		time.Sleep(time.Minute)
		for n := byte(1); n <= 2; n++ {
			r := c.report(n)
			if r.State != millrace.VMGone || r.Reason != "" || r.ExitCode == nil || *r.ExitCode != 0 || r.Usage.CPUMillis != 60_000 || len(r.Steps) != 4 {
				t.Errorf("at the end: %+v", r)
			}
			id := vmID(n)
			if got, want := string(c.consoles[id]), "I am "+millrace.RunnerName(id, 1)+" with config of "+id.String()+"\n"; got != want {
				t.Errorf("the console is %q, want %q", got, want)
			}
		}
		stop()
	})
}

func TestRunWithoutTheControlPlane(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d := newControl(t), &machines{guest: runsAJob}
		stop := runs(t, c, d)
		c.set(order(1))
		time.Sleep(10 * time.Second)
		c.mu.Lock()
		c.away, c.forget = true, true
		c.mu.Unlock()
		time.Sleep(time.Hour)
		if d.started != 1 {
			t.Errorf("%d machines were started", d.started)
		}
		c.mu.Lock()
		c.away = false
		c.mu.Unlock()
		time.Sleep(lastRetry + time.Second)
		if r := c.report(1); r.State != millrace.VMGone || r.ExitCode == nil || c.starts != 2 {
			t.Errorf("after %d starts: %+v", c.starts, r)
		}
		stop()
	})
}

func TestRunKills(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		driver *machines
		after  func(*control)
		reason string
	}{
		"withdrawn":    {&machines{guest: runsAJob}, func(c *control) { c.set() }, "withdrew"},
		"never boots":  {&machines{guest: func(ctx context.Context, _ *guest.Guest) { <-ctx.Done() }}, func(*control) {}, "did not come up"},
		"never starts": {&machines{fail: errors.New("no disk")}, func(*control) {}, "no disk"},
		"falls silent": {&machines{guest: func(_ context.Context, g *guest.Guest) { boots(g) }}, func(*control) {}, "fell silent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newControl(t)
				stop := runs(t, c, tt.driver)
				c.set(order(1))
				time.Sleep(5 * time.Second)
				tt.after(c)
				time.Sleep(2 * time.Minute)
				if r := c.report(1); r.State != millrace.VMGone || !strings.Contains(r.Reason, tt.reason) {
					t.Errorf("got %+v", r)
				}
				stop()
			})
		})
	}
}

func TestRunStops(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newControl(t), &machines{guest: runsAJob}
			stop := runs(t, c, d)
			c.set(order(1))
			time.Sleep(10 * time.Second)
			c.mu.Lock()
			c.away = away
			c.mu.Unlock()
			began := time.Now()
			stop()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("away %v: it took %v", away, took)
			}
			if r := c.report(1); !away && (r.State != millrace.VMGone || r.Reason != "The agent was stopped.") {
				t.Errorf("reported %+v", r)
			}
		})
	}
}
