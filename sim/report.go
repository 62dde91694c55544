package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// Report is what a day came to.
type Report struct {
	Seed            uint64
	Jobs            int // queued with a label that some host can run
	Lost            int
	Doubled         int
	VMs, Wasted     int
	Rebound         int // VMs that stood for another job in the end
	KilledBusy      int
	Delivered       int
	Undelivered     int // that were sent and never got through
	Calls           int // of GitHub
	Passes          int // of placement
	Reruns          int
	CancelledQueued int
	ServerCrashes   int
	DiedBusy        int // machines that had a job
	AgentKills      int
	HostCrashes     int
	Partitions      int
	Conclusions     map[string]int
	WastedBy        map[string]int // by reason
	Incidents       map[millrace.WaitCode]int
	Steps           int
	Points          int // where a server may have died
	Took            time.Duration
	Trace           uint64
	Lines           []string // the last of the trace
	Failed          string   // the first thing that did not hold

	Detect     Quantiles     // from queued at GitHub to known here
	LostDetect Quantiles     // the same of jobs whose first delivery never came, or came late
	Wait       Quantiles     // from queued to running
	Unpaused   time.Duration // the longest of these waits without the pauses after failed tries
	Cancel     Quantiles     // from a cancel while queued to the VM's end

	Detects, LostDetects, Waits, Cancels []time.Duration // all of them, for the quantiles of several days
}

// Quantiles are how a list of durations is spread.
type Quantiles struct {
	N                  int
	P50, P90, P99, Max time.Duration
}

// QuantilesOf sorts a list of durations and says how it is spread.
func QuantilesOf(list []time.Duration) (q Quantiles) {
	if len(list) == 0 {
		return q
	}
	slices.Sort(list)
	at := func(p float64) time.Duration { return list[min(len(list)-1, int(p*float64(len(list))))] }
	return Quantiles{len(list), at(0.5), at(0.9), at(0.99), list[len(list)-1]}
}

// String is the quantiles in words.
func (q Quantiles) String() string {
	if q.N == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %s, p99 %s, max %s (n %d)", round(q.P50), round(q.P99), round(q.Max), q.N)
}

func round(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(10 * time.Millisecond)
}

func (r *Report) finish(s *Sim) {
	r.Steps, r.Points = s.steps, s.faults.points
	for _, still := range s.undelivered {
		if still {
			r.Undelivered++
		}
	}
	r.Trace, r.Lines = s.mirror.trace.Sum64(), s.mirror.lines
	r.Detect, r.LostDetect, r.Wait, r.Cancel = QuantilesOf(r.Detects), QuantilesOf(r.LostDetects), QuantilesOf(r.Waits), QuantilesOf(r.Cancels)
}

// Add adds another day.
func (r *Report) Add(o Report) {
	r.Jobs += o.Jobs
	r.Lost += o.Lost
	r.Doubled += o.Doubled
	r.VMs += o.VMs
	r.Wasted += o.Wasted
	r.Rebound += o.Rebound
	r.KilledBusy += o.KilledBusy
	r.Delivered += o.Delivered
	r.Undelivered += o.Undelivered
	r.Calls += o.Calls
	r.Passes += o.Passes
	r.Reruns += o.Reruns
	r.CancelledQueued += o.CancelledQueued
	r.ServerCrashes += o.ServerCrashes
	r.DiedBusy += o.DiedBusy
	r.AgentKills += o.AgentKills
	r.HostCrashes += o.HostCrashes
	r.Partitions += o.Partitions
	r.Steps += o.Steps
	r.Points += o.Points
	r.Took += o.Took
	r.Unpaused = max(r.Unpaused, o.Unpaused)
	if r.Conclusions == nil {
		r.Conclusions, r.WastedBy, r.Incidents = map[string]int{}, map[string]int{}, map[millrace.WaitCode]int{}
	}
	for k, n := range o.Conclusions {
		r.Conclusions[k] += n
	}
	for k, n := range o.WastedBy {
		r.WastedBy[k] += n
	}
	for k, n := range o.Incidents {
		r.Incidents[k] += n
	}
	r.Detects = append(r.Detects, o.Detects...)
	r.LostDetects = append(r.LostDetects, o.LostDetects...)
	r.Waits = append(r.Waits, o.Waits...)
	r.Cancels = append(r.Cancels, o.Cancels...)
	r.Detect, r.LostDetect, r.Wait, r.Cancel = QuantilesOf(r.Detects), QuantilesOf(r.LostDetects), QuantilesOf(r.Waits), QuantilesOf(r.Cancels)
}

// mostWaste is the goal for VMs that never run a job.
const mostWaste = 0.05

// Goals is an error when the figures miss a goal.
func (r Report) Goals() error {
	switch {
	case r.Lost > 0 || r.Doubled > 0 || r.KilledBusy > 0:
		return fmt.Errorf("%d jobs were lost, %d launched twice, %d killed", r.Lost, r.Doubled, r.KilledBusy)
	case r.Waste() > mostWaste:
		return fmt.Errorf("%.1f %% of VMs never ran a job; at most %.0f %% may", 100*r.Waste(), 100*mostWaste)
	}
	return nil
}

// Waste is the share of VMs that never ran a job.
func (r Report) Waste() float64 {
	if r.VMs == 0 {
		return 0
	}
	return float64(r.Wasted) / float64(r.VMs)
}

// String is the report in words.
func (r Report) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-28s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("jobs", "%d, of which %d were run again and %d cancelled while queued; conclusions %v", r.Jobs, r.Reruns, r.CancelledQueued, r.Conclusions)
	line("lost, doubled", "%d, %d", r.Lost, r.Doubled)
	line("VMs", "%d, %d wasted (%.1f %%), %d stood for another job in the end", r.VMs, r.Wasted, 100*r.Waste(), r.Rebound)
	for _, why := range slices.SortedFunc(maps.Keys(r.WastedBy), func(a, b string) int { return cmp.Or(r.WastedBy[b]-r.WastedBy[a], cmp.Compare(a, b)) }) {
		line("", "%4d %s", r.WastedBy[why], why)
	}
	line("queued → known", "%s", r.Detect)
	line("  its delivery lost or late", "%s", r.LostDetect)
	line("queued → running", "%s", r.Wait)
	line("  beside pauses after tries", "max %s", r.Unpaused.Round(10*time.Millisecond))
	line("cancelled → VM gone", "%s", r.Cancel)
	line("deaths", "%d of servers, %d of agents, %d of hosts; %d partitions", r.ServerCrashes, r.AgentKills, r.HostCrashes, r.Partitions)
	var incidents []string
	for _, code := range slices.Sorted(maps.Keys(r.Incidents)) {
		incidents = append(incidents, fmt.Sprintf("%s %d", code, r.Incidents[code]))
	}
	line("incidents", "%s", strings.Join(incidents, ", "))
	line("work", "%d steps, %d calls of GitHub, %d passes", r.Steps, r.Calls, r.Passes)
	line("took", "%s", r.Took.Round(time.Millisecond))
	return b.String()
}

// Line is the report in one line, as scripts read it.
func (r Report) Line() string {
	return fmt.Sprintf("seed=%d jobs=%d lost=%d doubled=%d trace=%016x", r.Seed, r.Jobs, r.Lost, r.Doubled, r.Trace)
}
