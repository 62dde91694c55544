package guest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// pipe is one direction of a channel.
type pipe struct {
	io.Reader
	io.Writer
}

func TestChannel(t *testing.T) {
	t.Parallel()
	var up, down bytes.Buffer // from the guest, to the guest
	g := guest.NewGuest(pipe{&down, &up})
	h := guest.NewHost(pipe{&up, &down})

	config := guest.Config{Hostname: "vm-1", JIT: "secret", Now: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)}
	if err := h.Configure(config); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	got, err := g.Config()
	if diff := cmp.Diff(config, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	g.Stopped() // returns, for Stop was sent

	said := []guest.Event{
		{Hello: &guest.Hello{Kernel: "6.1", BootID: "b"}},
		{State: millrace.VMOnline},
		{Console: []byte("hello\n")},
		{Usage: &millrace.Metering{PeakMemory: 1, CPUMillis: 2, DiskRead: 3, DiskWrite: 4, NetRx: 5, NetTx: 6}},
		{State: millrace.VMBusy},
		{Exit: &guest.Exit{Code: 3, Reason: "because"}},
	}
	for _, e := range said {
		if err := g.Say(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range said {
		got, err := h.Next()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if _, err := h.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last word: %v", err)
	}
}

// A hostile guest says anything: it costs its host an error and no more memory than a frame.
func TestHostileGuest(t *testing.T) {
	t.Parallel()
	frame := func(kind byte, length uint32, payload string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, length), payload...)
	}
	for name, bytesSaid := range map[string][]byte{
		"a frame of 4 GB":     frame('c', 1<<32-1, "x"),
		"a frame cut short":   frame('c', 10, "short"),
		"an unknown kind":     frame('?', 0, ""),
		"the host's own kind": frame('C', 2, "{}"),
		"a hello that isn't":  frame('h', 4, "nope"),
		"a state of ours":     frame('s', 8, "stopping"),
		"gone":                frame('s', 4, "gone"),
		"usage of words":      frame('u', 12, `{"cpu_ms":""}`[:12]),
	} {
		h := guest.NewHost(pipe{bytes.NewReader(bytesSaid), io.Discard})
		if e, err := h.Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		h := guest.NewHost(pipe{bytes.NewReader(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")), io.Discard})
		for {
			if _, err := h.Next(); err != nil {
				return
			}
		}
	})
}

func TestConsoleTellsStates(t *testing.T) {
	t.Parallel()
	printed := "\n√ Connected to GitHub\n\n2026-03-01 09:00:00Z: Listening for Jobs\n2026-03-01 09:00:01Z: Running job: build\n" +
		strings.Repeat("x", 100_000) + "\n2026-03-01 09:00:02Z: Listening for Jobs\n"
	rapid.Check(t, func(t *rapid.T) {
		var up bytes.Buffer
		c := guest.NewConsole(guest.NewGuest(pipe{strings.NewReader(""), &up}))
		for rest := printed; rest != ""; {
			n := min(len(rest), rapid.IntRange(1, 50_000).Draw(t, "n")) // however it is cut
			if _, err := c.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		var states []millrace.VMState
		var console strings.Builder
		for h := guest.NewHost(pipe{&up, io.Discard}); ; {
			e, err := h.Next()
			if err != nil {
				break
			}
			if e.State != "" {
				states = append(states, e.State)
			}
			console.Write(e.Console)
		}
		if diff := cmp.Diff([]millrace.VMState{millrace.VMOnline, millrace.VMBusy}, states); diff != "" {
			t.Fatal(diff)
		}
		if console.String() != printed {
			t.Fatal("the console is another than what was printed")
		}
	})
}
