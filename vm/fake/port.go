package fake

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Port is a guest's end of a channel whose host's end comes and goes, with the ways of a virtio-serial port: reading gives
// io.EOF while there is no host, writing waits for one, and what a host didn't read before it left is lost.
type Port struct {
	mu     sync.Mutex
	come   *sync.Cond
	host   net.Conn // the guest's end of a pipe to the present host
	closed bool
}

// NewPort is a port without a host.
func NewPort() *Port {
	p := &Port{}
	p.come = sync.NewCond(&p.mu)
	return p
}

// Connect is a new host's end. The one before it is cut off.
func (p *Port) Connect() net.Conn {
	here, there := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host != nil {
		p.host.Close()
	}
	p.host = there
	if p.closed {
		there.Close()
	}
	p.come.Broadcast()
	return here
}

// Read is the guest's.
func (p *Port) Read(b []byte) (int, error) {
	p.mu.Lock()
	host, closed := p.host, p.closed
	p.mu.Unlock()
	switch {
	case closed:
		return 0, io.ErrClosedPipe
	case host == nil:
		return 0, io.EOF
	}
	n, err := host.Read(b)
	if err != nil {
		p.left(host)
		err = io.EOF
	}
	return n, err
}

// Write is the guest's.
func (p *Port) Write(b []byte) (int, error) {
	p.mu.Lock()
	for p.host == nil && !p.closed {
		p.come.Wait()
	}
	host, closed := p.host, p.closed
	p.mu.Unlock()
	if closed {
		return 0, io.ErrClosedPipe
	}
	if _, err := host.Write(b); errors.Is(err, io.ErrClosedPipe) {
		p.left(host)
	}
	return len(b), nil
}

// left notes that a host is gone, unless another has come.
func (p *Port) left(host net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == host {
		p.host = nil
	}
}

// Close breaks the port: its guest ends.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.host != nil {
		p.host.Close()
	}
	p.come.Broadcast()
	return nil
}
