package millrace_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
)

// lived is a VM's samples of so many seconds, a little late each.
func lived(t *rapid.T, seconds int) millrace.Series {
	var s millrace.Series
	var x millrace.Sample
	for n := range seconds {
		late := rapid.Int64Range(0, 400).Draw(t, "late")
		x.UptimeMS = int64(n+1)*1000 + late
		x.Memory, x.PeakCPU = rapid.Int64Range(0, 1<<30).Draw(t, "memory"), rapid.Int64Range(0, 4000).Draw(t, "cpu")
		x.CPUMillis += x.PeakCPU
		x.NetRx += late
		s = append(s, x)
	}
	return s
}

// However a series is cut, repeated and thinned on its way, the same arrives.
func TestSeriesJoins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := lived(t, rapid.SampledFrom([]int{0, 1, 599, 600, 601, 1500}).Draw(t, "seconds"))
		want := millrace.Series{}.Join(all...)
		if len(want) > millrace.MaxSamples || len(all) <= millrace.MaxSamples && len(want) != len(all) {
			t.Fatalf("%d of %d samples", len(want), len(all))
		}
		var got millrace.Series
		for sent := 0; sent < len(all); {
			from := max(0, sent-rapid.IntRange(0, 100).Draw(t, "again"))
			sent = min(len(all), sent+rapid.IntRange(1, 700).Draw(t, "more"))
			got = got.Join(all[from:sent].Thin(rapid.IntRange(600, 1000).Draw(t, "n"))...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if w, g := all.Peak(), got.Peak(); w != g {
			t.Fatalf("the peak was %+v and became %+v", w, g)
		}
	})
}

func TestSeriesOfALiar(t *testing.T) {
	t.Parallel()
	first := millrace.Sample{UptimeMS: 5000, CPUMillis: 100, Memory: 1 << 20}
	s := millrace.Series{}.Join(first)
	for name, bad := range map[string]millrace.Sample{
		"the same time":    {UptimeMS: 5000, CPUMillis: 200},
		"an earlier time":  {UptimeMS: 4000, CPUMillis: 200},
		"less CPU":         {UptimeMS: 6000, CPUMillis: 99},
		"negative memory":  {UptimeMS: 6000, CPUMillis: 200, Memory: -1},
		"negative traffic": {UptimeMS: 6000, CPUMillis: 200, NetRx: -1},
		"an eternity":      {UptimeMS: 1 << 60, CPUMillis: 200},
		"endless CPU":      {UptimeMS: 6000, CPUMillis: 1 << 62},
	} {
		if got := s.Join(bad); len(got) != 1 || got[0] != first {
			t.Errorf("%s: %+v", name, got)
		}
	}
	var many millrace.Series
	for n := range int64(100_000) {
		many = append(many, millrace.Sample{UptimeMS: n})
	}
	if n := len(millrace.Series{}.Join(many...)); n > millrace.MaxSamples {
		t.Errorf("%d samples are kept", n)
	}
}

func TestEnough(t *testing.T) {
	t.Parallel()
	size := millrace.Size{MilliCPU: 4000, MemoryMB: 16384}
	for name, tc := range map[string]struct {
		used millrace.Sample
		want millrace.Size
	}{
		"a quarter of the memory":   {millrace.Sample{UptimeMS: 60_000, PeakCPU: 3900, Memory: 21 << 30 / 10}, millrace.Size{MilliCPU: 4000, MemoryMB: 4096}},
		"half of the vCPUs":         {millrace.Sample{UptimeMS: 60_000, PeakCPU: 1300, Memory: 15 << 30}, millrace.Size{MilliCPU: 2000, MemoryMB: 16384}},
		"nothing":                   {millrace.Sample{UptimeMS: 60_000}, millrace.Size{MilliCPU: 1000, MemoryMB: 1024}},
		"all":                       {millrace.Sample{UptimeMS: 60_000, PeakCPU: 4000, Memory: 16 << 30}, size},
		"a little more than half":   {millrace.Sample{UptimeMS: 60_000, PeakCPU: 1700, Memory: 7 << 30}, size},
		"too short a time to judge": {millrace.Sample{UptimeMS: 10_000}, size},
	} {
		if got := (millrace.Series{tc.used}).Enough(size); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
