package guest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

const (
	// consoleKept is what a guest keeps of what it printed, as a host that comes back may not have got it. It is what a
	// host keeps for a server that is away.
	consoleKept  = 1 << 20
	consoleChunk = 32 << 10

	// patience is how long a guest that isn't wanted for a job waits for its host: to be configured, and to be heard.
	// A host's agent that is upgraded is back within seconds.
	patience = 10 * time.Minute

	listenAgain = 50 * time.Millisecond // where the channel says that there is no host
)

// Guest is the guest's end of a channel. It keeps what it has to say, and says all of it anew to a host that resumes: what
// was written before may have been lost on the way, or with the process that read it.
type Guest struct {
	conn   io.ReadWriter
	config chan Config   // has room for the one there will be
	stop   chan struct{} // closed: the host wants an end
	heard  chan struct{} // closed: the host keeps the last word
	broken chan struct{} // closed: there will be no host any more

	mu       sync.Mutex
	changed  *sync.Cond
	attended bool   // a host listens
	session  []byte // as the host called it
	err      error  // why broken is closed

	hello      *Hello
	configured bool

	states  []millrace.VMState
	usage   *Usage
	console []byte // the last of what was printed
	from    int64  // offset of its first byte
	exit    *Exit

	said progress
}

// progress is how much of all that was said in this session.
type progress struct {
	opened, hello, usage, exit bool
	states                     int
	console                    int64
}

// NewGuest is the guest's end of conn. Where reading gives io.EOF there is no host at present: so it is on a virtio-serial
// port, on which writing waits for one.
func NewGuest(conn io.ReadWriter) *Guest {
	g := &Guest{
		conn: conn, config: make(chan Config, 1), stop: make(chan struct{}), heard: make(chan struct{}), broken: make(chan struct{}),
		session: make([]byte, sessionBytes), // nobody's: a host that only wants to know whether a kernel runs needs no session
	}
	g.changed = sync.NewCond(&g.mu)
	go g.listen()
	go g.speak()
	return g
}

// Say tells the host one thing, now or when there is a host. What is printed waits for one that is slow, not for one that is
// away: then the oldest is dropped. The last word waits until the host keeps it, for the guest's end may be the end of all
// that it had to say; but not for ever. An error: the channel is broken.
func (g *Guest) Say(e Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case e.Hello != nil:
		g.hello = e.Hello
	case e.State != "":
		g.states = append(g.states, e.State)
	case e.Usage != nil:
		g.usage, g.said.usage = e.Usage, false
	case e.Exit != nil:
		g.exit = e.Exit
	default:
		g.print(e.Console)
	}
	g.changed.Broadcast()
	if e.Exit != nil {
		g.mu.Unlock()
		select {
		case <-g.heard:
		case <-g.broken:
		case <-time.After(patience):
		}
		g.mu.Lock()
	}
	return g.err
}

// print appends p, which has at most consoleChunk bytes. The caller holds the lock.
func (g *Guest) print(p []byte) {
	for g.attended && g.err == nil && g.end()-g.said.console+int64(len(p)) > consoleKept {
		g.changed.Wait()
	}
	g.console = append(g.console, p...)
	if n := len(g.console) - consoleKept; n > consoleKept { // not with each byte
		g.console = append(g.console[:0], g.console[n:]...)
		g.from += int64(n)
	}
}

// end is how much was printed.
func (g *Guest) end() int64 { return g.from + int64(len(g.console)) }

// speak writes what is to be said until the channel is broken.
func (g *Guest) speak() {
	for {
		g.mu.Lock()
		frame := g.next()
		for frame == nil && g.err == nil {
			g.changed.Wait()
			frame = g.next()
		}
		ended := g.err != nil
		g.changed.Broadcast() // there is room
		g.mu.Unlock()
		if ended {
			return
		}
		if _, err := g.conn.Write(frame); err != nil {
			g.fail(err)
			return
		}
	}
}

// next is the frame to say next, the last word last; nil when all is said. The caller holds the lock.
func (g *Guest) next() []byte {
	said := &g.said
	switch {
	case !said.opened:
		said.opened = true
		return frame(kindOpen, g.session)
	case !said.hello && g.hello != nil:
		said.hello = true
		return jsonFrame(kindHello, Hello{Kernel: g.hello.Kernel, BootID: g.hello.BootID, Configured: g.configured})
	case said.states < len(g.states):
		said.states++
		return frame(kindState, []byte(g.states[said.states-1]))
	case !said.usage && g.usage != nil:
		said.usage = true
		return jsonFrame(kindUsage, g.usage)
	case said.console < g.end():
		from := max(said.console, g.from)
		said.console = min(g.end(), from+consoleChunk)
		payload := binary.BigEndian.AppendUint64(nil, uint64(from))
		return frame(kindConsole, append(payload, g.console[from-g.from:said.console-g.from]...))
	case !said.exit && g.exit != nil:
		said.exit = true
		return jsonFrame(kindExit, g.exit)
	default:
		return nil
	}
}

func jsonFrame(kind byte, v any) []byte {
	payload, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers and texts
	}
	return frame(kind, payload)
}

// listen hears one host after the other until the channel is broken.
func (g *Guest) listen() {
	for {
		var err error
		for lines := bufio.NewReader(g.conn); err == nil; {
			var text []byte
			if text, err = lines.ReadBytes('\n'); err == nil {
				g.take(text)
			}
		}
		if !errors.Is(err, io.EOF) {
			g.fail(err)
			return
		}
		g.mu.Lock()
		g.attended = false
		g.changed.Broadcast()
		g.mu.Unlock()
		time.Sleep(listenAgain)
	}
}

// take follows one line of a host. One that makes no sense is half of an earlier host's.
func (g *Guest) take(text []byte) {
	var l line
	if json.Unmarshal(text, &l) != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case l.Resume != nil && len(l.Resume.Session) == sessionBytes:
		g.attended, g.session = true, l.Resume.Session
		g.said = progress{console: min(max(l.Resume.Console, g.from), g.end())}
		g.changed.Broadcast()
	case l.Config != nil && !g.configured:
		g.configured = true
		g.config <- *l.Config
	case l.Stop:
		closeOnce(g.stop)
	case l.Heard:
		closeOnce(g.heard)
	}
}

// closeOnce closes c, which one goroutine alone closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// fail ends all that waits for the channel.
func (g *Guest) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
		close(g.broken)
		g.changed.Broadcast()
	}
}

// Config waits until the host says who the guest is.
func (g *Guest) Config() (Config, error) {
	select {
	case c := <-g.config:
		return c, nil
	case <-g.stop:
		return Config{}, errors.New("stopped before it was configured")
	case <-g.broken:
		return Config{}, g.err
	case <-time.After(patience):
		return Config{}, fmt.Errorf("there was no configuration within %s", patience)
	}
}

// Stopped returns when the host asks the guest to stop, or can't be heard any more.
func (g *Guest) Stopped() {
	select {
	case <-g.stop:
	case <-g.broken:
	}
}
