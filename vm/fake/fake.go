// Package fake is a driver without machines: its guests are goroutines of this process. For tests of everything else, and
// for development where there is no QEMU.
package fake

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/millrace-ci/millrace/vm"
)

// Driver starts a goroutine for each machine.
type Driver struct {
	// Guest is the inside of a machine: it has the guest's end of the channel, and the machine ends when it returns.
	Guest func(ctx context.Context, conn io.ReadWriteCloser, spec vm.Spec) error
}

var _ vm.Driver = Driver{}

// Name is "fake".
func (Driver) Name() string { return "fake" }

// Adopt finds nothing: these machines end with their process.
func (Driver) Adopt(context.Context, []string) (map[string]vm.Machine, error) { return nil, nil }

// Prepare has nothing to prepare.
func (Driver) Prepare(context.Context) error { return nil }

// Boot is nothing: none is booted.
func (Driver) Boot() vm.Boot { return vm.Boot{} }

// Start starts a guest.
func (d Driver) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	inside := NewPort()
	m := &machine{channel: inside.Connect(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		unblock := context.AfterFunc(ctx, func() { inside.Close() })
		err := d.Guest(ctx, inside, spec)
		unblock()
		inside.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		m.err = err
		cancel(nil)
	}()
	return m, nil
}

var errKilled = errors.New("killed")

type machine struct {
	channel net.Conn
	cancel  context.CancelCauseFunc
	done    chan struct{}
	err     error
}

func (m *machine) Channel() io.ReadWriteCloser { return m.channel }
func (m *machine) Done() <-chan struct{}       { return m.done }
func (m *machine) Err() error                  { return m.err }
func (m *machine) Kill()                       { m.cancel(errKilled) }
