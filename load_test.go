package millrace_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-ci/millrace"
)

func TestLoads(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	at := func(minutes float64) time.Time { return from.Add(time.Duration(minutes * float64(time.Minute))) }
	size := millrace.Size{MilliCPU: 2000, MemoryMB: 1024}
	const gb = 1 << 30
	for name, tc := range map[string]struct {
		stay millrace.Stay
		want []millrace.Load
	}{
		"a whole span, half of it used": {
			millrace.Stay{From: at(10), To: at(20), Size: size, Usage: millrace.Metering{CPUMillis: 600_000, PeakMemory: gb / 2}},
			[]millrace.Load{{}, {CPU: 2, UsedCPU: 1, Memory: gb, UsedMemory: gb / 2}, {}},
		},
		"parts of spans": {
			millrace.Stay{From: at(-5), To: at(15), Size: size, Usage: millrace.Metering{CPUMillis: 1_200_000, PeakMemory: gb / 2}},
			[]millrace.Load{{CPU: 2, UsedCPU: 1, Memory: gb, UsedMemory: gb / 2}, {CPU: 1, UsedCPU: 0.5, Memory: gb / 2, UsedMemory: gb / 4}, {}},
		},
		"as its samples say": {
			millrace.Stay{From: at(0), To: at(30), Size: size, Usage: millrace.Metering{CPUMillis: 1}, Samples: millrace.Series{
				{UptimeMS: 600_000, Memory: gb, CPUMillis: 60_000}, {UptimeMS: 1_200_000, Memory: gb / 2, CPUMillis: 1_260_000},
			}},
			[]millrace.Load{{CPU: 2, UsedCPU: 0.1, Memory: gb, UsedMemory: gb}, {CPU: 2, UsedCPU: 2, Memory: gb, UsedMemory: gb / 2}, {CPU: 2, Memory: gb}},
		},
		"before and after": {millrace.Stay{From: at(-20), To: at(-10), Size: size, Usage: millrace.Metering{CPUMillis: 1000}}, []millrace.Load{{}, {}, {}}},
		"no time at all":   {millrace.Stay{From: at(5), To: at(5), Size: size, Usage: millrace.Metering{CPUMillis: 1000}}, []millrace.Load{{}, {}, {}}},
	} {
		got := millrace.Loads([]millrace.Stay{tc.stay}, from, 10*time.Minute, 3)
		if diff := cmp.Diff(tc.want, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
