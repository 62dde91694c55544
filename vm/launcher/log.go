package launcher

import (
	"bytes"
	"cmp"
	"context"
	"sync"
)

const (
	logKept   = 64 << 10 // bytes that wait for the agent
	logPacket = 16 << 10 // bytes of one packet, which JSON can make six times as long
)

// Log is what a launcher says, on its way to its agent, which sends it to the control plane with its own. The oldest lines go when
// too many wait; a launcher never waits for its agent.
type Log struct {
	mu   sync.Mutex
	said []byte
	more chan struct{} // has room for one: there is something
}

// NewLog is a log that is empty.
func NewLog() *Log { return &Log{more: make(chan struct{}, 1)} }

// Write adds a line.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, line...)
	if n := len(l.said) - logKept; n > 0 {
		l.said = bytes.Clone(l.said[n+bytes.IndexByte(l.said[n:], '\n')+1:])
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(line), nil
}

// take is the lines that come next; "" is none for now.
func (l *Log) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.said
	if len(next) > logPacket { // the agent's own lines come between packets
		next = next[:logPacket]
		next = next[:cmp.Or(bytes.LastIndexByte(next, '\n')+1, logPacket)]
	}
	l.said = l.said[len(next):]
	return string(next)
}

// tell sends what is said on c, until ctx or c ends.
func (l *Log) tell(ctx context.Context, c conn) {
	for {
		for next := l.take(); next != ""; next = l.take() {
			if c.send(answer{Log: next}) != nil {
				return
			}
		}
		select {
		case <-l.more:
		case <-ctx.Done():
			return
		}
	}
}
