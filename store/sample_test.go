package store_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

// steady is a VM that has used the same every second, until second n.
func steady(from, to int64) (s millrace.Series) {
	for n := from; n <= to; n++ {
		s = append(s, millrace.Sample{
			UptimeMS: n * 1000, Memory: (100 + n%7) << 20, PeakCPU: 900 + n%100, CPUMillis: n * 900, DiskRead: 5 << 20, DiskWrite: n * 3 << 10, NetRx: n << 20, NetTx: n << 9,
		})
	}
	return s
}

// What a VM used is what its host sent, whatever was sent twice or late; the more the VM grows old, the coarser.
func TestSamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.advance(time.Hour)
	send := func(s millrace.Series) {
		t.Helper()
		if err := w.org.AppendSamples(t.Context(), w.host.ID, vm, 1, s); err != nil {
			t.Fatal(err)
		}
	}
	has := func(want millrace.Series) {
		t.Helper()
		got, err := w.org.Samples(t.Context(), vm)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			want[i].NetTx &^= 1<<10 - 1 // whole KiB are kept
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	has(nil)
	send(nil)
	has(millrace.Series{})
	send(steady(1, 10))
	send(steady(5, 10))
	send(steady(8, 30))
	send(steady(11, 20))
	has(steady(1, 30))
	send(steady(31, 1800))
	has(millrace.Series{}.Join(steady(1, 1800)...))
	if bytes := scalar[int](t, w.root, `SELECT sum(pg_column_size(s.*)) FROM vm_samples s`); bytes > 4000 {
		t.Errorf("they take %d bytes", bytes)
	}
	before := millrace.Series{}.Join(steady(1, 1800)...)
	send(millrace.Series{{UptimeMS: 5_000_000, CPUMillis: 1 << 40}}) // later than now
	send(millrace.Series{{UptimeMS: 1_900_000, CPUMillis: 1}})       // less than before
	if err := w.org.AppendSamples(t.Context(), w.host.ID, vm, 7, steady(1801, 1900)); err != nil {
		t.Fatal(err)
	}
	has(before)
	code(t, w.org.AppendSamples(t.Context(), millrace.NewHostID(new(millrace.Source), w.now()), vm, 1, steady(1, 2)), millrace.NotFound)
	// What no machine does in a second is kept as far as a column holds it.
	send(millrace.Series{{UptimeMS: 2_000_000, CPUMillis: 1 << 50, DiskRead: 1 << 50, DiskWrite: 1 << 50, NetRx: 1 << 50, NetTx: 1 << 50, Memory: 1 << 50, PeakCPU: 1 << 50}})
	if s, err := w.org.Samples(t.Context(), vm); err != nil || s.Last().UptimeMS != 2_000_000 || s.Last().DiskRead < 1<<40 {
		t.Errorf("%+v, %v", s.Last(), err)
	}
}

// A host's load is that of its VMs: as their samples say, or where they lived for a short while, as a whole.
func TestHostLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.register(vm, 1)
	w.observe(millrace.VMOnline, vm)
	w.advance(20 * time.Minute)
	if err := w.org.AppendSamples(t.Context(), w.host.ID, vm, 1, steady(1, 1200)); err != nil {
		t.Fatal(err)
	}
	loads, from, err := w.org.HostLoads(t.Context(), w.host.ID, 10*time.Minute, 3)
	if err != nil || len(loads) != 3 || !from.Equal(w.now().Add(-30*time.Minute)) {
		t.Fatalf("%v from %v, %v", loads, from, err)
	}
	size := w.vm(vm).Size
	if l := loads[0]; l != (millrace.Load{}) {
		t.Errorf("before: %+v", l)
	}
	for _, l := range loads[1:] {
		if math.Abs(l.UsedCPU-0.9) > 0.01 || math.Abs(l.CPU-float64(size.MilliCPU)/1000) > 0.01 || l.UsedMemory < 103<<20 || l.UsedMemory > 107<<20 {
			t.Errorf("while it ran: %+v", l)
		}
	}
	loads, _, err = w.org.HostLoads(t.Context(), w.host.ID, time.Hour, 1)
	if err != nil || math.Abs(loads[0].CPU-float64(size.MilliCPU)/3000) > 0.01 || loads[0].UsedCPU != 0 {
		t.Errorf("as a whole, which nobody reported: %+v, %v", loads, err)
	}
}

// A VM that is given out anew has its samples from the beginning.
func TestSamplesOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.advance(time.Hour)
	for epoch := range int64(2) {
		if _, err := w.root.Exec(t.Context(), `UPDATE vms SET epoch = $1`, epoch+1); err != nil {
			t.Fatal(err)
		}
		if err := w.org.AppendSamples(t.Context(), w.host.ID, vm, epoch+1, steady(1, 20-10*epoch)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := w.org.Samples(t.Context(), vm); err != nil || len(got) != 10 {
		t.Errorf("%d samples, %v", len(got), err)
	}
}
