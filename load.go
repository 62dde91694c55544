package millrace

import "time"

// Stay is a VM's time on its host: what it held, and what it used of that.
type Stay struct {
	From, To time.Time // from its boot until its end, or until now
	Size     Size
	Usage    Metering // in all
	Samples  Series   // over time; none where only the whole is looked at
}

// Load is what was committed of a host and what was really used of it, on average over a while.
type Load struct {
	CPU, UsedCPU       float64 // vCPUs
	Memory, UsedMemory float64 // bytes
}

// Loads are those of n spans of time of the same length, the first beginning at from. A stay without samples is taken as
// even: it used as much at any moment, and its most memory.
func Loads(stays []Stay, from time.Time, span time.Duration, n int) []Load {
	loads := make([]Load, n)
	// during adds what held between two times to the spans that they reach into, to each its part.
	during := func(a, b time.Time, add func(l *Load, part float64)) {
		for i := max(0, int(a.Sub(from)/span)); i < n; i++ {
			begin := from.Add(time.Duration(i) * span)
			end := begin.Add(span)
			if !begin.Before(b) {
				return
			}
			overlap := earlier(b, end).Sub(later(a, begin))
			add(&loads[i], max(0, float64(overlap))/float64(span))
		}
	}
	for _, s := range stays {
		during(s.From, s.To, func(l *Load, part float64) {
			l.CPU += part * float64(s.Size.MilliCPU) / 1000
			l.Memory += part * float64(s.Size.MemoryMB) * (1 << 20)
		})
		samples := s.Samples
		if len(samples) == 0 {
			samples = Series{{UptimeMS: s.To.Sub(s.From).Milliseconds(), Memory: s.Usage.PeakMemory, CPUMillis: s.Usage.CPUMillis}}
		}
		var last Sample
		for _, x := range samples {
			if x.UptimeMS == last.UptimeMS {
				continue
			}
			cpu := float64(x.CPUMillis-last.CPUMillis) / float64(x.UptimeMS-last.UptimeMS)
			during(s.From.Add(millis(last.UptimeMS)), s.From.Add(millis(x.UptimeMS)), func(l *Load, part float64) {
				l.UsedCPU += part * cpu
				l.UsedMemory += part * float64(x.Memory)
			})
			last = x
		}
	}
	return loads
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
