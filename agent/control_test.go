package agent

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// control is a small control plane in memory. It keeps what it orders until the host says that it is gone.
type control struct {
	t    *testing.T
	host millrace.HostID
	key  *ecdh.PrivateKey

	mu       sync.Mutex
	changed  chan struct{} // closed when the version rises
	version  int64
	orders   []client.VMOrder
	reports  map[millrace.VMID]client.VMReport // the last of each
	consoles map[millrace.VMID][]byte
	samples  map[millrace.VMID]millrace.Series
	log      []byte
	logged   int  // bytes of it that earlier processes said
	away     bool // it can't be reached
	starts   int
	facts    millrace.HostFacts // of the last start
	forget   bool               // the agent's epoch
	refuses  string
	restart  bool  // once it has heard of a VM
	gone     error // what every call answers
}

func newControl(t *testing.T) *control {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &control{
		t: t, host: millrace.HostID{15: 1}, key: key, changed: make(chan struct{}),
		reports: map[millrace.VMID]client.VMReport{}, consoles: map[millrace.VMID][]byte{}, samples: map[millrace.VMID]millrace.Series{},
	}
}

var errAway = context.DeadlineExceeded // as a network's failure: no *millrace.Error

// set changes the orders.
func (c *control) set(orders ...client.VMOrder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.orders = orders
	c.raise()
}

func (c *control) raise() {
	c.version++
	close(c.changed)
	c.changed = make(chan struct{})
}

// report is the last of VM n.
func (c *control) report(n byte) client.VMReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reports[vmID(n)]
}

// ask has the agent restart once it has told of a VM, or answers it nothing but gone.
func (c *control) ask(restart bool, gone error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restart, c.gone = restart, gone
}

// refusal is why the host takes no VM, as far as it said.
func (c *control) refusal() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuses
}

func (c *control) Start(_ context.Context, in client.StartRequest) (client.StartResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return client.StartResponse{}, errAway
	}
	if c.gone != nil {
		return client.StartResponse{}, c.gone
	}
	c.starts++
	c.facts = in.Facts
	c.forget = false
	return client.StartResponse{Epoch: int64(c.starts)}, nil
}

func (c *control) Sync(ctx context.Context, in client.SyncRequest) (client.SyncResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forget {
		return client.SyncResponse{}, millrace.Errorf(millrace.Unauthenticated, "This process's epoch is over.")
	}
	if c.away {
		return client.SyncResponse{}, errAway
	}
	if c.gone != nil {
		return client.SyncResponse{}, c.gone
	}
	c.refuses = in.Refuses
	for _, r := range in.VMs {
		c.reports[r.ID] = r
		for i, o := range c.orders {
			switch {
			case o.ID != r.ID:
			case r.State == millrace.VMGone:
				c.orders = append(c.orders[:i:i], c.orders[i+1:]...)
				c.raise()
			default:
				c.orders[i].State = r.State
			}
		}
	}
	timeout := time.After(millrace.Heartbeat)
	for c.version == in.Have {
		changed := c.changed
		c.mu.Unlock()
		var over bool
		select {
		case <-changed:
		case <-timeout:
			over = true
		case <-ctx.Done():
			over = true
		}
		c.mu.Lock()
		if over {
			break
		}
	}
	return client.SyncResponse{Version: c.version, VMs: append([]client.VMOrder(nil), c.orders...), Restart: c.restart && len(c.reports) > 0}, ctx.Err()
}

func (c *control) JIT(_ context.Context, id millrace.VMID, epoch int64) (client.JITResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return client.JITResponse{}, errAway
	}
	sealed, err := client.Seal(c.key.PublicKey().Bytes(), client.SealedFor{Host: c.host, VM: id, Epoch: epoch}, []byte("config of "+id.String()))
	return client.JITResponse{Sealed: sealed}, err
}

func (c *control) AppendConsole(_ context.Context, id millrace.VMID, offset int64, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errAway
	}
	if offset != int64(len(c.consoles[id])) {
		c.t.Errorf("VM %s: the console has %d bytes and goes on at %d", id, len(c.consoles[id]), offset)
	}
	c.consoles[id] = append(c.consoles[id], data...)
	return nil
}

func (c *control) AppendLog(_ context.Context, offset int64, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errAway
	}
	if offset == 0 { // another process's
		c.logged = len(c.log)
	}
	if offset != int64(len(c.log)-c.logged) {
		c.t.Errorf("the log has %d bytes and goes on at %d", len(c.log)-c.logged, offset)
	}
	c.log = append(c.log, data...)
	return nil
}

func (c *control) AppendSamples(_ context.Context, id millrace.VMID, in client.SamplesRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errAway
	}
	c.samples[id] = c.samples[id].Join(in.Samples...)
	return nil
}

var _ Server = (*client.Agent)(nil)
