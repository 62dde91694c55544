package main

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFleet runs a small fleet: all that the bench does works, whatever it takes here.
func TestFleet(t *testing.T) {
	t.Parallel()
	figures, err := measureFleet(t.Context(), fleetOptions{hosts: 20, length: 2 * time.Second, rate: 5, signals: []syscall.Signal{syscall.SIGKILL}})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]string{}
	for _, f := range figures {
		if strings.HasPrefix(f.name, "jobs ") {
			counts[f.name] = f.value
		}
	}
	if counts["jobs queued, 5/s"] != "10" || counts["jobs lost"] != "0" || counts["jobs without an order"] != "0" {
		t.Errorf("got %v; want 10 jobs, none of which is lost", counts)
	}
}
