package guest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/millrace-ci/millrace"
)

// Host is the host's end of a channel, in one session. It believes nothing: what it can't understand is an error.
type Host struct {
	session []byte
	in      *bufio.Reader
	opened  bool // the guest speaks in this session

	mu  sync.Mutex
	out io.Writer
}

// NewHost is the host's end of conn.
func NewHost(conn io.ReadWriter) *Host {
	session := make([]byte, sessionBytes)
	_, _ = rand.Read(session) // never fails
	return &Host{session: session, in: bufio.NewReader(conn), out: conn}
}

// Resume opens the session: the guest says from the beginning what it is and what became of it, and goes on with what it
// printed from byte console on, or from the first byte after it that it still has. A session before this one, perhaps of
// a process that is no more, is over.
func (h *Host) Resume(console int64) error {
	return h.say(line{Resume: &resume{Session: h.session, Console: console}})
}

// Configure tells the guest who it is. One that knows already doesn't listen.
func (h *Host) Configure(c Config) error { return h.say(line{Config: &c}) }

// Stop asks the guest to end its runner and power off.
func (h *Host) Stop() error { return h.say(line{Stop: true}) }

// Heard tells the guest that its last word is kept: it may power off.
func (h *Host) Heard() error { return h.say(line{Heard: true}) }

func (h *Host) say(l line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err = h.out.Write([]byte("\n" + string(text) + "\n"))
	return err
}

// maxOffset keeps a guest's claims away from where sums overflow.
const maxOffset = 1 << 60

// Next waits for what the guest says next in this session. io.EOF: nothing any more.
func (h *Host) Next() (e Event, err error) {
	if err := h.open(); err != nil {
		return e, err
	}
	for {
		e, err = h.event()
		if err != nil || e.Console == nil || len(e.Console) > 0 { // a console's frame may be empty, any number of them
			return e, err
		}
	}
}

// event is what the next frame says.
func (h *Host) event() (e Event, err error) {
	kind, payload, err := readFrame(h.in)
	if err != nil {
		return e, err
	}
	switch kind {
	case kindHello:
		e.Hello = new(Hello)
		err = json.Unmarshal(payload, e.Hello)
	case kindState:
		switch e.State = millrace.VMState(payload); e.State {
		case millrace.VMOnline, millrace.VMBusy:
		default:
			return e, fmt.Errorf("a guest cannot say that it is %.20q", payload)
		}
	case kindConsole:
		if len(payload) < 8 {
			return e, fmt.Errorf("a frame of the console with %d bytes; it begins with an offset of 8", len(payload))
		}
		e.Offset, e.Console = int64(binary.BigEndian.Uint64(payload)), payload[8:]
		if e.Offset < 0 || e.Offset > maxOffset {
			err = fmt.Errorf("nobody prints %d bytes", e.Offset)
		}
	case kindUsage:
		e.Usage = new(Usage)
		err = json.Unmarshal(payload, e.Usage)
	case kindExit:
		e.Exit = new(Exit)
		err = json.Unmarshal(payload, e.Exit)
	default:
		err = fmt.Errorf("a frame of unknown kind %q", kind)
	}
	return e, err
}

// open passes over the rest of what was said to an earlier host, which may begin and end in the middle of a frame.
func (h *Host) open() error {
	begins := frame(kindOpen, h.session)
	for last := make([]byte, 0, 2*len(begins)); !h.opened; {
		b, err := h.in.ReadByte()
		if err != nil {
			return err
		}
		if len(last) == len(begins) {
			last = append(last[:0], last[1:]...)
		}
		last = append(last, b)
		h.opened = bytes.Equal(last, begins)
	}
	return nil
}
