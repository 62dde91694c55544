package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

// Config is what a guest is told, once.
type Config struct {
	Hostname string    `json:"hostname"`
	JIT      string    `json:"jit"` // the runner's registration; never in an argument, the kernel's command line or a log
	Now      time.Time `json:"now"` // the guest has no clock of its own
}

// Hello is a guest's first word.
type Hello struct {
	Kernel string `json:"kernel"`  // uname -r
	BootID string `json:"boot_id"` // /proc/sys/kernel/random/boot_id
}

// Exit is a guest's last word: its runner's exit code, or why there was none (code −1).
type Exit struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// Event is what a guest says. Exactly one field is set.
type Event struct {
	Hello   *Hello
	State   millrace.VMState // online or busy
	Console []byte
	Usage   *millrace.Metering
	Exit    *Exit
}

// A frame is a kind (one byte), a length (four bytes, big-endian) and so many bytes: JSON, or plain bytes for the console
// and a state.
const (
	kindHello   = 'h'
	kindState   = 's'
	kindConsole = 'c'
	kindUsage   = 'u'
	kindExit    = 'x'
	kindConfig  = 'C'
	kindStop    = 'S'
)

// maxFrame bounds a frame. A guest is hostile: what it says must not cost its host more memory than this.
const maxFrame = 256 << 10

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("a frame of %d bytes; at most %d", len(payload), maxFrame)
	}
	frame := make([]byte, 0, 5+len(payload))
	frame = append(frame, kind)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	_, err := w.Write(append(frame, payload...))
	return err
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes; at most %d", n, maxFrame)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], payload, nil
}

// Host is the host's end of a channel. It believes nothing: what it can't understand is an error.
type Host struct {
	conn io.ReadWriter
	mu   sync.Mutex
}

// NewHost is the host's end of conn.
func NewHost(conn io.ReadWriter) *Host { return &Host{conn: conn} }

// Configure tells the guest who it is. It blocks until the guest's kernel takes it.
func (h *Host) Configure(c Config) error {
	payload, err := json.Marshal(c)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return writeFrame(h.conn, kindConfig, payload)
}

// Stop asks the guest to end its runner and power off.
func (h *Host) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return writeFrame(h.conn, kindStop, nil)
}

// Next waits for what the guest says next. io.EOF: nothing any more.
func (h *Host) Next() (e Event, err error) {
	kind, payload, err := readFrame(h.conn)
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
		if len(payload) == 0 {
			return h.Next()
		}
		e.Console = payload
	case kindUsage:
		e.Usage = new(millrace.Metering)
		err = json.Unmarshal(payload, e.Usage)
	case kindExit:
		e.Exit = new(Exit)
		err = json.Unmarshal(payload, e.Exit)
	default:
		err = fmt.Errorf("a frame of unknown kind %q", kind)
	}
	return e, err
}

// Guest is the guest's end of a channel.
type Guest struct {
	conn io.ReadWriter
	mu   sync.Mutex
}

// NewGuest is the guest's end of conn.
func NewGuest(conn io.ReadWriter) *Guest { return &Guest{conn: conn} }

// Say tells the host one thing.
func (g *Guest) Say(e Event) (err error) {
	var kind byte
	var payload []byte
	switch {
	case e.Hello != nil:
		kind = kindHello
		payload, err = json.Marshal(e.Hello)
	case e.State != "":
		kind, payload = kindState, []byte(e.State)
	case e.Usage != nil:
		kind = kindUsage
		payload, err = json.Marshal(e.Usage)
	case e.Exit != nil:
		kind = kindExit
		payload, err = json.Marshal(e.Exit)
	default:
		kind, payload = kindConsole, e.Console
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return writeFrame(g.conn, kind, payload)
}

// Config waits until the host says who the guest is.
func (g *Guest) Config() (c Config, err error) {
	kind, payload, err := readFrame(g.conn)
	switch {
	case err != nil:
		return c, err
	case kind != kindConfig:
		return c, errors.New("stopped before it was configured")
	}
	err = json.Unmarshal(payload, &c)
	return c, err
}

// Stopped returns when the host asks the guest to stop, or can't be heard any more. It is called after Config.
func (g *Guest) Stopped() {
	for {
		if kind, _, err := readFrame(g.conn); err != nil || kind == kindStop {
			return
		}
	}
}
