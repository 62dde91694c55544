package millrace

import "time"

// Usage is what a group of completed jobs used in a window.
type Usage struct {
	Key       string // the group: a repository's full name or a user's login
	Jobs      int
	Succeeded int
	Failed    int // failure or timed_out
	Cancelled int
	BuildTime time.Duration // sum of completed − started, wall clock, unrounded
	VCPUTime  time.Duration // BuildTime times the vCPUs of each job's label
	WaitP50   time.Duration // started − queued, nearest rank
	WaitP95   time.Duration
}

// UsageBy is what usage is grouped by.
type UsageBy string

// The groupings.
const (
	ByRepository UsageBy = "repository"
	ByUser       UsageBy = "user"
	ByDay        UsageBy = "day"
)
