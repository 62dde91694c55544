package guest

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/millrace-ci/millrace"
)

// Config is what a guest is told, once.
type Config struct {
	Hostname string    `json:"hostname"`
	JIT      string    `json:"jit"` // the runner's registration; never in an argument, the kernel's command line or a log
	Now      time.Time `json:"now"` // the guest has no clock of its own
}

// Hello is a guest's first word in each session.
type Hello struct {
	Kernel     string `json:"kernel"`     // uname -r
	BootID     string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
	Configured bool   `json:"configured"` // it knows who it is; another Config changes nothing
}

// Exit is a guest's last word: its runner's exit code, or why there was none (code −1).
type Exit struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// Event is what a guest says. Exactly one field is set, and with Console its Offset.
type Event struct {
	Hello   *Hello
	State   millrace.VMState // online or busy
	Console []byte
	Offset  int64 // of Console's first byte in all that was printed
	Usage   *Usage
	Exit    *Exit
}

// Usage is what the machine has used until now.
type Usage struct {
	millrace.Metering
	UptimeMS int64 `json:"uptime_ms"`    // since its kernel started; 0: a guest that doesn't say
	Memory   int64 `json:"memory_bytes"` // the most that was in use at once since the last word on it
}

// What a guest says are frames: a kind (one byte), a length (four bytes, big-endian) and so many bytes. They are JSON, or
// plain bytes for a state, for the console (after its offset, eight bytes) and for what opens a session: its name.
const (
	kindOpen    = 'o'
	kindHello   = 'h'
	kindState   = 's'
	kindConsole = 'c'
	kindUsage   = 'u'
	kindExit    = 'x'
)

// What a host says are lines of JSON, with one field each. An empty line goes before each: an earlier host may have ended
// in the middle of its own.
type line struct {
	Resume *resume `json:"resume,omitempty"`
	Config *Config `json:"config,omitempty"`
	Stop   bool    `json:"stop,omitempty"`
	Heard  bool    `json:"heard,omitempty"`
}

// resume opens a session.
type resume struct {
	Session []byte `json:"session"` // its name: sessionBytes of chance
	Console int64  `json:"console"` // what was printed before this byte is known
}

const sessionBytes = 16

// maxFrame bounds a frame. A guest is hostile: what it says must not cost its host more memory than this.
const maxFrame = 256 << 10

func frame(kind byte, payload []byte) []byte {
	b := make([]byte, 0, 5+len(payload))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
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
