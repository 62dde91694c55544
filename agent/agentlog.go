package agent

import (
	"context"
	"log/slog"
	"time"
)

// logDelay is how long a line of the agent's own waits for more of them: a busy host's come every moment.
const logDelay = 2 * time.Second

// ownLog is what this process says, on its way to the control plane: [runner.Log] writes into it, too.
type ownLog struct {
	console *console
	at      int64
}

// newOwnLog is a log of which everything that goes to log is sent as well. To send it says nothing, so that it has an end.
func newOwnLog(log *slog.Logger) (*ownLog, *slog.Logger) {
	l := &ownLog{console: newConsole(0)}
	l.console.delay = func() time.Duration { return logDelay }
	return l, slog.New(slog.NewMultiHandler(log.Handler(), slog.NewTextHandler(l, nil)))
}

// Write adds a line. The handler calls it once at a time.
func (l *ownLog) Write(line []byte) (int, error) {
	l.console.add(l.at, line)
	l.at += int64(len(line))
	return len(line), nil
}

// upload sends it until it is closed and all has arrived, or ctx ends.
func (l *ownLog) upload(ctx context.Context, s Server) { l.console.upload(ctx, s.AppendLog) }
