package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// load is what people do: they push, at nine o'clock all at once, cancel, and run again what failed.
type load struct {
	sim      *Sim
	left     int                // pushes to come
	open     map[int64]*request // jobs that are not completed at GitHub, by GitHub's id
	all      map[int64]*request
	order    []int64 // of all
	machines map[int64]*machine
	known    map[string]time.Time // when a job of a repository was last found, by the repository's full name
}

// request is a job as people asked for it.
type request struct {
	id        int64
	org       *org
	repo      string
	name      string
	active    bool // its repository had a job that was found here, lately
	foreign   bool // not our label
	ours      bool // a label that is ours and that some host can run
	away      bool // its repository was transferred to somebody who does not have the App
	runs      time.Duration
	fails     bool
	queued    time.Time
	sentAt    time.Time // its first delivery that was sent on its way
	startedAt time.Time
	cancelled time.Time // while it was queued; zero: not
	covered   millrace.VMID
	attempts  int
}

func (r *request) repository() string { return r.org.login + "/" + r.repo }

func newLoad(s *Sim) *load {
	return &load{sim: s, open: map[int64]*request{}, all: map[int64]*request{}, machines: map[int64]*machine{}, known: map[string]time.Time{}}
}

// logNormal is a random number with this median.
func (s *Sim) logNormal(median, sigma float64) float64 {
	return median * math.Exp(sigma*s.rand.NormFloat64())
}

// busy is how much is pushed in each hour of a day, relative to the others.
var busy = [24]float64{1, 1, 1, 1, 1, 1, 2, 5, 12, 26, 20, 14, 10, 12, 14, 12, 10, 8, 6, 4, 3, 2, 2, 1}

// plan plans the day's pushes.
func (l *load) plan() {
	s := l.sim
	sum := 0.0
	for _, b := range busy {
		sum += b
	}
	for total := 0; total < s.cfg.Jobs; {
		jobs := l.matrix()
		if s.cfg.Quiet {
			jobs = 1
		}
		at := s.within(s.cfg.Day)
		if !s.cfg.Quiet {
			pick, hour := s.rand.Float64()*sum, 0
			for ; pick > busy[hour]; hour++ {
				pick -= busy[hour]
			}
			slot := s.cfg.Day / 24
			at = time.Duration(hour)*slot + s.within(slot)
			if hour == 9 && s.chance(0.4) {
				at = 9*slot + s.within(min(slot, 90*time.Second)) // the burst
			}
		}
		total += jobs
		l.left++
		s.after(at, func() { l.left--; l.push(jobs) })
	}
}

// matrix is how many jobs a push has.
func (l *load) matrix() int {
	s := l.sim
	switch p := s.rand.Float64(); {
	case p < 0.5:
		return 1
	case p < 0.8:
		return 2 + s.rand.IntN(3)
	case p < 0.97:
		return 5 + s.rand.IntN(8)
	default:
		return 20 + s.rand.IntN(12)
	}
}

// sizes are what jobs ask for, and how often.
var sizes = []struct {
	label string
	share float64
	fits  bool // on some host of the day
	arch  millrace.Arch
}{
	{"millrace", 0.5, true, ""},
	{"millrace-4cpu-16gb", 0.2, true, ""},
	{"millrace-arm64-4cpu-8gb", 0.15, true, millrace.ARM64},
	{"millrace-any-2cpu-4gb", 0.1, true, ""},
	{"millrace-1cpu-512mb", 0.04, true, ""},
	{"millrace-512cpu-1tb", 0.002, false, ""}, // can't be read
	{"millrace-512cpu-900gb", 0.003, false, ""},
	{"ubuntu-latest", 0.005, false, ""},
}

func (l *load) push(jobs int) {
	s := l.sim
	o := s.orgs[s.rand.IntN(len(s.orgs))]
	l.queue(o, o.repos[s.rand.IntN(len(o.repos))], jobs)
}

// queue queues a run of so many jobs.
func (l *load) queue(o *org, repo string, jobs int) {
	s := l.sim
	var run int64
	for n := range jobs {
		pick, size := s.rand.Float64(), 0
		for size < len(sizes)-1 && pick > sizes[size].share {
			pick -= sizes[size].share
			size++
		}
		if s.cfg.Quiet || sizes[size].arch == millrace.ARM64 && o != s.orgs[0] { // only the first org has such a host
			size = 0
		}
		name, label, public := fmt.Sprintf("test (%d)", n), sizes[size].label, s.public(repo)
		if public && strings.HasPrefix(label, "millrace") {
			// GitHub picks runners by their labels: with the same ones private repositories' runners would be given these jobs,
			// and be ended.
			label += "-burstable"
		}
		id, err := s.github.Queue(githubtest.QueueRequest{
			Owner: o.login, Repo: repo, Workflow: "ci", Name: name, Labels: []string{label}, Public: public, RunID: run,
		})
		if err != nil {
			s.must(err)
			return
		}
		r := &request{id: id, org: o, repo: repo, name: name, ours: sizes[size].fits, foreign: !strings.HasPrefix(sizes[size].label, "millrace")}
		if run == 0 {
			state, _ := s.github.Job(id)
			run = state.RunID
		}
		l.add(r)
	}
}

// public reports whether a repository is public: the second of each org, unless the day is about one thing alone.
func (s *Sim) public(repo string) bool { return repo == "repo-1" && !s.cfg.Quiet }

func (l *load) add(r *request) {
	s := l.sim
	r.queued = s.now
	known, ok := l.known[r.repository()]
	r.active = ok && s.now.Sub(known) < 5*time.Hour
	r.runs = 3 * time.Second
	if !s.cfg.Short {
		r.runs = min(time.Duration(s.logNormal(150, 0.9)*float64(time.Second)), time.Hour)
	}
	r.fails = s.chance(0.08)
	l.open[r.id], l.all[r.id] = r, r
	l.order = append(l.order, r.id)
	if r.ours {
		s.report.Jobs++
	}
	switch {
	case !r.ours: // somebody sees that it waits in vain
		s.after(s.between(10*time.Minute, time.Hour), func() { l.cancel(r) })
	case s.chance(s.cfg.Cancels):
		s.after(s.within(s.cfg.cancelAfter), func() { l.cancel(r) })
	}
}

func (l *load) cancel(r *request) {
	s := l.sim
	state, ok := s.github.Job(r.id)
	if !ok || state.Status == "completed" {
		return
	}
	if state.Status == "queued" {
		r.cancelled = s.now
		if j := s.mirror.byGitHub[r.id]; j != nil {
			for _, v := range s.mirror.ofJob[j.id] {
				if v.forJob == j.id && v.covers() {
					r.covered = v.id
				}
			}
		}
		s.report.CancelledQueued++
	}
	s.github.Cancel(r.id)
	for _, h := range s.hosts { // whichever runner has it hears of it at once
		if h.org == r.org {
			for ref := range sortedRefs(h.machines) {
				if m := h.machines[ref]; m.online {
					m.later(s.between(50*time.Millisecond, 1500*time.Millisecond), func() { m.hear() })
				}
			}
		}
	}
}

// sent sees each delivery that GitHub sends on its way.
func (l *load) sent(out githubtest.Outgoing) {
	var e struct {
		Action string `json:"action"`
		Job    struct {
			ID int64 `json:"id"`
		} `json:"workflow_job"`
	}
	if json.Unmarshal(out.Body, &e) != nil {
		return // truncated
	}
	// The first event of a job is sent before Queue returns.
	l.sim.after(0, func() {
		r := l.all[e.Job.ID]
		if r == nil {
			return
		}
		if e.Action == "queued" && r.sentAt.IsZero() && out.Delay < time.Second {
			r.sentAt = l.sim.now
		}
	})
}

// tidy moves the jobs that completed at GitHub out of the open ones.
func (l *load) tidy() {
	s := l.sim
	for _, id := range l.order {
		r := l.open[id]
		if r == nil {
			continue
		}
		state, ok := s.github.Job(id)
		if !ok || state.Status != "completed" {
			continue
		}
		delete(l.open, id)
		if !r.ours {
			continue
		}
		s.report.Conclusions[state.Conclusion]++
		if state.RunnerID == 0 && r.cancelled.IsZero() && !s.cfg.expires {
			s.report.Lost++ // GitHub gave it up after 24 h
			s.violated("I1", "job %d of %s/%s waited until GitHub gave it up", id, r.org.login, r.repo)
		}
		if state.Conclusion == "failure" && r.attempts < 2 && s.chance(0.3) {
			s.after(s.within(5*time.Minute), func() { l.again(r) })
		}
	}
	if len(l.order) > 4*len(l.open)+100 {
		kept := l.order[:0]
		for _, id := range l.order {
			if l.open[id] != nil {
				kept = append(kept, id)
			}
		}
		l.order = kept
	}
}

// again runs a failed job once more: a new attempt of its run.
func (l *load) again(r *request) {
	if r.away {
		return
	}
	id, err := l.sim.github.Rerun(r.id)
	if err != nil {
		return // its run has gone on
	}
	l.sim.report.Reruns++
	l.add(&request{id: id, org: r.org, repo: r.repo, name: r.name, ours: true, attempts: r.attempts + 1})
}

// move renames a repository, or transfers it to another owner: its jobs that are not completed are nobody's here then, and are
// cancelled after some hours.
func (l *load) move(o *org, name, toOwner, toName string) {
	s := l.sim
	s.must(s.github.MoveRepository(o.login, name, toOwner, toName))
	o.repos = slices.DeleteFunc(o.repos, func(repo string) bool { return repo == name })
	if toOwner == o.login {
		o.repos = append(o.repos, toName)
	}
	for _, id := range slices.Sorted(maps.Keys(l.all)) { // those that are over, too: they may be run again
		r := l.all[id]
		switch {
		case r.org != o || r.repo != name:
		case toOwner == o.login:
			r.repo = toName
		default:
			r.away, r.ours = true, false
			s.after(2*time.Hour, func() { l.cancel(r) })
		}
	}
}

func (l *load) duration(id int64) time.Duration { return l.all[id].runs }

func (l *load) conclusion(id int64) string {
	if l.all[id].fails {
		return "failure"
	}
	return "success"
}

// started notes that a job runs on a machine of ours.
func (l *load) started(id int64, m *machine) {
	s := l.sim
	r := l.all[id]
	if r == nil {
		s.violated("I2", "a runner was given job %d, which nobody queued", id)
		return
	}
	if !r.startedAt.IsZero() {
		s.report.Doubled++
		s.violated("I2", "job %d runs for a second time", id)
	}
	r.startedAt = s.now
	wait := s.now.Sub(r.queued)
	s.report.Waits = append(s.report.Waits, wait)
	if j := s.mirror.byGitHub[id]; j != nil {
		wait -= pauses(j.tries)
	}
	s.report.Unpaused = max(s.report.Unpaused, wait)
	if r.org != m.host.org {
		s.violated("I10", "job %d of %s runs on %s", id, r.org.login, m.host.name)
	}
}

// pauses is how long a job waits in all for its next tries after as many failed: 5 s, 10 s, … up to 5 min each.
func pauses(tries int) (sum time.Duration) {
	for n := range tries {
		sum += min(5*time.Second<<min(n, 6), 5*time.Minute)
	}
	return sum
}

// detected notes that the database has a job.
func (l *load) detected(id int64) {
	r := l.all[id]
	if r == nil {
		return
	}
	if r.foreign {
		l.sim.violated("labels", "job %d has no label of ours, and was taken", id)
	}
	l.known[r.repository()] = l.sim.now
	d := l.sim.now.Sub(r.queued)
	l.sim.report.Detects = append(l.sim.report.Detects, d)
	if r.sentAt.IsZero() && r.active {
		l.sim.report.LostDetects = append(l.sim.report.LostDetects, d)
	}
}
