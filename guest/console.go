package guest

import (
	"bytes"

	"github.com/millrace-ci/millrace"
)

// What GitHub's actions/runner prints when it is connected and when it is given a job (src/Runner.Listener, Runner.cs).
// The test runner prints the same.
var (
	listening = []byte("Listening for Jobs")
	running   = []byte("Running job:")
)

// Console is where a runner's output goes: it passes everything on to the host, and tells from its lines when the runner
// is online and when it is busy.
type Console struct {
	guest *Guest
	line  []byte
	state millrace.VMState
}

// NewConsole is a runner's console.
func NewConsole(g *Guest) *Console { return &Console{guest: g} }

// maxLine bounds how much of a line is looked at; the runner's own lines are short.
const maxLine = 512

// Write passes p on.
func (c *Console) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxLine - len(c.line); room > 0 {
			c.line = append(c.line, line[:min(room, len(line))]...)
		}
		if ended {
			if err := c.look(); err != nil {
				return 0, err
			}
			c.line = c.line[:0]
		}
		rest = after
	}
	for rest := p; len(rest) > 0; rest = rest[min(consoleChunk, len(rest)):] {
		if err := c.guest.Say(Event{Console: rest[:min(consoleChunk, len(rest))]}); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *Console) look() error {
	next := c.state
	switch {
	case bytes.Contains(c.line, running):
		next = millrace.VMBusy
	case c.state == "" && bytes.Contains(c.line, listening):
		next = millrace.VMOnline
	}
	if next == c.state {
		return nil
	}
	c.state = next
	return c.guest.Say(Event{State: next})
}
