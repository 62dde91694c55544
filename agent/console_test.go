package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
)

// sink is a server's side of a console: it takes chunks by their offset, and a repeat only if it is the same.
type sink struct {
	t    *testing.T
	got  []byte
	fail int // this many calls arrive, and their answers get lost
	sent int
	err  error
	gap  bool // bytes may be missing
}

func (s *sink) send(_ context.Context, offset int64, chunk []byte) error {
	s.sent++
	switch at := int(offset); {
	case len(chunk) == 0 || len(chunk) > consoleBatch:
		s.t.Errorf("a chunk of %d bytes", len(chunk))
	case at > len(s.got) && s.gap:
		s.got = append(append(s.got, make([]byte, at-len(s.got))...), chunk...)
	case at > len(s.got):
		s.t.Errorf("a gap: %d bytes are there, and it goes on at %d", len(s.got), at)
	case at < len(s.got) && !bytes.Equal(s.got[at:], chunk):
		s.t.Errorf("a repeat has other bytes")
	default:
		s.got = append(s.got[:at], chunk...)
	}
	if s.fail > 0 {
		s.fail--
		return errors.New("the answer got lost")
	}
	return s.err
}

func TestConsole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newConsole(0), &sink{t: t, fail: 3}
		end := int64(0)
		add := func(text string) { c.add(end, []byte(text)); end += int64(len(text)) }
		done := make(chan struct{})
		go func() { defer close(done); c.upload(t.Context(), s.send) }()

		began := time.Now()
		add("one ")
		add("two ")
		time.Sleep(consoleDelay - time.Millisecond)
		if s.sent != 0 {
			t.Errorf("sent %d chunks before the delay", s.sent)
		}
		var want strings.Builder
		want.WriteString("one two ")
		for n := range 20_000 {
			line := fmt.Sprintln(n)
			want.WriteString(line)
			add(line)
		}
		synctest.Wait()
		if s.sent == 0 {
			t.Error("a full chunk waited")
		}
		c.close()
		<-done
		if string(s.got) != want.String() {
			t.Errorf("got %d bytes, want %d", len(s.got), want.Len())
		}
		if took := time.Since(began); took > consoleDelay+3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Who begins to watch gets what has been printed, and then all within half a second.
func TestConsoleIsWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newConsole(0), &sink{t: t}
		var mu sync.Mutex
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.upload(t.Context(), func(ctx context.Context, offset int64, chunk []byte) error {
				mu.Lock()
				defer mu.Unlock()
				return s.send(ctx, offset, chunk)
			})
		}()
		for i, step := range []struct {
			do    func()
			after time.Duration
			sent  int
		}{
			{func() { c.add(0, []byte("one ")) }, time.Second, 0},
			{func() { c.watch(true) }, 0, 1},
			{func() { c.add(4, []byte("two ")) }, watchedDelay - time.Millisecond, 1},
			{func() { c.add(8, []byte("three ")) }, time.Millisecond, 2},
			{func() { c.watch(false) }, 0, 2},
			{func() { c.add(14, []byte("four ")) }, watchedDelay, 2},
			{func() { c.watch(true) }, 0, 3},
			{func() { c.add(19, []byte("five")) }, 0, 3},
			{func() { c.watch(false) }, watchedDelay, 4}, // it waits for no more than it was to
			{func() { c.add(23, []byte(" six")) }, consoleDelay - time.Millisecond, 4},
			{func() {}, time.Millisecond, 5},
		} {
			step.do()
			time.Sleep(step.after)
			synctest.Wait()
			mu.Lock()
			if s.sent != step.sent {
				t.Errorf("step %d: sent %d chunks, %q", i, s.sent, s.got)
			}
			mu.Unlock()
		}
		c.close()
		<-done
		if string(s.got) != "one two three four five six" {
			t.Errorf("got %q", s.got)
		}
	})
}

// What prints all the time is sent in ever longer chunks: an hour in some hundreds, none of which waited for long.
func TestConsoleSlowsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every = 100 * time.Millisecond // a byte
		c, s := newConsole(0), &sink{t: t}
		began, end, longest := time.Now(), int64(0), time.Duration(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.upload(t.Context(), func(ctx context.Context, offset int64, chunk []byte) error {
				longest = max(longest, time.Since(began)-time.Duration(offset)*every)
				return s.send(ctx, offset, chunk)
			})
		}()
		for time.Since(began) < time.Hour {
			c.add(end, []byte("."))
			end++
			time.Sleep(every)
		}
		c.close()
		<-done
		if int64(len(s.got)) != end || s.sent < 300 || s.sent > 400 || longest > longestConsole {
			t.Errorf("%d chunks with %d of %d bytes; one waited for %v", s.sent, len(s.got), end, longest)
		}
	})
}

func TestConsoleIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newConsole(0), &sink{t: t, fail: 5}
		c.add(0, []byte("the beginning\n"))
		if _, first := c.take(); string(first) != "the beginning\n" {
			t.Fatalf("took %q", first)
		}
		end := int64(len("the beginning\n"))
		for range 64 {
			c.add(end, bytes.Repeat([]byte("x"), 100_000))
			if end += 100_000; len(c.data) > consoleBuffer {
				t.Fatalf("%d bytes are kept", len(c.data))
			}
		}
		c.add(end, []byte("the end\n"))
		c.close()
		s.gap = true
		c.upload(t.Context(), s.send)
		got := string(s.got)
		x := strings.Count(got, "x")
		if !strings.HasPrefix(got, "the beginning\n") || !strings.HasSuffix(got, "the end\n") || strings.Count(got, "dropped") != 1 || len(got) != int(end)+8 {
			t.Errorf("got %.100q … %q", got, got[len(got)-20:])
		}
		if note := fmt.Sprintf("\n[millrace: %d bytes", 6_400_000-x); !strings.Contains(got, note) {
			t.Errorf("%d bytes are missing, but: %.100q", 6_400_000-x, got)
		}
	})
}

// An agent that comes after another goes on where the server is, whatever the guest still has.
func TestConsoleGoesOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		offset int64 // of the guest's first piece
		piece  string
		want   string
	}{
		"all is there":       {100, "next", "next"},
		"said twice":         {90, "0123456789next", "next"},
		"known to the end":   {90, "0123456789", ""},
		"a gap":              {300, "next", "\n[millrace: 200 bytes of output were dropped here]\nnext"},
		"a gap of few":       {105, "next", "\n[milnext"},
		"far behind what is": {10, "x", ""},
	} {
		c, s := newConsole(100), &sink{t: t, got: make([]byte, 100), gap: true}
		c.add(tt.offset, []byte(tt.piece))
		c.close()
		c.upload(t.Context(), s.send)
		if got := strings.Trim(string(s.got[100:]), "\x00"); got != tt.want {
			t.Errorf("%s: got %q", name, got)
		}
		if end := tt.offset + int64(len(tt.piece)); len(s.got) != int(max(100, end)) {
			t.Errorf("%s: %d bytes", name, len(s.got))
		}
	}
}

func TestConsoleGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConsole(0)
		c.add(0, []byte("x"))
		s := &sink{t: t, err: millrace.Errorf(millrace.TooLarge, "The console is full.")}
		c.upload(t.Context(), s.send)
		if s.sent != 1 {
			t.Errorf("sent %d times", s.sent)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		newConsole(0).upload(ctx, s.send)
		away := newConsole(0)
		away.add(0, []byte("x"))
		away.upload(ctx, (&sink{t: t, fail: 1000}).send)
	})
}
