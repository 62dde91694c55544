package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

const (
	consoleBatch  = 32 << 10 // bytes of one upload
	consoleBuffer = 1 << 20  // bytes kept while the server is away

	// A smaller one waits for more, and longer once a VM has printed for long: each is a request, and a file that the server
	// keeps. While somebody watches, it waits for as long as nobody notices.
	consoleDelay   = 5 * time.Second
	consoleShare   = 120 // of the time since it began
	longestConsole = 30 * time.Second
	watchedDelay   = 500 * time.Millisecond
)

// console is what a VM printed and the server doesn't have yet. What it would keep beyond its bound, it drops from the
// front; the chunk that is being sent stays, for a repeat must have the same bytes. Offsets are the guest's everywhere:
// where bytes are missing, a note takes the place of the last of them.
type console struct {
	mu      sync.Mutex
	at      int64  // offset of sending[0]
	sending []byte // not yet known to have arrived
	from    int64  // offset of data[0]
	data    []byte // to be sent next
	noted   int    // bytes of the note that data begins with
	gap     int64  // offset of the first byte that the note stands for
	closed  bool
	watched bool
	delay   func() time.Duration // that a chunk waits for more while nobody watches
	more    chan struct{}        // has room for one: something changed
}

// newConsole is the console of a VM of which the server has the bytes before offset.
func newConsole(offset int64) *console {
	began := time.Now()
	return &console{from: offset, more: make(chan struct{}, 1), delay: func() time.Duration {
		return min(max(consoleDelay, time.Since(began)/consoleShare), longestConsole)
	}}
}

// add appends p, whose first byte is the one at offset of all that was printed. What is there already is not added again.
func (c *console) add(offset int64, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch end := c.from + int64(len(c.data)); {
	case offset > end: // the guest doesn't have what lies between
		c.drop(offset)
	case end > offset:
		p = p[min(end-offset, int64(len(p))):]
	}
	c.data = append(c.data, p...)
	if n := len(c.data) - consoleBuffer; n > 0 {
		c.drop(c.from + int64(n+consoleBuffer/2))
	}
	c.signal()
}

// drop forgets what is to be sent of the bytes before offset. The caller holds the lock.
func (c *console) drop(offset int64) {
	if c.noted == 0 {
		c.gap = c.from
	}
	note := fmt.Sprintf("\n[millrace: %d bytes of output were dropped here]\n", offset-c.gap)
	c.noted = int(min(int64(len(note)), offset-c.gap))
	kept := c.data[min(offset-c.from, int64(len(c.data))):]
	c.data = append(append(make([]byte, 0, consoleBuffer), note[:c.noted]...), kept...)
	c.from = offset - int64(c.noted)
}

// close says that nothing will be added.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.signal()
}

// watch says whether somebody watches.
func (c *console) watch(watched bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = watched
	c.signal()
}

// patience is how long a chunk waits for more.
func (c *console) patience() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched {
		return watchedDelay
	}
	return c.delay()
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
	n = len(c.sending) + len(c.data)
	return n, c.closed || len(c.sending) > 0 || n >= consoleBatch, c.closed && n == 0
}

// take is the next chunk to send. It stays the same until sent is called.
func (c *console) take() (offset int64, chunk []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sending) == 0 {
		n := min(len(c.data), consoleBatch)
		c.at, c.sending = c.from, c.data[:n:n]
		c.from, c.data, c.noted = c.from+int64(n), c.data[n:], 0 // a note that is on its way is not rewritten
	}
	return c.at, c.sending
}

// sent says that the chunk arrived.
func (c *console) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sending = nil
}

// upload sends what c gets, in order, until c is closed and all has arrived, or ctx ends, or the server wants no more.
func (c *console) upload(ctx context.Context, send func(ctx context.Context, offset int64, chunk []byte) error) {
	for tries := 0; ; {
		n, full, end := c.waiting()
		wait := c.patience()
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

// linger waits, or less where a full chunk is enough or somebody begins to watch; it reports whether ctx still lives.
func (c *console) linger(ctx context.Context, wait time.Duration, untilFull bool) bool {
	began, timer := time.Now(), time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-c.more:
			if !untilFull {
				continue
			}
			if _, full, _ := c.waiting(); full {
				return true
			}
			timer.Reset(min(wait, c.patience()) - time.Since(began))
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
