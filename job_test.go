package millrace_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for tries, want := range map[int]time.Duration{-1: 0, 0: 0, 1: 5 * time.Second, 2: 10 * time.Second, 6: 160 * time.Second, 7: 5 * time.Minute, 1 << 40: 5 * time.Minute} {
		if got := millrace.Backoff(tries); got != want {
			t.Errorf("after %d tries %v, want %v", tries, got, want)
		}
	}
}

func TestHostStatus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		admin  millrace.HostAdmin
		silent time.Duration
		want   millrace.HostStatus
	}{
		{millrace.HostEnabled, 0, millrace.StatusOnline},
		{millrace.HostEnabled, millrace.OfflineAfter - 1, millrace.StatusOnline},
		{millrace.HostEnabled, millrace.OfflineAfter, millrace.StatusOffline},
		{millrace.HostDraining, 0, millrace.StatusDraining},
		{millrace.HostDraining, time.Hour, millrace.StatusOffline},
		{millrace.HostDisabled, time.Hour, millrace.StatusDisabled},
	} {
		h := millrace.Host{Admin: tc.admin, SeenAt: start}
		if got := h.Status(start.Add(tc.silent)); got != tc.want {
			t.Errorf("%s and silent for %v is %s, want %s", tc.admin, tc.silent, got, tc.want)
		}
	}
}
