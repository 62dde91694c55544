package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// A server has all that a VM used, though it was away for a while and some of what it said got lost.
func TestMeter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMeter()
		var all, got millrace.Series
		calls := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.upload(t.Context(), func(_ context.Context, s millrace.Series) error {
				calls++
				if len(s) > millrace.MaxSamples {
					t.Errorf("%d samples at once", len(s))
				}
				if n := s.Last().UptimeMS / 1000; n > 300 && n < 800 {
					return errors.New("nobody answers")
				}
				got = got.Join(s...)
				if calls%3 == 0 {
					return errors.New("the answer is lost")
				}
				return nil
			})
		}()
		for n := range int64(3000) {
			u := guest.Usage{Metering: millrace.Metering{CPUMillis: n * 700}, UptimeMS: (n + 1) * 1000, Memory: n % 100}
			all = append(all, millrace.Sample{UptimeMS: u.UptimeMS, CPUMillis: u.CPUMillis, Memory: u.Memory, PeakCPU: min(n, 1) * 700})
			m.read(u)
			time.Sleep(time.Second)
		}
		m.close()
		m.close()
		<-done
		want := millrace.Series{}.Join(all...)
		if len(got) != len(want) {
			t.Fatalf("%d samples, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("sample %d is %+v, want %+v", i, got[i], want[i])
			}
		}
		if calls > 300 { // of which some sixty while nobody answered, and a third of the others again
			t.Errorf("there were %d calls", calls)
		}
	})
}

// What a guest says of itself may be anything.
func TestMeterOfALiar(t *testing.T) {
	t.Parallel()
	m := newMeter()
	for _, u := range []guest.Usage{
		{UptimeMS: 1000, Metering: millrace.Metering{CPUMillis: 500}},
		{UptimeMS: 2000, Metering: millrace.Metering{CPUMillis: 1 << 62}},
		{UptimeMS: -1 << 63, Metering: millrace.Metering{CPUMillis: -1 << 63}},
		{Metering: millrace.Metering{CPUMillis: 900}},
		{UptimeMS: 1 << 62, Memory: -1},
		{UptimeMS: 3000, Metering: millrace.Metering{CPUMillis: 1500}},
	} {
		m.read(u)
	}
	if got := m.waiting(); len(got) != 2 || got.Last().CPUMillis != 1500 {
		t.Errorf("%+v", got)
	}
	if d := m.delay(); d < samplesDelay || d > longestSamples {
		t.Errorf("the next upload is in %v", d)
	}
}
