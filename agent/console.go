package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

const (
	consoleBatch  = 32 << 10               // bytes of one upload
	consoleDelay  = 500 * time.Millisecond // that a smaller one waits for more
	consoleBuffer = 1 << 20                // bytes kept while the server is away
)

// console is what a VM printed and the server doesn't have yet. What it would keep beyond its bound, it drops from the
// front, with a note in its place; the chunk that is being sent stays, for a repeat must have the same bytes.
type console struct {
	mu      sync.Mutex
	offset  int64  // of data[0] in what the server gets
	data    []byte // not yet known to have arrived
	sending int    // bytes of data that are being sent
	noted   int    // bytes of the note that follows them
	dropped int64  // what the note counts
	closed  bool
	more    chan struct{} // has room for one: something changed
}

func newConsole() *console { return &console{more: make(chan struct{}, 1)} }

// add appends p.
func (c *console) add(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, p...)
	if len(c.data) > consoleBuffer {
		kept := len(c.data) - consoleBuffer/2
		tail := c.data[kept:]
		c.dropped += int64(kept - c.sending - c.noted)
		note := fmt.Sprintf("\n[millrace: %d bytes of console output were dropped here]\n", c.dropped)
		c.noted = len(note)
		c.data = append(append(append(make([]byte, 0, consoleBuffer), c.data[:c.sending]...), note...), tail...)
	}
	c.signal()
}

// close says that nothing will be added.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.signal()
}

func (c *console) signal() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// waiting says how much a chunk sent now would have, whether waiting would not make it larger (full), and whether there
// is none and won't be (end).
func (c *console) waiting() (n int, full, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.data), c.closed || c.sending > 0 || len(c.data) >= consoleBatch, c.closed && len(c.data) == 0
}

// take is the next chunk to send. It stays the same until sent is called.
func (c *console) take() (offset int64, chunk []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sending == 0 {
		c.sending = min(len(c.data), consoleBatch)
		c.noted, c.dropped = 0, 0 // a note that is on its way is not rewritten
	}
	return c.offset, c.data[:c.sending:c.sending]
}

// sent says that the chunk arrived.
func (c *console) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += int64(c.sending)
	c.data = c.data[c.sending:]
	c.sending = 0
}

// upload sends what c gets, in order, until c is closed and all has arrived, or ctx ends, or the server wants no more.
func (c *console) upload(ctx context.Context, send func(ctx context.Context, offset int64, chunk []byte) error) {
	for tries := 0; ; {
		n, full, end := c.waiting()
		wait := consoleDelay
		switch {
		case end:
			return
		case tries > 0:
			wait = backoff(tries-1, 0.5)
		case full:
			wait = 0
		case n == 0:
			select {
			case <-c.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		if wait > 0 && !c.linger(ctx, wait, tries == 0) {
			return
		}
		offset, chunk := c.take()
		switch err := send(ctx, offset, chunk); {
		case err == nil:
			tries = 0
			c.sent()
		case final(err):
			return
		default:
			tries++
		}
	}
}

// linger waits, or less where a full chunk is enough; it reports whether ctx still lives.
func (c *console) linger(ctx context.Context, wait time.Duration, untilFull bool) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-c.more:
			if _, full, _ := c.waiting(); full && untilFull {
				return true
			}
		}
	}
}

// final reports whether the server will never take this VM's console.
func final(err error) bool {
	switch millrace.CodeOf(err) {
	case millrace.Conflict, millrace.Gone, millrace.NotFound, millrace.TooLarge, millrace.Forbidden, millrace.Invalid, millrace.Unprocessable:
		return true
	default:
		return false
	}
}
