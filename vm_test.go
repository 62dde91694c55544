package millrace_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
)

var start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

func TestVMStates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var src millrace.Source
		v := millrace.VM{ID: newVMID(&src), Epoch: 2, State: millrace.VMPending}
		now := start
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			now = now.Add(time.Second)
			before := v
			next := rapid.SampledFrom(millrace.VMStates).Draw(t, "state")
			err := v.To(next, now)
			switch legal := slices.Contains(before.State.Next(), next); {
			case legal && (err != nil || v.State != next || !v.Stamps.Changed.Equal(now)):
				t.Fatalf("%s to %s refused: %v", before.State, next, err)
			case !legal && (millrace.CodeOf(err) != millrace.Conflict || v.State != before.State || v.Stamps != before.Stamps):
				t.Fatalf("%s to %s: error %v, and the VM is now %+v", before.State, next, err, v)
			}
			if before.State == millrace.VMGone && v.State != millrace.VMGone {
				t.Fatal("a VM came back from gone")
			}
		}
	})
}

func newVMID(src *millrace.Source) millrace.VMID {
	return millrace.NewVMID(src, start)
}

// Observations are levels: whatever their order and number, the VM ends where its furthest one says.
func TestObserveAnyOrder(t *testing.T) {
	t.Parallel()
	life := []millrace.VMState{millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMGone}
	rapid.Check(t, func(t *rapid.T) {
		var src millrace.Source
		v := millrace.VM{ID: newVMID(&src), Epoch: 1, State: millrace.VMPending}
		v.Stamps.Placed = start
		seen := rapid.SliceOfN(rapid.IntRange(0, len(life)-1), 1, 12).Draw(t, "seen")
		furthest, cpu := 0, int64(0)
		for i, s := range seen {
			usage := int64(rapid.IntRange(0, 1000).Draw(t, "cpu"))
			o := millrace.Observation{VMID: v.ID, Epoch: 1, State: life[s], Usage: millrace.Metering{CPUMillis: usage}}
			if v.State != millrace.VMGone {
				furthest, cpu = max(furthest, s), max(cpu, usage)
			}
			v.Observe(o, start.Add(time.Duration(i)*time.Second))
		}
		if v.State != life[furthest] || v.Usage.CPUMillis != cpu {
			t.Fatalf("ended %s with %d ms of CPU, want %s and %d", v.State, v.Usage.CPUMillis, life[furthest], cpu)
		}
	})
}

func TestObserveRefuses(t *testing.T) {
	t.Parallel()
	var src millrace.Source
	v := millrace.VM{ID: newVMID(&src), Epoch: 3, State: millrace.VMBooting}
	for name, o := range map[string]millrace.Observation{
		"an older epoch": {VMID: v.ID, Epoch: 2, State: millrace.VMBusy},
		"another VM":     {VMID: newVMID(&src), Epoch: 3, State: millrace.VMBusy},
		"a state behind": {VMID: v.ID, Epoch: 3, State: millrace.VMPending},
	} {
		before := v
		if v.Observe(o, start) || v.State != before.State {
			t.Errorf("%s changed the VM", name)
		}
	}
}

func TestObserveStampsByAge(t *testing.T) {
	t.Parallel()
	var src millrace.Source
	v := millrace.VM{ID: newVMID(&src), Epoch: 1, State: millrace.VMPending}
	v.Stamps.Placed = start
	now := start.Add(3 * time.Second)
	v.Observe(millrace.Observation{VMID: v.ID, Epoch: 1, State: millrace.VMOnline, Steps: []millrace.Step{
		{State: millrace.VMBooting, Age: 2900 * time.Millisecond},
		{State: millrace.VMOnline, Age: 400 * time.Millisecond},
	}}, now)
	if got := v.Stamps.Booting.Sub(start); got != 100*time.Millisecond {
		t.Errorf("booting %v after it was placed, want 100ms", got)
	}
	if got := v.Stamps.Online.Sub(start); got != 2600*time.Millisecond {
		t.Errorf("online %v after it was placed, want 2.6s", got)
	}
	v.Observe(millrace.Observation{VMID: v.ID, Epoch: 1, State: millrace.VMBusy, Steps: []millrace.Step{{State: millrace.VMBusy, Age: time.Hour}}}, now)
	if v.Stamps.Busy.Before(start) {
		t.Error("a host's wrong clock put busy before placed")
	}
}
