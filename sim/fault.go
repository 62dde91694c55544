package sim

import (
	"slices"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
)

// Faults are what goes wrong in a day. The zero value is a day on which nothing does.
type Faults struct {
	GitHub githubtest.Faults // all day

	// Of the network between hosts and servers, and between servers: of each message or announcement.
	LoseMessage      float64
	LoseAnnouncement float64

	// Of a VM.
	BootFails float64
	BootHangs float64
	QuitsIdle float64 // its runner ends without having had a job

	// Of processes and machines. A server may die at each point where a transaction begins or ends and where GitHub is
	// called; KillAt instead is the one such point of the day at which whoever comes there dies.
	ServerCrash float64
	KillAt      int
	AgentKills  int // a day: the process is started again at once, and its VMs run on
	PowerCuts   int // a day: the host is back after some minutes
	Partitions  int // a day, of one host, for up to an hour
	SlowHosts   int // a day: a host is ten times slower for a while

	// Windows of trouble at GitHub, of each kind, for one owner or for all.
	Windows int
}

// WorstDay has every fault, worse than GitHub's worst days: of the deliveries 30 in 100 are never sent, 5 fail, 20 are
// doubled, 30 come up to half an hour late and 1 is cut.
func WorstDay() Faults {
	return Faults{
		GitHub: githubtest.Faults{
			Drop: 0.30, Fail: 0.05, Duplicate: 0.20, Reorder: 0.30, DelayMaxS: 1800, Truncate: 0.01,
			API5xx: 0.01, Conflict: 0.01, Unprocessable: 0.01, JITReplyLost: 0.01, TokenExpired: 0.005, NeverAssign: 0.002, CrashAfterAssign: 0.001,
		},
		LoseMessage: 0.005, LoseAnnouncement: 0.05,
		BootFails: 0.005, BootHangs: 0.002,
		ServerCrash: 0.0001, AgentKills: 4, PowerCuts: 2, Partitions: 6, SlowHosts: 2,
		Windows: 1,
	}
}

// trouble is a kind of window: what it changes of GitHub's faults while it lasts.
type trouble struct {
	name     string
	min, max time.Duration
	// blind says that GitHub can't be asked meanwhile: what it knows can't be found out.
	blind bool
	apply func(f *githubtest.Faults, owner string)
}

// retryAfter is for how many seconds GitHub asks not to be called, when it does.
const retryAfter = 60

var troubles = []trouble{
	{"self-hosted runners disabled", 5 * time.Minute, 30 * time.Minute, false, func(f *githubtest.Faults, o string) { f.SelfHostedDisabled = append(f.SelfHostedDisabled, o) }},
	{"app suspended", 5 * time.Minute, 30 * time.Minute, true, func(f *githubtest.Faults, o string) { f.Suspended = append(f.Suspended, o) }},
	{"app uninstalled", 5 * time.Minute, 30 * time.Minute, true, func(f *githubtest.Faults, o string) { f.Uninstalled = append(f.Uninstalled, o) }},
	{"permission missing", 5 * time.Minute, 30 * time.Minute, true, func(f *githubtest.Faults, o string) { f.PermissionMissing = append(f.PermissionMissing, o) }},
	{"IP allow list", 5 * time.Minute, 30 * time.Minute, true, func(f *githubtest.Faults, o string) { f.IPAllowList = append(f.IPAllowList, o) }},
	{"runner group full", 5 * time.Minute, 30 * time.Minute, false, func(f *githubtest.Faults, o string) { f.GroupFull = append(f.GroupFull, o) }},
	{"runner group excludes a repository", 10 * time.Minute, 40 * time.Minute, false, func(f *githubtest.Faults, o string) {
		f.RunnerGroupExcludes = append(f.RunnerGroupExcludes, o+"/repo-0")
	}},
	{"runner version too old", 5 * time.Minute, 30 * time.Minute, false, func(f *githubtest.Faults, o string) { f.RunnerVersionTooOld = append(f.RunnerVersionTooOld, o) }},
	{"API down", 5 * time.Minute, 40 * time.Minute, true, func(f *githubtest.Faults, _ string) { f.API5xx = 1 }},
	{"API half down", 10 * time.Minute, 60 * time.Minute, true, func(f *githubtest.Faults, _ string) { f.API5xx = 0.5 }},
	{"secondary limit", 5 * time.Minute, 20 * time.Minute, true, func(f *githubtest.Faults, _ string) { f.SecondaryLimit, f.RetryAfterS = 0.05, retryAfter }},
	{"stale reads", 10 * time.Minute, 90 * time.Minute, false, func(f *githubtest.Faults, _ string) { f.StaleS = 60 }},
	{"hooks off", 30 * time.Minute, 3 * time.Hour, false, func(f *githubtest.Faults, _ string) { f.HooksOff = true }},
}

// window is one trouble of the day.
type window struct {
	trouble
	owner    string
	from, to time.Time
}

// faultDay is what goes wrong in a day, and when.
type faultDay struct {
	sim     *Sim
	windows []window
	points  int // that servers came to, where they may die
	last    time.Time
}

func newFaultDay(s *Sim) *faultDay { return &faultDay{sim: s} }

func (f *faultDay) plan() {
	s := f.sim
	cfg := s.cfg.Faults
	for range cfg.Windows {
		for _, t := range troubles {
			from := time.Hour/4 + s.within(s.cfg.Day)
			f.open(t.name, s.orgs[s.rand.IntN(len(s.orgs))].login, from, from+s.between(t.min, t.max))
		}
	}
	f.set()
	at := func(n int, do func(*host)) {
		for range n {
			h := s.hosts[s.rand.IntN(len(s.hosts))]
			s.after(s.within(s.cfg.Day), func() { do(h) })
		}
	}
	at(cfg.AgentKills, func(h *host) { h.kill(s.between(time.Second, 5*time.Second)) })
	at(cfg.PowerCuts, func(h *host) { h.crash(s.between(2*time.Minute, 20*time.Minute)) })
	at(cfg.Partitions, func(h *host) {
		h.cutOff = latest(h.cutOff, s.now.Add(s.between(5*time.Second, time.Hour)))
		s.report.Partitions++
	})
	at(cfg.SlowHosts, func(h *host) { h.slow = s.now.Add(s.between(10*time.Minute, time.Hour)) })
}

// open plans one window of trouble.
func (f *faultDay) open(name, owner string, from, to time.Duration) {
	s := f.sim
	i := slices.IndexFunc(troubles, func(t trouble) bool { return t.name == name })
	w := window{troubles[i], owner, s.start.Add(from), s.start.Add(to)}
	f.windows = append(f.windows, w)
	f.last = latest(f.last, w.to)
	s.after(from, f.set)
	s.after(to, f.set)
}

// set makes GitHub's faults those of the windows that are open now.
func (f *faultDay) set() {
	faults := f.sim.cfg.Faults.GitHub
	for _, w := range f.windows {
		if !f.sim.now.Before(w.from) && f.sim.now.Before(w.to) {
			w.apply(&faults, w.owner)
		}
	}
	f.sim.must(f.sim.github.SetFaults(faults))
}

// active reports whether trouble is yet to come or to end.
func (f *faultDay) active(now time.Time) bool { return f.last.After(now) }

// settles is how long after its end a trouble may be felt: incidents are probed every ten minutes at the least, then polls go on.
const settles = 12 * time.Minute

// troubled reports whether a window for this owner, or only one that blinds, is open now or was lately.
func (f *faultDay) troubled(owner string, blindOnly bool) bool {
	return slices.ContainsFunc(f.windows, func(w window) bool {
		concerns := w.owner == owner || w.name[:3] == "API" || w.name == "secondary limit" || w.name == "stale reads" || w.name == "hooks off"
		return concerns && (w.blind || !blindOnly) && !f.sim.now.Before(w.from) && f.sim.now.Before(w.to.Add(settles))
	})
}

// killsAt reports whether a server dies at this point.
func (f *faultDay) killsAt(*server) bool {
	if at := f.sim.cfg.Faults.KillAt; at > 0 {
		return f.points == at
	}
	return f.sim.chance(f.sim.cfg.Faults.ServerCrash)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
