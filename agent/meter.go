package agent

import (
	"context"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// Samples wait for more: 10 seconds, and longer once a VM has run for so long that a chart of it would not show the
// difference. The server writes all that it has of the VM anew with each upload.
const (
	samplesDelay   = 10 * time.Second
	samplesShare   = 60 // of the VM's time
	longestSamples = 10 * time.Minute
)

// meter is what a VM used and the server doesn't have yet. A process that adopts the VM begins with none: what the earlier
// one had not sent is lost, but for what the counters say.
type meter struct {
	mu     sync.Mutex
	last   millrace.Sample // the guest's last word
	unsent millrace.Series
	ended  chan struct{} // closed: nothing will be added
}

func newMeter() *meter { return &meter{ended: make(chan struct{})} }

// read adds a guest's word, which may be anything.
func (m *meter) read(u guest.Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := millrace.Sample{
		UptimeMS: u.UptimeMS, Memory: u.Memory,
		CPUMillis: u.CPUMillis, DiskRead: u.DiskRead, DiskWrite: u.DiskWrite, NetRx: u.NetRx, NetTx: u.NetTx,
	}
	if took := s.UptimeMS - m.last.UptimeMS; took > 0 {
		s.PeakCPU = (s.CPUMillis - m.last.CPUMillis) * 1000 / took
	}
	m.unsent, m.last = m.unsent.Join(s), s
}

// close says that nothing will be added. It may be said twice, by one goroutine after the other.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.ended:
	default:
		close(m.ended)
	}
}

// delay is how long to wait for more.
func (m *meter) delay() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(max(samplesDelay, time.Duration(m.last.UptimeMS)*time.Millisecond/samplesShare), longestSamples)
}

// waiting is what the server doesn't have.
func (m *meter) waiting() millrace.Series {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unsent
}

// sent says that all until s arrived.
func (m *meter) sent(s millrace.Sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.unsent) > 0 && m.unsent[0].UptimeMS <= s.UptimeMS {
		m.unsent = m.unsent[1:]
	}
}

// upload sends what m gets until m is closed and all has arrived, or ctx ends, or the server wants no more.
func (m *meter) upload(ctx context.Context, send func(context.Context, millrace.Series) error) {
	for tries := 0; ; {
		wait, ended := m.delay(), m.ended
		if tries > 0 {
			wait, ended = backoff(tries-1, 0.5), nil
		}
		over := false
		select {
		case <-time.After(wait):
		case <-ended:
			over = true
		case <-ctx.Done():
			return
		}
		samples := m.waiting()
		switch {
		case len(samples) == 0 && over:
			return
		case len(samples) == 0:
			continue
		}
		switch err := send(ctx, samples); {
		case err == nil:
			tries = 0
			m.sent(samples.Last())
		case final(err):
			return
		default:
			tries++
		}
	}
}
