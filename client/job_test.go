package client_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func TestNewJob(t *testing.T) {
	t.Parallel()
	id := millrace.JobID{15: 1}
	j := millrace.Job{ID: id, Status: millrace.JobCompleted, ReceivedAt: signedAt, RunnerID: 5, Demand: millrace.Demand{Arch: millrace.AMD64}}
	v := &millrace.VM{ID: millrace.VMID{15: 2}, State: millrace.VMGone, RanJob: id, Stamps: millrace.VMStamps{
		Placed: signedAt.Add(5 * time.Millisecond), Booting: signedAt.Add(9 * time.Millisecond), Online: signedAt.Add(2 * time.Second),
		Busy: signedAt.Add(3 * time.Second), Gone: signedAt.Add(4 * time.Second),
	}}
	got := client.NewJob(j, v, "h1")
	var stages []string
	var ms []int64
	for _, s := range got.Timeline {
		stages, ms = append(stages, string(s.State)), append(ms, s.MS)
	}
	if d := cmp.Diff([]string{"queued", "placed", "booting", "online", "running", "done"}, stages) +
		cmp.Diff([]int64{0, 5, 9, 2000, 3000, 4000}, ms); d != "" {
		t.Error(d)
	}
	if got.VM == nil || got.VM.Host != "h1" || got.Wait != nil {
		t.Errorf("got %+v", got)
	}

	j = millrace.Job{ID: id, Status: millrace.JobQueued, ReceivedAt: signedAt, Wait: millrace.WaitReason{Code: millrace.WaitNoHost, Text: "No."}}
	data, err := json.Marshal(client.NewJob(j, nil, ""))
	if err != nil {
		t.Fatal(err)
	}
	var wire map[string]any
	if err := json.Unmarshal(data, &wire); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"id": id.String(), "vm": nil, "labels": []any{}, "started_at": nil,
		"wait":     map[string]any{"code": "no_host_matching_labels", "text": "No.", "remedy": millrace.WaitNoHost.Remedy()},
		"timeline": []any{map[string]any{"state": "queued", "at": "2026-11-24T12:00:00Z", "ms": 0.0}},
	} {
		if d := cmp.Diff(want, wire[key]); d != "" {
			t.Errorf("%s: %s", key, d)
		}
	}
}
