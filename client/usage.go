package client

import "github.com/millrace-ci/millrace"

// Usage is what one group of completed jobs used in a window.
//
//	GET /api/v1/orgs/{org}/usage?by=repository|user|day&from=RFC3339&to=RFC3339   → List[Usage], all on one page
type Usage struct {
	Key       string `json:"key"` // a repository's full name, a user's login or a day (UTC)
	Jobs      int    `json:"jobs"`
	Succeeded int    `json:"succeeded"`
	Failed    int    `json:"failed"` // failure or timed_out
	Cancelled int    `json:"cancelled"`
	BuildMS   int64  `json:"build_ms"` // sum of completed − started, wall clock
	VCPUMS    int64  `json:"vcpu_ms"`  // the same, times the vCPUs of each job's label
	WaitP50MS int64  `json:"wait_p50_ms"`
	WaitP95MS int64  `json:"wait_p95_ms"`
}

// NewUsage is u on the wire.
func NewUsage(u millrace.Usage) Usage {
	return Usage{
		Key:       u.Key,
		Jobs:      u.Jobs,
		Succeeded: u.Succeeded,
		Failed:    u.Failed,
		Cancelled: u.Cancelled,
		BuildMS:   u.BuildTime.Milliseconds(),
		VCPUMS:    u.VCPUTime.Milliseconds(),
		WaitP50MS: u.WaitP50.Milliseconds(),
		WaitP95MS: u.WaitP95.Milliseconds(),
	}
}
