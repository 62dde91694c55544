package millrace

import "slices"

// Sample is what a VM had used at one moment of its life. A rate is the difference of two samples' counters over that of
// their times, and exact however many samples lay between them. The zero value is a VM whose kernel is about to start.
type Sample struct {
	UptimeMS  int64 `json:"uptime_ms"`      // since its kernel started
	Memory    int64 `json:"memory_bytes"`   // the most that was in use at once since the sample before
	PeakCPU   int64 `json:"peak_milli_cpu"` // the busiest second since the sample before, in thousandths of a vCPU
	CPUMillis int64 `json:"cpu_ms"`         // this and the following only grow
	DiskRead  int64 `json:"disk_read_bytes"`
	DiskWrite int64 `json:"disk_write_bytes"`
	NetRx     int64 `json:"net_rx_bytes"`
	NetTx     int64 `json:"net_tx_bytes"`
}

// plausible bounds what a VM or a host says: 35,000 years, a pebibyte. Sums and products of it stay far from overflow.
func (s Sample) plausible() bool {
	const most = 1 << 50
	for _, n := range []int64{s.UptimeMS, s.Memory, s.PeakCPU, s.CPUMillis, s.DiskRead, s.DiskWrite, s.NetRx, s.NetTx} {
		if n < 0 || n > most {
			return false
		}
	}
	return true
}

// follows reports whether s can be a sample of the same VM after o.
func (s Sample) follows(o Sample) bool {
	return s.UptimeMS > o.UptimeMS && s.CPUMillis >= o.CPUMillis && s.DiskRead >= o.DiskRead && s.DiskWrite >= o.DiskWrite &&
		s.NetRx >= o.NetRx && s.NetTx >= o.NetTx && s.plausible()
}

// MaxSamples is how many samples are kept of a VM: one for each second of its first ten minutes, then one for every two
// seconds of twenty, and so on.
const MaxSamples = 600

// Series are a VM's samples, each later than the one before.
type Series []Sample

// Join is s with those of more that are later than all of it, and at most [MaxSamples]. To join the same again changes
// nothing, and a sample that contradicts the one before it is left out.
func (s Series) Join(more ...Sample) Series {
	joined := slices.Clone(s)
	for _, m := range more {
		if m.follows(joined.Last()) {
			joined = append(joined, m)
		}
	}
	return joined.Thin(MaxSamples)
}

// Last is the latest sample; zero without any.
func (s Series) Last() Sample {
	if len(s) == 0 {
		return Sample{}
	}
	return s[len(s)-1]
}

// Thin is s with at most n samples, evenly over the VM's time. Only the time of the last one decides which are merged, so
// that it does not matter where and how often a series was thinned on its way.
func (s Series) Thin(n int) Series {
	step := int64(1000)
	for step*int64(n) < s.Last().UptimeMS-readLate {
		step *= 2
	}
	slot := func(x Sample) int64 { return max(1, (x.UptimeMS-readLate+step-1)/step) }
	var thin Series
	for _, x := range s {
		if i := len(thin) - 1; i >= 0 && slot(thin[i]) == slot(x) {
			x.Memory, x.PeakCPU = max(x.Memory, thin[i].Memory), max(x.PeakCPU, thin[i].PeakCPU)
			thin[i] = x
		} else {
			thin = append(thin, x)
		}
	}
	return thin
}

// readLate is how many ms after a whole second it is still that second's sample.
const readLate = 500

// Peak is the most of each: memory and CPU of the busiest moment, counters of the last sample.
func (s Series) Peak() Sample {
	peak := s.Last()
	for _, x := range s {
		peak.Memory, peak.PeakCPU = max(peak.Memory, x.Memory), max(peak.PeakCPU, x.PeakCPU)
	}
	return peak
}

// Enough is the smallest size that leaves a fifth free of what a VM of the given size ever used: half of it, a quarter and
// so on, at least one vCPU and 1 GB. It is the given size when that was needed, or the VM lived for less than 20 seconds.
func (s Series) Enough(size Size) Size {
	peak := s.Peak()
	if peak.UptimeMS < 20_000 {
		return size
	}
	for half := size.MilliCPU / 2; half >= 1000 && peak.PeakCPU*5 <= int64(half)*4; half /= 2 {
		size.MilliCPU = half
	}
	for half := size.MemoryMB / 2; half >= 1024 && peak.Memory*5 <= int64(half)<<20*4; half /= 2 {
		size.MemoryMB = half
	}
	return size
}
