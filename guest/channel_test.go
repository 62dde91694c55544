package guest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm/fake"
)

// attend is a new host that resumes from byte console.
func attend(t *testing.T, p *fake.Port, console int64) (h *guest.Host, leave func()) {
	t.Helper()
	conn := p.Connect()
	h = guest.NewHost(conn)
	if err := h.Resume(console); err != nil {
		t.Fatal(err)
	}
	return h, func() { conn.Close() }
}

// end breaks a port, in a bubble, and lets its guest see it.
func end(p *fake.Port) {
	p.Close()
	time.Sleep(time.Second)
}

// hear is the next thing that a guest says.
func hear(t *testing.T, h *guest.Host) guest.Event {
	t.Helper()
	e, err := h.Next()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func used(cpu int64) *guest.Usage { return &guest.Usage{Metering: millrace.Metering{CPUMillis: cpu}} }

var config = guest.Config{Hostname: "vm-1", JIT: "secret", Now: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)}

func TestChannel(t *testing.T) {
	t.Parallel()
	p := fake.NewPort()
	defer p.Close()
	g := guest.NewGuest(p)
	h, _ := attend(t, p, 0)
	if err := h.Configure(config); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	g.Stopped()
	got, err := g.Config()
	if diff := cmp.Diff(config, got); diff != "" && err == nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, want := range []guest.Event{
		{Hello: &guest.Hello{Kernel: "6.1", BootID: "b", Configured: true}},
		{State: millrace.VMOnline},
		{Console: []byte("hello\n")},
		{Usage: &guest.Usage{Metering: millrace.Metering{PeakMemory: 1, CPUMillis: 2, DiskRead: 3, DiskWrite: 4, NetRx: 5, NetTx: 6}, UptimeMS: 7, Memory: 8}},
		{Console: []byte("again\n"), Offset: 6},
		{State: millrace.VMBusy},
	} {
		if err := g.Say(want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, hear(t, h)); diff != "" {
			t.Error(diff)
		}
	}
	kept := make(chan error, 1)
	go func() { kept <- g.Say(guest.Event{Exit: &guest.Exit{Code: 3, Reason: "because"}}) }()
	if diff := cmp.Diff(guest.Event{Exit: &guest.Exit{Code: 3, Reason: "because"}}, hear(t, h)); diff != "" {
		t.Error(diff)
	}
	select {
	case err := <-kept:
		t.Errorf("the guest ended before its last word was kept: %v", err)
	default:
	}
	if err := h.Heard(); err != nil {
		t.Fatal(err)
	}
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

// A host dies, and another hears all that the guest has to say: also what the first one heard.
func TestChannelResumes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := fake.NewPort()
		defer end(p)
		g := guest.NewGuest(p)
		say := func(e guest.Event) {
			if err := g.Say(e); err != nil {
				t.Error(err)
			}
		}
		h, leave := attend(t, p, 0)
		say(guest.Event{Hello: &guest.Hello{Kernel: "6.1"}})
		if e := hear(t, h); e.Hello == nil || e.Hello.Configured {
			t.Errorf("got %+v", e)
		}
		if err := h.Configure(config); err != nil {
			t.Fatal(err)
		}
		say(guest.Event{State: millrace.VMOnline})
		say(guest.Event{Console: []byte("one ")})
		leave()
		time.Sleep(time.Second)
		say(guest.Event{State: millrace.VMBusy})
		say(guest.Event{Usage: used(1)})
		say(guest.Event{Usage: used(2)})
		say(guest.Event{Console: []byte("two")})
		go say(guest.Event{Exit: &guest.Exit{Code: 7}})
		time.Sleep(time.Minute)
		for _, console := range []int64{0, 2, 7, 1 << 40} { // each of these hosts dies, too
			h, leave := attend(t, p, console)
			var got []guest.Event
			for len(got) == 0 || got[len(got)-1].Exit == nil {
				got = append(got, hear(t, h))
			}
			want := []guest.Event{
				{Hello: &guest.Hello{Kernel: "6.1", Configured: true}},
				{State: millrace.VMOnline},
				{State: millrace.VMBusy},
				{Usage: used(2)},
				{Console: []byte("one two")[min(7, console):], Offset: console},
				{Exit: &guest.Exit{Code: 7}},
			}
			if console >= 7 {
				want = append(want[:4], want[5])
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("from byte %d: %s", console, diff)
			}
			if err := h.Configure(guest.Config{Hostname: "another"}); err != nil {
				t.Fatal(err)
			}
			leave()
		}
		if c, err := g.Config(); err != nil || c.Hostname != config.Hostname {
			t.Errorf("%+v, %v", c, err)
		}
		h, _ = attend(t, p, 0)
		if err := h.Heard(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	})
}

// A guest prints on while its host is away: it isn't held up, and keeps the last.
func TestConsoleWithoutAHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const kept, total = 1 << 20, 5_000_000
		p := fake.NewPort()
		defer end(p)
		g := guest.NewGuest(p)
		var printed bytes.Buffer
		for n := 0; printed.Len() < total; n++ {
			fmt.Fprintln(&printed, n)
		}
		if _, err := guest.NewConsole(g).Write(printed.Bytes()); err != nil {
			t.Fatal(err)
		}
		h, leave := attend(t, p, 100)
		var got []byte
		first := int64(-1)
		for first+int64(len(got)) < int64(printed.Len()) {
			e := hear(t, h)
			if first < 0 {
				first = e.Offset
			}
			if e.Offset != first+int64(len(got)) {
				t.Fatalf("%d bytes from %d on, then %d", len(got), first, e.Offset)
			}
			got = append(got, e.Console...)
		}
		if len(got) < kept || len(got) > 2*kept || !bytes.HasSuffix(printed.Bytes(), got) {
			t.Errorf("%d bytes were kept", len(got))
		}
		// With a host that doesn't read, it waits.
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			_, _ = guest.NewConsole(g).Write(printed.Bytes())
		}()
		time.Sleep(time.Hour)
		select {
		case <-waited:
			t.Error("it did not wait for its host")
		default:
		}
		leave()
		<-waited
	})
}

// A guest that nobody wants doesn't wait for ever.
func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := fake.NewPort()
		g := guest.NewGuest(p)
		if _, err := g.Config(); err == nil {
			t.Error("it was configured by nobody")
		}
		began := time.Now()
		if err := g.Say(guest.Event{Exit: &guest.Exit{}}); err != nil || time.Since(began) < time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		p.Close()
		if err := g.Say(guest.Event{Exit: &guest.Exit{}}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("over a broken channel: %v", err)
		}
		end(p)
	})
}

// Whatever a guest says and whenever its hosts die: the last of them hears all states, the last usage, the exit and a
// console without a gap.
func TestChannelWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := fake.NewPort()
		defer p.Close()
		g := guest.NewGuest(p)
		var printed, got bytes.Buffer
		take := func(h *guest.Host, n int) (last guest.Event) {
			for ; n > 0; n-- {
				e, err := h.Next()
				if err != nil {
					rt.Fatal(err)
				}
				if e.Console != nil {
					if e.Offset > int64(got.Len()) {
						rt.Fatalf("a gap: %d bytes, then %d", got.Len(), e.Offset)
					}
					got.Truncate(int(e.Offset))
					got.Write(e.Console)
				}
				if last = e; e.Exit != nil {
					return last
				}
			}
			return last
		}
		var usage int64
		for range rapid.IntRange(0, 5).Draw(rt, "hosts") {
			h, leave := attend(t, p, int64(got.Len()))
			for range rapid.IntRange(1, 5).Draw(rt, "says") {
				text := strings.Repeat("x", rapid.IntRange(0, 3000).Draw(rt, "n")) + "\n"
				printed.WriteString(text)
				if err := g.Say(guest.Event{Console: []byte(text)}); err != nil {
					rt.Fatal(err)
				}
				usage++
				if err := g.Say(guest.Event{Usage: used(usage)}); err != nil {
					rt.Fatal(err)
				}
			}
			take(h, rapid.IntRange(0, 2).Draw(rt, "heard")) // a usage and a piece of the console are there in any case
			leave()
		}
		go g.Say(guest.Event{Exit: &guest.Exit{Code: 5}}) //nolint:errcheck // the port's end ends it
		h, _ := attend(t, p, int64(got.Len()))
		if e := take(h, 1000); e.Exit == nil || e.Exit.Code != 5 {
			rt.Fatalf("the last word was %+v", e)
		}
		if !bytes.Equal(got.Bytes(), printed.Bytes()) {
			rt.Fatalf("%d bytes were printed, %d arrived", printed.Len(), got.Len())
		}
	})
}

// said is a stream of a hostile guest's: anything, in the session that its host opens.
type said struct {
	bytes   []byte
	session io.Reader
}

// Write takes what the host says: first that it resumes.
func (s *said) Write(p []byte) (int, error) {
	var l struct{ Resume struct{ Session []byte } }
	if err := json.Unmarshal(p, &l); err != nil {
		return 0, err
	}
	open := append(binary.BigEndian.AppendUint32([]byte{'o'}, 16), l.Resume.Session...)
	s.session = io.MultiReader(strings.NewReader("the rest of a frame"), bytes.NewReader(open), bytes.NewReader(s.bytes))
	return len(p), nil
}

func (s *said) Read(p []byte) (int, error) { return s.session.Read(p) }

// A hostile guest says anything: it costs its host an error and no more memory than a frame.
func TestHostileGuest(t *testing.T) {
	t.Parallel()
	frame := func(kind byte, length uint32, payload string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, length), payload...)
	}
	hostOf := func(bytesSaid []byte) *guest.Host {
		h := guest.NewHost(&said{bytes: bytesSaid})
		if err := h.Resume(0); err != nil {
			t.Fatal(err)
		}
		return h
	}
	for name, bytesSaid := range map[string][]byte{
		"a frame of 4 GB":              frame('c', 1<<32-1, "x"),
		"a frame cut short":            frame('c', 10, "short"),
		"a console without its offset": frame('c', 7, "7 bytes"),
		"a negative offset":            frame('c', 9, "\xff\xff\xff\xff\xff\xff\xff\xffx"),
		"an unknown kind":              frame('?', 0, ""),
		"a session in a session":       frame('o', 16, strings.Repeat("s", 16)),
		"a hello that isn't":           frame('h', 4, "nope"),
		"a state of ours":              frame('s', 8, "stopping"),
		"gone":                         frame('s', 4, "gone"),
		"usage of words":               frame('u', 12, `{"cpu_ms":""}`[:12]),
	} {
		if e, err := hostOf(bytesSaid).Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	// 1 GB of the stack is what a goroutine may take; what a guest says is no recursion's depth.
	if e, err := hostOf(bytes.Repeat(frame('c', 8, "\x00\x00\x00\x00\x00\x00\x00\x00"), 4<<20)).Next(); !errors.Is(err, io.EOF) {
		t.Errorf("nothing printed, four million times: %+v, %v", e, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		h := hostOf(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
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
	rapid.Check(t, func(rt *rapid.T) {
		p := fake.NewPort()
		defer p.Close()
		g := guest.NewGuest(p)
		c := guest.NewConsole(g)
		for rest := printed; rest != ""; {
			n := min(len(rest), rapid.IntRange(1, 50_000).Draw(rt, "n")) // however it is cut
			if _, err := c.Write([]byte(rest[:n])); err != nil {
				rt.Fatal(err)
			}
			rest = rest[n:]
		}
		var states []millrace.VMState
		var console strings.Builder
		for h, _ := attend(t, p, 0); console.Len() < len(printed); {
			e := hear(t, h)
			if e.State != "" {
				states = append(states, e.State)
			}
			console.Write(e.Console)
		}
		if diff := cmp.Diff([]millrace.VMState{millrace.VMOnline, millrace.VMBusy}, states); diff != "" {
			rt.Fatal(diff)
		}
		if console.String() != printed {
			rt.Fatal("the console is another than what was printed")
		}
	})
}
