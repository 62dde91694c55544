package scheduler

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
)

// paths is how often a line is played through. A prime: see [mix].
const paths = 17

// quantiles are how long something may take, from short to long, all as likely as each other.
type quantiles [paths]time.Duration

// past is what is known of how long things take.
type past struct {
	pass    *millrace.Pass
	away    map[millrace.HostID]bool
	tables  map[millrace.Durations]*table
	typical millrace.Durations // of the org's jobs; N is 0 when nothing is known
	boots   millrace.Durations // of its hosts
	asked   bool               // typical and boots are there
}

func newPast(p *millrace.Pass) *past {
	return &past{pass: p, away: away(*p), tables: map[millrace.Durations]*table{}}
}

// ask finds what is typical, once anybody wants to know.
func (p *past) ask() {
	if p.asked {
		return
	}
	p.asked = true
	p.typical = typical(p.pass.Runs, p.pass.Queue)
	p.boots = typical(p.pass.Boots, map[millrace.HostID]millrace.Durations{})
}

// typical is the middle of what is known.
func typical[K, L comparable](a map[K]millrace.Durations, b map[L]millrace.Durations) millrace.Durations {
	var p50, p90 []time.Duration
	for _, d := range a {
		p50, p90 = append(p50, d.P50), append(p90, d.P90)
	}
	for _, d := range b {
		p50, p90 = append(p50, d.P50), append(p90, d.P90)
	}
	n := len(p50)
	if n == 0 {
		return millrace.Durations{}
	}
	slices.Sort(p50)
	slices.Sort(p90)
	return millrace.Durations{N: n, P50: p50[n/2], P90: p90[n/2]}
}

// known reports whether anything is known of how long jobs run.
func (p *past) known() bool {
	p.ask()
	return p.typical.N > 0
}

// boot is how long a VM takes to be online: rarely less than low or more than high, often about mid. Zero when unknown.
func (p *past) boot() (low, mid, high time.Duration) {
	p.ask()
	b := p.boots
	if b.N == 0 || b.P90 <= 0 {
		return 0, 0, 0
	}
	// As far below the middle as nine in ten are above it, by the ratio: times are skewed.
	return time.Duration(float64(b.P50) / float64(b.P90) * float64(b.P50)), b.P50, b.P90
}

// takes is how long a queued job runs.
func (p *past) takes(j millrace.JobID) *table {
	d, ok := p.pass.Queue[j]
	if !ok {
		d = p.typical
	}
	return p.table(d)
}

// table is how long runs with the same past take.
type table struct {
	quantiles
	// drift is by how much all of them are longer in each play than the past said: what n runs teach of the middle is
	// itself uncertain, and that error is the same for all.
	drift [paths]float64
}

func (p *past) table(d millrace.Durations) *table {
	if t, ok := p.tables[d]; ok {
		return t
	}
	t, f := new(table), fit(d)
	m := mixed(uint64(d.P50)*31 + uint64(d.P90))
	for i := range paths {
		t.quantiles[i] = f.quantile(share(i))
		t.drift[i] = math.Exp(1.25 * f.deviation / math.Sqrt(float64(max(1, d.N))) * normal(share(m.at(i))))
	}
	p.tables[d] = t
	return t
}

// run is how long a run takes in a play, of a job with that mix.
func (t *table) run(m mix, path int) time.Duration {
	return time.Duration(math.Min(float64(longest), float64(t.quantiles[m.at(path)])*t.drift[path]))
}

// share is the i-th of [paths] shares of one, its middle.
func share(i int) float64 { return (float64(i) + 0.5) / paths }

// stopTime is the most that a VM that is being stopped takes to be gone, as a rule.
const stopTime = 10 * time.Second

// remains is how much longer v is there, in the order of the plays, and in the middle.
func (p *past) remains(v *millrace.VM) (out *quantiles, mid time.Duration) {
	m, out := mixOf(v.ID), new(quantiles)
	busy := v.State == millrace.VMBusy || !v.RanJob.IsZero()
	switch {
	case v.State == millrace.VMStopping || !busy && v.RetireReason != "":
		for i := range out {
			out[i] = time.Duration(share(m.at(i)) * float64(stopTime))
		}
	case busy:
		d, ok := p.pass.Runs[v.ID]
		if !ok {
			d = p.typical
		}
		elapsed := time.Duration(0)
		if !v.Stamps.Busy.IsZero() {
			elapsed = max(0, p.pass.Now.Sub(v.Stamps.Busy))
		}
		f, t := fit(d), p.table(d)
		for i := range out {
			drifted := f
			drifted.mean += math.Log(t.drift[i])
			out[i] = drifted.remains(elapsed, share(m.at(i)))
		}
	default:
		t, boot := p.takes(v.ForJob), time.Duration(0)
		if v.State != millrace.VMOnline {
			boot = max(0, v.Stamps.Placed.Add(p.bootOn(v.HostID)).Sub(p.pass.Now))
		}
		for i := range out {
			out[i] = boot + t.run(m, i)
		}
	}
	return out, out[m.mid()]
}

// placed is how long a VM that is placed now is there.
func (p *past) placed(place *millrace.Placement) (*quantiles, time.Duration) {
	m, out := mixOf(place.JobID), new(quantiles)
	t, boot := p.takes(place.JobID), p.bootOn(place.HostID)
	for i := range out {
		out[i] = boot + t.run(m, i)
	}
	return out, out[m.mid()]
}

func (p *past) bootOn(h millrace.HostID) time.Duration {
	if d, ok := p.pass.Boots[h]; ok {
		return d.P50
	}
	return p.boots.P50
}

// mix is the order in which one job or VM has its run times in the plays: each of them in one play, and those of different
// jobs in different orders. That is i → a·i + b modulo a prime.
type mix struct{ a, b uint8 }

func mixOf[K millrace.Kind](id millrace.ID[K]) mix {
	return mixed(binary.BigEndian.Uint64(id[8:]))
}

func mixed(x uint64) mix {
	h := x * 0x9e3779b97f4a7c15 >> 32
	return mix{uint8(1 + h%(paths-1)), uint8(h / paths % paths)}
}

func (m mix) at(path int) int { return (int(m.a)*path + int(m.b)) % paths }

// mid is the play in which it has its middle run time.
func (m mix) mid() int {
	for path := range paths {
		if m.at(path) == paths/2 {
			return path
		}
	}
	return 0
}

// lognormal is how run times are distributed: log run time has this mean and deviation.
type lognormal struct {
	mean, deviation float64
	p90             time.Duration
}

// fit finds the distribution with d's median and nine in ten. Few runs tell little of how much they differ.
func fit(d millrace.Durations) lognormal {
	const z90 = 1.2816
	median := math.Max(float64(d.P50), float64(time.Millisecond))
	deviation := math.Log(math.Max(float64(d.P90), median)/median) / z90
	return lognormal{math.Log(median), math.Max(deviation, 0.4/math.Sqrt(float64(max(1, d.N)))), d.P90}
}

// longest is how long a job may run on a self-hosted runner before GitHub ends it.
const longest = 5 * 24 * time.Hour

// quantile is the time that a share of u takes no longer than.
func (l lognormal) quantile(u float64) time.Duration {
	return time.Duration(math.Min(float64(longest), math.Exp(l.mean+l.deviation*normal(u))))
}

// normal is the quantile of the normal distribution.
func normal(u float64) float64 { return math.Sqrt2 * math.Erfinv(2*u-1) }

// remains is what a share of u of those that have run for elapsed take no longer than from then on. What has run longer
// than nine in ten did is different from them: it may end now or run as long once more.
func (l lognormal) remains(elapsed time.Duration, u float64) time.Duration {
	switch {
	case elapsed <= 0:
		return l.quantile(u)
	case elapsed > l.p90:
		return time.Duration(u * float64(min(longest, l.p90)))
	}
	gone := 0.5 * math.Erfc((l.mean-math.Log(float64(elapsed)))/(l.deviation*math.Sqrt2))
	return max(0, l.quantile(gone+u*(1-gone))-elapsed)
}
