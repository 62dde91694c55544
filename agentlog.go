package millrace

import (
	"fmt"
	"time"
)

// LogRetention is how long VMs' consoles and agents' logs are kept.
const LogRetention = 30 * 24 * time.Hour

// LogPosition is where something is in a host's agent log: each process of the agent, which has an epoch of its own, begins its
// part at byte 0. The zero position is before everything.
type LogPosition struct {
	Epoch, Offset int64
}

// String is the position in a form whose order is the positions', such as "0000000003.0000000517".
func (p LogPosition) String() string { return fmt.Sprintf("%010d.%010d", p.Epoch, p.Offset) }

// ParseLogPosition reads a position. Invalid: that is none.
func ParseLogPosition(text string) (p LogPosition, err error) {
	if _, err := fmt.Sscanf(text, "%010d.%010d", &p.Epoch, &p.Offset); err != nil || p.String() != text || p.Epoch < 0 || p.Offset < 0 {
		return LogPosition{}, Errorf(Invalid, "%.40q is no position in a log; use one that an answer gave.", text)
	}
	return p, nil
}

// Plus is the position n bytes later.
func (p LogPosition) Plus(n int64) LogPosition { return LogPosition{p.Epoch, p.Offset + n} }

// Before reports whether p comes before o.
func (p LogPosition) Before(o LogPosition) bool {
	return p.Epoch < o.Epoch || p.Epoch == o.Epoch && p.Offset < o.Offset
}
