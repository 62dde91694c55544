package millrace_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
)

// Hosts that sync at once are answered all over the heartbeat's time, each at the same moment of it from then on.
func TestUntilHeartbeat(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	ids := new(millrace.Source)
	var tenths [10]int
	for range 2000 {
		host := millrace.NewHostID(ids, now)
		first := millrace.UntilHeartbeat(host, now)
		if first < 2*time.Second || first > millrace.LongestSync {
			t.Fatalf("held for %v", first)
		}
		tenths[first%millrace.Heartbeat/time.Second]++
		const answered = 30 * time.Millisecond
		if next := millrace.UntilHeartbeat(host, now.Add(first+answered)); next != millrace.Heartbeat-answered {
			t.Fatalf("first held for %v, then for %v", first, next)
		}
	}
	for i, n := range tenths {
		if n < 130 || n > 270 { // 200 ± 5 standard deviations
			t.Errorf("%d of 2000 are answered in the second %d", n, i)
		}
	}
}
