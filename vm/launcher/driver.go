package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
)

// ErrLost is why an agent ends whose launcher has: the next one finds the machines that run.
var ErrLost = errors.New("the launcher has ended")

// dialEvery is between tries to reach a launcher that isn't there yet.
const dialEvery = 100 * time.Millisecond

// Driver is a [vm.Driver] whose machines a launcher starts.
type Driver struct {
	path    string
	session conn
	host    Host
	lost    chan struct{}

	mu   sync.Mutex
	name string
	boot vm.Boot
}

var _ vm.Driver = (*Driver)(nil)

// Dial reaches the launcher at the socket path; while there is none it tries again until ctx ends. What the launcher says is written
// to said, lines from before included.
func Dial(ctx context.Context, path string, said io.Writer) (*Driver, error) {
	d := &Driver{path: path, lost: make(chan struct{}), name: "launcher"}
	for {
		session, err := d.open(ctx, request{Do: hello})
		if err == nil {
			d.session = session
			break
		}
		if ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("the launcher at %s: %w", path, err)
		}
		select {
		case <-time.After(dialEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("no launcher at %s: %w; journalctl -u millrace-launcher says why", path, err)
		}
	}
	first, file, err := receive(d.session)
	if err != nil {
		d.session.Close()
		return nil, fmt.Errorf("the launcher at %s: %w", path, err)
	}
	if file != nil {
		file.Close()
	}
	d.host = first.Host
	go func() {
		defer close(d.lost)
		for {
			next, file, err := receive(d.session)
			if file != nil {
				file.Close()
			}
			if err != nil {
				return
			}
			_, _ = io.WriteString(said, next.Log) // it is in the launcher's journal, too
		}
	}()
	return d, nil
}

// Close ends the session, and the launcher with it. Machines run on.
func (d *Driver) Close() error { return d.session.Close() }

// Lost is closed when the launcher has ended. Nothing more is heard of machines then.
func (d *Driver) Lost() <-chan struct{} { return d.lost }

// Host is what the launcher said of its machine.
func (d *Driver) Host() Host { return d.host }

// open asks the launcher for something.
func (d *Driver) open(ctx context.Context, r request) (conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, d.path)
	if err != nil {
		return conn{}, err
	}
	asked := conn{c.(*net.UnixConn)}
	if err := asked.send(r); err != nil {
		asked.Close()
		return conn{}, err
	}
	return asked, nil
}

// receive is the next answer on c.
func receive(c conn) (a answer, file *os.File, err error) {
	file, err = c.receive(&a)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return a, nil, ErrLost
	case err == nil && a.Error != "":
		err = errors.New(a.Error)
	}
	return a, file, err
}

// ask asks for something that takes one answer.
func (d *Driver) ask(ctx context.Context, r request) (answer, error) {
	c, err := d.open(ctx, r)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	a, file, err := receive(c)
	if file != nil {
		file.Close()
	}
	if ctx.Err() != nil {
		return a, ctx.Err()
	}
	return a, err
}

// Name is that of the launcher's driver, as [Driver.Prepare] found it.
func (d *Driver) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.name
}

// Boot is what [Driver.Prepare] found out last.
func (d *Driver) Boot() vm.Boot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.boot
}

// Prepare has the launcher prepare its driver.
func (d *Driver) Prepare(ctx context.Context) error {
	a, err := d.ask(ctx, request{Do: prepare})
	if a.Name != "" {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.name, d.boot = a.Name, a.Boot
	}
	return err
}

// Examine is what the launcher finds of its machine.
func (d *Driver) Examine(ctx context.Context) ([]millrace.Finding, error) {
	a, err := d.ask(ctx, request{Do: examine})
	return a.Findings, err
}

// Reboot has the launcher reboot the machine, where its owner lets it.
func (d *Driver) Reboot(ctx context.Context) error {
	_, err := d.ask(ctx, request{Do: reboot})
	return err
}

// Adopt has the launcher take over the machines named ids, and remove all others.
func (d *Driver) Adopt(ctx context.Context, ids []string) (map[string]vm.Machine, error) {
	a, err := d.ask(ctx, request{Do: adopt, IDs: ids})
	if err != nil {
		return nil, err
	}
	adopted := map[string]vm.Machine{}
	for _, id := range a.IDs {
		if adopted[id], err = d.machine(ctx, request{Do: attach, IDs: []string{id}}); err != nil {
			return nil, err
		}
	}
	return adopted, nil
}

// Start has the launcher start a machine.
func (d *Driver) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	return d.machine(ctx, request{Do: start, Spec: spec})
}

// machine asks for a machine.
func (d *Driver) machine(ctx context.Context, r request) (vm.Machine, error) {
	c, err := d.open(ctx, r)
	if err != nil {
		return nil, err
	}
	m := &machine{conn: c, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, m.Kill)
	_, file, err := receive(c)
	stop()
	if err == nil && file == nil {
		err = errors.New("the launcher gave no channel")
	}
	if err == nil {
		m.channel, err = net.FileConn(file)
		file.Close()
	}
	if err != nil {
		m.Kill()
		c.Close()
		return nil, err
	}
	go m.wait()
	return m, nil
}

// machine is one of the launcher's.
type machine struct {
	conn    conn
	channel net.Conn
	done    chan struct{}
	err     error
}

// wait waits for the machine's end. When the launcher ends first, that is unknown.
func (m *machine) wait() {
	defer m.conn.Close()
	last, file, err := receive(m.conn)
	if file != nil {
		file.Close()
	}
	if last.Ended {
		m.err = err
		close(m.done)
	}
}

func (m *machine) Channel() io.ReadWriteCloser { return m.channel }
func (m *machine) Done() <-chan struct{}       { return m.done }
func (m *machine) Err() error                  { return m.err }
func (m *machine) Kill()                       { _ = m.conn.send(request{Do: kill}) } // one that has ended is no error
