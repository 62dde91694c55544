// Package launcher has one process start the machines of another: an agent, which speaks with the control plane and has no
// privileges, asks a launcher, which has those that machines need and speaks with nobody else. What the host's owner said to the
// launcher bounds whatever is asked.
//
//	control plane ── agent: Dial, a vm.Driver ── socket ── launcher: Serve ── vm.Driver ── machines
//
// A launcher serves one agent and ends with it: the next one finds the machines that run, as after any end of an agent.
//
// The socket is of packets (SOCK_SEQPACKET, unix(7)), each of which is one JSON document. The first connection says hello, and
// stays; it is the agent's life, and brings it what the launcher says. Each further one asks for one thing. Who asks for a machine gets its channel as a file
// descriptor, and may kill it; its end is the last packet.
package launcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
)

// Host is what a launcher tells of its machine when an agent comes.
type Host struct {
	Facts millrace.HostFacts `json:"facts"` // with the bounds that it holds machines to
	Dir   string             `json:"dir"`   // on the disk that machines live on
}

// network is that of the socket.
const network = "unixpacket"

// maxPacket is that of a document: the largest are lists of a host's findings or machines.
const maxPacket = 128 << 10

// helloWithin is how long a connection may take to say what it is for.
const helloWithin = 5 * time.Second

// verb is what a request asks for.
type verb string

const (
	hello   verb = "hello"
	prepare verb = "prepare"
	adopt   verb = "adopt"   // the machines named IDs
	attach  verb = "attach"  // to a machine that was adopted: IDs has its ID
	start   verb = "start"   // Spec
	kill    verb = "kill"    // the connection's machine
	examine verb = "examine" // the machine that all run on
	reboot  verb = "reboot"  // it
)

type request struct {
	Do   verb     `json:"do"`
	IDs  []string `json:"ids,omitempty"`
	Spec vm.Spec  `json:"spec,omitzero"`
}

// answer is to a request; to those for a machine there are two, the second when Ended, and to hello one with each Log.
type answer struct {
	Error    string             `json:"error,omitempty"`
	Host     Host               `json:"host,omitzero"`
	Name     string             `json:"name,omitempty"` // the driver's
	Boot     vm.Boot            `json:"boot,omitzero"`
	IDs      []string           `json:"ids,omitempty"`
	Findings []millrace.Finding `json:"findings,omitempty"`
	Ended    bool               `json:"ended,omitempty"`
	Log      string             `json:"log,omitempty"` // what comes next of the launcher's
}

// conn sends and receives documents.
type conn struct{ *net.UnixConn }

// send sends v, with the file descriptors fds.
func (c conn) send(v any, fds ...int) error {
	packet, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(packet) > maxPacket {
		return fmt.Errorf("a packet of %d bytes, of which %d are allowed", len(packet), maxPacket)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(packet, rights, nil)
	return err
}

// receive receives v, which may have no fields that aren't known, and the file that came with it; nil: none did.
func (c conn) receive(v any) (file *os.File, err error) {
	packet, rights := make([]byte, maxPacket+1), make([]byte, unix.CmsgSpace(4))
	n, nrights, flags, _, err := c.ReadMsgUnix(packet, rights)
	if err != nil {
		return nil, err
	}
	if file, err = fileOf(rights[:nrights]); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(packet[:n]))
	dec.DisallowUnknownFields()
	switch err = dec.Decode(v); {
	case flags&unix.MSG_CTRUNC != 0:
		err = errors.New("it has more than one file")
	case n > maxPacket:
		err = errors.New("it is too long")
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("a packet can't be understood: %w", err)
	}
	return file, nil
}

// fileOf is the file of a packet's control messages, which has at most one.
func fileOf(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d files: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "channel"), nil
}
