package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logDelay is how long a line of the agent's own waits for more of them: a busy host's come every moment.
const logDelay = 2 * time.Second

// OwnLog is what this host's processes say, on its way to the control plane. To send it says nothing, so that it has an end.
type OwnLog struct {
	console *console

	mu sync.Mutex
	at int64
}

// NewOwnLog is a log that is empty.
func NewOwnLog() *OwnLog {
	l := &OwnLog{console: newConsole(0)}
	l.console.delay = func() time.Duration { return logDelay }
	return l
}

// with is a logger of which everything that goes to log goes to l as well.
func (l *OwnLog) with(log *slog.Logger) *slog.Logger {
	return slog.New(slog.NewMultiHandler(log.Handler(), slog.NewTextHandler(l, nil)))
}

// Write adds whole lines.
func (l *OwnLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.console.add(l.at, line)
	l.at += int64(len(line))
	return len(line), nil
}

// upload sends it until it is closed and all has arrived, or ctx ends.
func (l *OwnLog) upload(ctx context.Context, s Server) { l.console.upload(ctx, s.AppendLog) }
