package web

import (
	"testing"

	"github.com/millrace-ci/millrace"
)

func TestAdvice(t *testing.T) {
	t.Parallel()
	samples := millrace.Series{{UptimeMS: 30_000, PeakCPU: 1300, CPUMillis: 20_000, Memory: 2 << 30}, {UptimeMS: 60_000, PeakCPU: 900, CPUMillis: 40_000, Memory: 21 << 30 / 10}}
	vm := func(state millrace.VMState, milliCPU, memoryMB int) millrace.VM {
		return millrace.VM{State: state, Size: millrace.Size{MilliCPU: milliCPU, MemoryMB: memoryMB}}
	}
	for want, u := range map[string]use{
		"It used at most 1.3 of 4 vCPUs and 2.1 GB of 16 GB: a smaller size would do, 2 vCPU, 4 GB.": {samples, vm(millrace.VMGone, 4000, 16384)},
		"So far it used at most 1.3 of 4 vCPUs and 2.1 GB of 16 GB.":                                 {samples, vm(millrace.VMBusy, 4000, 16384)},
		"It used at most 1.3 of 1 vCPU and 2.1 GB of 3 GB.":                                          {samples, vm(millrace.VMGone, 1000, 3072)},
	} {
		if got := u.advice(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (use{samples, vm(millrace.VMGone, 4000, 16384)}).charts()[0].Summary; got != "0.7 on average over 1 min, 1.3 in the busiest second, of 4." {
		t.Errorf("%q", got)
	}
}
