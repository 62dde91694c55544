package sim

import (
	"container/heap"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
)

// Config says which day is simulated. The zero value of every field but Database is useful.
type Config struct {
	Seed     uint64
	Database Database
	Jobs     int           // about how many are queued; 0: 2,100
	Day      time.Duration // in which they are queued; 0: 24 h
	Orgs     int           // 0: 2
	Hosts    int           // of the first org, and one of each other; 0: 2
	Repos    int           // of each org; 0: 8
	Servers  int           // 0: 2
	Slots    int           // of each org's plan; 0: 40
	Skew     bool          // hosts' clocks are wrong by up to a day
	Faults   Faults
	Quiet    bool    // one job a push, evenly over the day, all of one label; no repository is new
	Cancels  float64 // the share of jobs that are cancelled within four minutes; 0: 0.04, on a quiet day none
	Short    bool    // jobs take seconds
	// Off are tasks of the schedule that are not done: with a net away, a test shows what it is for.
	Off []string
	Log *slog.Logger // of the servers; nil: none
	Key *rsa.PrivateKey
	// Trace takes each line of the trace: when, and what changed in the database.
	Trace io.Writer

	script      func(*Sim) // what else happens
	cancelAfter time.Duration
	expires     bool // jobs may wait for so long that GitHub cancels them
}

// Sim is a day under way.
type Sim struct {
	cfg    Config
	ctx    context.Context //nolint:containedctx // one run has one
	rand   *rand.Rand
	start  time.Time
	now    time.Time
	events events
	seq    int
	steps  int

	github  *githubtest.GitHub
	orgs    []*org
	servers []*server
	hosts   []*host
	byHost  map[millrace.HostID]*host
	tasks   []*task
	mirror  *mirror
	load    *load
	faults  *faultDay

	deaths      []time.Time     // of servers
	undelivered map[string]bool // by GUID: none of its tries was answered with success

	running *server // whose code runs now
	failed  error
	report  Report
}

type org struct {
	millrace.Org
	login string
	kind  millrace.OwnerType
	owner githubtest.Owner
	repos []string
}

// event is something that happens at a time.
type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

// Len is the number of events to come.
func (e events) Len() int { return len(e) }

// Less orders events by time, and of one time by when they were planned.
func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
}

// Swap swaps two events.
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push adds an event.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop removes the last event.
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return last
}

// after plans something.
func (s *Sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.events, event{s.now.Add(d), s.seq, do})
}

// every plans something again and again; the first time after a part of the pace.
func (s *Sim) every(pace time.Duration, do func()) {
	var again func()
	again = func() {
		do()
		s.after(pace, again)
	}
	s.after(s.within(pace), again)
}

// within is a random time below d.
func (s *Sim) within(d time.Duration) time.Duration { return time.Duration(s.rand.Int64N(int64(d))) }

// between is a random time from a to b.
func (s *Sim) between(a, b time.Duration) time.Duration { return a + s.within(b-a) }

// chance reports true with probability p.
func (s *Sim) chance(p float64) bool { return p > 0 && s.rand.Float64() < p }

// network is a random time that a message takes.
func (s *Sim) network() time.Duration { return s.between(200*time.Microsecond, 5*time.Millisecond) }

// violated notes that something that must hold does not; the day ends.
func (s *Sim) violated(rule, format string, args ...any) {
	if s.failed == nil {
		s.failed = fmt.Errorf("%s at step %d, %s into the day: %s", rule, s.steps, s.now.Sub(s.start).Round(time.Millisecond), fmt.Sprintf(format, args...))
	}
}

func (s *Sim) must(err error) {
	if err != nil && s.failed == nil {
		s.failed = err
	}
}

// epoch0 is when every day begins.
var epoch0 = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func (c *Config) defaults() {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Jobs, 2100)
	set(&c.Orgs, 2)
	set(&c.Hosts, 2)
	set(&c.Repos, 8)
	set(&c.Servers, 2)
	set(&c.Slots, 40)
	if c.Cancels == 0 && !c.Quiet {
		c.Cancels = 0.04
	}
	if c.cancelAfter == 0 {
		c.cancelAfter = 4 * time.Minute
	}
	if c.Day == 0 {
		c.Day = 24 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// drain is how long after the last job was queued, and the last fault ended, everything must be done.
const drain = 3 * time.Hour

// Run simulates a day. The error is the first thing that did not hold; the report tells how far it came.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg.defaults()
	began := time.Now()
	s := &Sim{
		cfg: cfg, ctx: ctx, rand: rand.New(rand.NewPCG(cfg.Seed, 0x6d696c6c72616365)), start: epoch0, now: epoch0, byHost: map[millrace.HostID]*host{}, undelivered: map[string]bool{},
	}
	s.report = Report{Seed: cfg.Seed, Conclusions: map[string]int{}, WastedBy: map[string]int{}, Incidents: map[millrace.WaitCode]int{}}
	defer s.close()
	if err := s.build(); err != nil {
		return s.report, err
	}
	end := s.start.Add(cfg.Day)
	for len(s.events) > 0 && s.failed == nil {
		if err := ctx.Err(); err != nil {
			return s.report, err
		}
		e := heap.Pop(&s.events).(event)
		if e.at.After(end) && s.quiet() {
			break
		}
		if e.at.After(latest(end, s.faults.last).Add(drain)) {
			s.violated("I14", "%s after the last fault jobs are left: %s", drain, s.leftovers())
			break
		}
		s.now = e.at
		s.steps++
		e.do()
		s.checkStep()
	}
	if s.failed == nil {
		s.checkEnd()
	}
	s.must(s.mirror.waste(s))
	s.report.finish(s)
	s.report.Took = time.Since(began)
	if s.failed != nil {
		s.report.Failed = s.failed.Error()
	}
	return s.report, s.failed
}

// build makes the world: GitHub with its owners, servers, orgs and hosts.
func (s *Sim) build() (err error) {
	s.load, s.faults = newLoad(s), newFaultDay(s)
	s.github, err = githubtest.New(githubtest.Config{
		URL: "http://github.sim", Now: func() time.Time { return s.now.Add(githubSkew) }, Rand: s.rand, Key: s.cfg.Key, Send: s.send, Assigned: s.assigned,
	})
	if err != nil {
		return err
	}
	if s.mirror, err = newMirror(s.ctx, s.cfg.Database); err != nil {
		return err
	}
	for n := range s.cfg.Servers {
		srv := &server{sim: s, n: n}
		s.servers = append(s.servers, srv)
		if err := srv.boot(); err != nil {
			return err
		}
	}
	setup := s.servers[0].st
	if err := setup.KeepPartitions(s.ctx); err != nil {
		return err
	}
	for n := range s.cfg.Orgs {
		if err := s.addOrg(setup, n); err != nil {
			return err
		}
	}
	for i, o := range s.orgs {
		hosts := s.cfg.Hosts
		if i > 0 {
			hosts = 1
		}
		for n := range hosts {
			if err := s.addHost(setup, o, n); err != nil {
				return err
			}
		}
	}
	s.schedule()
	s.load.plan()
	s.faults.plan()
	if s.cfg.script != nil {
		s.cfg.script(s)
	}
	s.every(2*time.Hour, func() { s.must(s.mirror.analyze(s.ctx)) })
	s.every(20*time.Second, s.github.Tidy)
	s.every(30*time.Second, s.checkWaiting)
	s.every(time.Minute, s.checkOrphans)
	return s.failed
}

// githubSkew is how far GitHub's clock is ahead of ours.
const githubSkew = 1300 * time.Millisecond

func (s *Sim) addOrg(setup *store.Store, n int) error {
	o := &org{login: fmt.Sprintf("org-%d", n), kind: millrace.Organization}
	if n == 1 { // the second is a personal account, whose runners register at repositories
		o.kind = millrace.Personal
	}
	o.owner = s.github.AddOwner(o.login, o.kind)
	for r := range s.cfg.Repos {
		o.repos = append(o.repos, fmt.Sprintf("repo-%d", r))
		if s.cfg.Quiet || r%4 != 3 { // the others are made during the day
			s.github.AddRepository(o.login, o.repos[r], s.public(o.repos[r]))
		}
	}
	var err error
	o.Org, _, err = setup.CreateOrg(s.ctx, store.NewOrg{
		Slug: o.login, Name: o.login, Concurrency: s.cfg.Slots, DefaultSize: millrace.Size{MilliCPU: 2000, MemoryMB: 4096},
		Owner: millrace.User{GitHubID: o.owner.SenderID, Login: o.login}, Installations: []millrace.Installation{o.owner.Installation},
	})
	s.orgs = append(s.orgs, o)
	if err != nil || !slices.ContainsFunc(o.repos, s.public) {
		return err
	}
	by := millrace.Caller{Actor: millrace.Actor{Kind: millrace.ActorSystem}, Role: millrace.RoleOwner}
	_, err = setup.Org(o.ID).ChangePlacement(s.ctx, by, millrace.PlacementChange{Zones: []millrace.ZoneChange{{Zone: millrace.ZonePublic, Allowed: new(true)}}})
	return err
}

// quiet reports whether all is done.
func (s *Sim) quiet() bool {
	if s.faults.active(s.now) || s.load.left > 0 {
		return false
	}
	if slices.ContainsFunc(s.servers, func(srv *server) bool { return srv.tasked }) {
		return false
	}
	for _, j := range s.mirror.jobs {
		if j.open() {
			return false
		}
	}
	for _, v := range s.mirror.vms {
		if v.state != millrace.VMGone {
			return false
		}
	}
	return len(s.load.open) == 0 && len(s.tasks) == 0 && len(s.mirror.incidents) == 0 && s.github.Runners() == 0
}

func (s *Sim) leftovers() string {
	jobs, vms := 0, 0
	var example strings.Builder
	for _, j := range s.mirror.jobList() {
		if j.open() {
			jobs++
			example.Reset()
			fmt.Fprintf(&example, "; job %d is %s and waits for %q", j.github, j.status, j.wait)
		}
	}
	for _, v := range s.mirror.vmList() {
		if v.state != millrace.VMGone {
			vms++
			fmt.Fprintf(&example, "; VM %s on host %s is %s since %s", v.name, v.host, v.state, v.changed)
			if vms > 3 {
				break
			}
		}
	}
	for _, r := range s.github.RegisteredRunners() {
		fmt.Fprintf(&example, "; runner %s of %s is registered since %s, busy: %t", r.Name, r.Owner, r.RegisteredAt, r.Busy)
	}
	return fmt.Sprintf("%d at GitHub, %d here, %d VMs, %d tasks, %d runners%s", len(s.load.open), jobs, vms, len(s.tasks), s.github.Runners(), example.String())
}

func (s *Sim) close() {
	for _, srv := range s.servers {
		if srv.st != nil {
			srv.st.Close()
		}
	}
	if s.github != nil {
		s.github.Close()
	}
	if s.mirror != nil {
		s.mirror.close()
	}
}

// errCrash is what a server's process ends with.
var errCrash = errors.New("the process was killed")
