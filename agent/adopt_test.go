package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// printsForAMinute is a guest whose job prints a line each second for a minute, and ends with 3.
func printsForAMinute(ctx context.Context, g *guest.Guest) {
	if _, ok := boots(g); !ok {
		return
	}
	_ = g.Say(guest.Event{State: millrace.VMOnline})
	_ = g.Say(guest.Event{State: millrace.VMBusy})
	for range 60 {
		_ = g.Say(guest.Event{Console: []byte("a line\n")})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
	_ = g.Say(guest.Event{Usage: &guest.Usage{Metering: millrace.Metering{CPUMillis: 60_000}, UptimeMS: 61_000}})
	_ = g.Say(guest.Event{Exit: &guest.Exit{Code: 3}})
}

// A VM goes on while one agent ends and another begins, which tells of it as if there had been one agent.
func TestAdopt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ before, away time.Duration }{
		"while it boots":     {500 * time.Millisecond, 100 * time.Millisecond},
		"before it is told":  {500 * time.Millisecond, time.Minute},
		"while its job runs": {20 * time.Second, 5 * time.Second},
		"its job ends":       {20 * time.Second, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, d, dir := newControl(t), &machines{guest: printsForAMinute}, t.TempDir()
				leave := runsIn(t, c, d, dir, false)
				c.set(order(1))
				time.Sleep(tt.before)
				leave()
				if d.count() != 1 {
					t.Fatal("the VM did not outlive its agent")
				}
				time.Sleep(tt.away)
				end := runsIn(t, c, d, dir, true)
				time.Sleep(2 * time.Minute)
				r := c.report(1)
				if r.State != millrace.VMGone || r.Reason != "" || r.ExitCode == nil || *r.ExitCode != 3 || r.Usage.CPUMillis != 60_000 || len(r.Steps) != 4 {
					t.Errorf("at the end: %+v", r)
				}
				if got := string(c.consoles[vmID(1)]); got != strings.Repeat("a line\n", 60) {
					t.Errorf("the console has %d bytes", len(got))
				}
				if got := c.samples[vmID(1)].Last(); got.CPUMillis != 60_000 {
					t.Errorf("the last sample is %+v", got)
				}
				if d.started != 1 || c.starts != 2 || d.count() != 0 {
					t.Errorf("%d machines and %d agents were started, %d run on", d.started, c.starts, d.count())
				}
				end()
				if left, _ := filepath.Glob(filepath.Join(dir, "journal", "*")); len(left) != 0 {
					t.Errorf("the journal still has %v", left)
				}
			})
		})
	}
}

// The control plane is away while the agent is started again: nothing ends because of it, and all is told later.
func TestAdoptWithoutTheControlPlane(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d, dir := newControl(t), &machines{guest: printsForAMinute}, t.TempDir()
		leave := runsIn(t, c, d, dir, false)
		c.set(order(1))
		time.Sleep(20 * time.Second)
		c.mu.Lock()
		c.away = true
		c.mu.Unlock()
		for range 5 { // each of them hears the guest's last word, or doesn't, and tells nobody
			leave()
			time.Sleep(7 * time.Second)
			leave = runsIn(t, c, d, dir, false)
			time.Sleep(8 * time.Second)
		}
		leave()
		c.mu.Lock()
		c.away = false
		c.mu.Unlock()
		end := runsIn(t, c, d, dir, true)
		time.Sleep(time.Minute)
		if r := c.report(1); r.State != millrace.VMGone || r.ExitCode == nil || *r.ExitCode != 3 || r.Reason != "" {
			t.Errorf("at the end: %+v", r)
		}
		end()
	})
}

// What an agent finds of an earlier one, and what becomes of it.
func TestFindings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		meanwhile func(t *testing.T, d *machines, journal string)
		reason    string
		machines  int // of two, how many go on
	}{
		"nothing happened": {func(*testing.T, *machines, string) {}, "", 2},
		"the machine died": {func(_ *testing.T, d *machines, _ string) { d.running[Ref{vmID(1), 1}.machine()].kill() }, "ended while the host's agent was away", 1},
		"a broken entry": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			entry(t, journal, []byte("{"))
		}, "does not know the VM", 1},
		"an empty entry": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			entry(t, journal, nil)
		}, "does not know the VM", 1},
		"another VM's entry": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			content, err := os.ReadFile(filepath.Join(journal, Ref{vmID(2), 1}.machine()+".json"))
			if err != nil {
				t.Fatal(err)
			}
			entry(t, journal, content)
		}, "does not know the VM", 1},
		"half a line more": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			f, err := os.OpenFile(filepath.Join(journal, Ref{vmID(1), 1}.machine()+".json"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("\n{\"order\":"); err != nil {
				t.Fatal(err)
			}
		}, "", 2},
		"half an entry beside it": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(journal, Ref{vmID(1), 1}.machine()+".json.new"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", 2},
		"no journal": {func(t *testing.T, _ *machines, journal string) {
			t.Helper()
			if err := os.RemoveAll(journal); err != nil {
				t.Fatal(err)
			}
		}, "does not know the VM", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, d, dir := newControl(t), &machines{guest: printsForAMinute}, t.TempDir()
				leave := runsIn(t, c, d, dir, false)
				c.set(order(1), order(2))
				time.Sleep(20 * time.Second)
				leave()
				tt.meanwhile(t, d, filepath.Join(dir, "journal"))
				time.Sleep(time.Second)
				end := runsIn(t, c, d, dir, true)
				time.Sleep(5 * time.Second)
				switch r := c.report(1); {
				case tt.reason == "" && r.State != millrace.VMBusy,
					tt.reason != "" && (r.State != millrace.VMGone || !strings.Contains(r.Reason, tt.reason)):
					t.Errorf("got %+v", r)
				}
				if n := d.count(); n != tt.machines {
					t.Errorf("%d machines go on", n)
				}
				if r := c.report(2); tt.machines > 0 && r.State != millrace.VMBusy {
					t.Errorf("the other one: %+v", r)
				}
				end()
			})
		})
	}
}

// entry makes content what the journal has of VM 1.
func entry(t *testing.T, journal string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(journal, Ref{vmID(1), 1}.machine()+".json"), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The journal has no registration in it, at no time.
func TestJournalKeepsNoSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d, dir := newControl(t), &machines{guest: printsForAMinute}, t.TempDir()
		end := runsIn(t, c, d, dir, true)
		c.set(order(1))
		seen := 0
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			files, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range files {
				content, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(string(content)) {
					if line != "\n" && !json.Valid([]byte(line)) || strings.Contains(line, "config of") {
						t.Fatalf("%s", content)
					}
				}
				seen++
			}
		}
		if seen < 90 {
			t.Errorf("the VM was in the journal %d times of 100", seen)
		}
		end()
	})
}

// A host that can't start VMs says so, refuses what it is ordered, and takes VMs again once it can. What runs, runs on.
func TestRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d := newControl(t), &machines{guest: printsForAMinute}
		stop := runs(t, c, d)
		c.set(order(1))
		time.Sleep(10 * time.Second)
		breaks := func(err error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.broken = err
		}
		breaks(errors.New("no guest kernel"))
		time.Sleep(healthEvery)
		if why := c.refusal(); why != "its VM driver does not work: no guest kernel" {
			t.Errorf("it refuses because %q", why)
		}
		c.set(order(1), order(2))
		time.Sleep(time.Second)
		if r := c.report(2); r.State != millrace.VMGone || !strings.Contains(r.Reason, "no guest kernel") {
			t.Errorf("the new order: %+v", r)
		}
		if r := c.report(1); r.State != millrace.VMBusy {
			t.Errorf("the VM that ran: %+v", r)
		}
		breaks(nil)
		time.Sleep(healthEvery)
		c.set(order(3))
		time.Sleep(time.Second + 2*tellsWithin)
		if r := c.report(3); c.refusal() != "" || r.State != millrace.VMBusy {
			t.Errorf("it refuses because %q; %+v", c.refusal(), r)
		}
		stop()
	})
}

func TestNearlyFull(t *testing.T) {
	t.Parallel()
	const gb = 1 << 30
	for _, tt := range []struct {
		free, size uint64
		full       bool
	}{
		{2*gb - 1, 10 * gb, true},
		{2 * gb, 10 * gb, false},
		{4 * gb, 100 * gb, true},
		{5 * gb, 100 * gb, false},
		{0, 0, true},
	} {
		if got := nearlyFull(tt.free, tt.size); (got != "") != tt.full {
			t.Errorf("%d of %d: %q", tt.free, tt.size, got)
		}
	}
	if got := nearlyFull(gb*3/2, 10*gb); got != "its disk is nearly full (1.5 GB free)" {
		t.Error(got)
	}
}
