package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// Scenario is a short day with one thing wrong: a failure that systems of this kind are known for. Besides the invariants,
// which always hold, it has a claim of its own.
type Scenario struct {
	Name   string
	Config Config
	Claim  func(Report) error
	// Net is the task of the schedule without which the scenario fails; "" when it takes more than one.
	Net string
}

// Scenarios are all of them. Those with a number are the failure modes seen in the wild: docs/reliability.md lists them.
func Scenarios() []Scenario { //nolint:funlen // a table
	faults := func(f githubtest.Faults) Faults { return Faults{GitHub: f} }
	day := func(length time.Duration, jobs int, f Faults) Config {
		return Config{Day: length, Jobs: jobs, Orgs: 1, Repos: 6, Servers: 1, Faults: f}
	}
	quiet := func(length time.Duration, jobs int, f Faults) Config {
		c := day(length, jobs, f)
		c.Quiet, c.Hosts = true, 1
		return c
	}
	with := func(c Config, change func(*Config)) Config { change(&c); return c }
	window := func(name string) Config {
		return with(quiet(time.Hour, 60, Faults{}), func(c *Config) {
			c.script = func(s *Sim) { s.faults.open(name, s.orgs[0].login, 20*time.Minute, 35*time.Minute) }
		})
	}
	incident := func(code millrace.WaitCode) func(Report) error {
		return func(r Report) error {
			switch {
			case r.Incidents[code] != 1 || len(r.Incidents) != 1:
				return fmt.Errorf("incidents: %v, and not one of %s", r.Incidents, code)
			case r.Wasted > 25:
				return fmt.Errorf("%d of %d VMs were for nothing", r.Wasted, r.VMs)
			}
			return nil
		}
	}
	condition := func(name string, code millrace.WaitCode) Scenario {
		return Scenario{"21 " + name, window(name), incident(code), "incidents.probe"}
	}
	return []Scenario{
		{"1 a queued delivery is never sent", quiet(time.Hour, 120, faults(githubtest.Faults{Drop: 0.5})), detected(2 * time.Minute), "repositories.poll"},
		{"1 the service is down while deliveries come", with(quiet(time.Hour, 120, Faults{}), func(c *Config) {
			c.script = func(s *Sim) { s.after(20*time.Minute, func() { s.servers[0].die(5 * time.Minute) }) }
		}), func(r Report) error {
			if r.Undelivered > 0 {
				return fmt.Errorf("%d deliveries never got through", r.Undelivered)
			}
			return nil
		}, "deliveries.sweep"},
		{"2 jobs take each other's runners, a hundred a minute", with(day(2*time.Minute, 200, Faults{}), func(c *Config) { c.Short, c.Quiet, c.Slots = true, true, 400 }), starts(10 * time.Second), ""},
		{"3 what GitHub says of jobs is a minute old", day(time.Hour, 100, faults(githubtest.Faults{StaleS: 60, Drop: 0.3, Reorder: 0.3, DelayMaxS: 300})), starts(10 * time.Minute), ""},
		{"4 three of ten VMs never come up, three of ten registrations fail", with(quiet(time.Hour, 100, faults(githubtest.Faults{API5xx: 0.3})), func(c *Config) { c.Faults.BootFails = 0.3 }), starts(4 * time.Minute), ""},
		// Each VM that ends without a word of its job costs a poll: the rates are such that hardly any day has a job with two.
		{"4, 12 VMs fail, and nothing else happens", with(quiet(3*time.Hour, 20, Faults{}), func(c *Config) { c.Faults.BootFails, c.Faults.QuitsIdle = 0.2, 0.15 }), startsBesidePauses(100 * time.Second), ""},
		{"5 one job is queued while five complete", with(day(20*time.Minute, 200, faults(githubtest.Faults{Reorder: 1, DelayMaxS: 5})), func(c *Config) { c.Short = true }), starts(5 * time.Minute), ""},
		{"5 jobs come while others are placed", with(quiet(40*time.Minute, 1, Faults{}), func(c *Config) {
			c.script = func(s *Sim) {
				for n := range 18 {
					s.after(time.Duration(n)*2*time.Minute, func() {
						for _, repo := range s.orgs[0].repos {
							s.load.queue(s.orgs[0], repo, 1)
						}
					})
				}
			}
		}), starts(8 * time.Second), ""},
		{"5 a place is free when its VM has ended, whatever GitHub says", with(quiet(2*time.Hour, 1, Faults{}), func(c *Config) {
			c.Short, c.Slots = true, 1
			c.script = func(s *Sim) {
				for at, off := range map[time.Duration]bool{time.Minute + time.Second: true, 20 * time.Minute: false} {
					s.after(at, func() { s.must(s.github.SetFaults(githubtest.Faults{HooksOff: off})) })
				}
				s.after(time.Minute, func() { s.load.queue(s.orgs[0], "repo-0", 150) })
			}
		}), starts(18 * time.Minute), ""},
		{"6 a finished run is run again", day(time.Hour, 250, faults(githubtest.Faults{Drop: 0.3})), func(r Report) error {
			if r.Reruns == 0 {
				return errors.New("nothing was run again")
			}
			return nil
		}, ""},
		{"7 a job waits for hours", with(quiet(time.Hour, 30, Faults{}), func(c *Config) {
			c.script = func(s *Sim) { s.after(10*time.Minute, func() { s.hosts[0].crash(7 * time.Hour) }) }
		}), func(r Report) error {
			if r.Wait.Max < 6*time.Hour {
				return fmt.Errorf("no job waited for longer than %s", r.Wait.Max)
			}
			return nil
		}, ""},
		{"8 cancels among jobs of overlapping labels", with(day(20*time.Minute, 250, Faults{}), func(c *Config) { c.Cancels, c.cancelAfter, c.Slots, c.Hosts = 0.4, 6*time.Second, 400, 8 }), starts(10 * time.Second), ""},
		{"9 GitHub calls a busy runner idle", with(day(20*time.Minute, 250, faults(githubtest.Faults{StaleS: 90, Unprocessable: 0.3})), func(c *Config) {
			c.Cancels, c.cancelAfter, c.Slots = 0.4, 6*time.Second, 400
		}), starts(15 * time.Minute), ""},
		{"10 servers and agents die and come back, registrations conflict", with(day(time.Hour, 100, faults(githubtest.Faults{Conflict: 0.2})), func(c *Config) {
			c.Servers, c.Faults.ServerCrash, c.Faults.AgentKills = 2, 0.002, 6
		}), starts(20 * time.Minute), ""},
		{"10 agents are killed every few minutes, and no job fails because of it", with(day(time.Hour, 150, Faults{}), func(c *Config) { c.Faults.AgentKills = 60 }), func(r Report) error {
			if r.AgentKills < 40 || r.DiedBusy > 0 {
				return fmt.Errorf("%d agents were killed, and %d VMs died with a job", r.AgentKills, r.DiedBusy)
			}
			return nil
		}, ""},
		{"11 the runner dies with its job", quiet(time.Hour, 80, faults(githubtest.Faults{CrashAfterAssign: 0.2})), starts(5 * time.Minute), ""},
		{"12 the runner succeeds at once without a job", with(quiet(time.Hour, 80, Faults{}), func(c *Config) { c.Faults.QuitsIdle = 0.2 }), starts(5 * time.Minute), ""},
		{"13, 14 a runner is online and is never given a job", quiet(time.Hour, 80, faults(githubtest.Faults{NeverAssign: 0.2})), starts(20 * time.Minute), "vms.watch"},
		{"15 secondary rate limits", day(time.Hour, 80, faults(githubtest.Faults{SecondaryLimit: 0.02, RetryAfterS: retryAfter})), starts(30 * time.Minute), ""},
		{"16 a host dies for good with its VMs", with(day(time.Hour, 60, Faults{}), func(c *Config) {
			c.Hosts, c.Quiet = 3, true
			c.script = func(s *Sim) {
				s.after(20*time.Minute, func() { s.load.queue(s.orgs[0], "repo-0", 12) })
				s.after(20*time.Minute+time.Second, func() { // while their VMs boot
					slices.MaxFunc(s.hosts, func(a, b *host) int { return len(a.machines) - len(b.machines) }).crash(90 * time.Minute)
				})
			}
		}), starts(2 * time.Minute), "hosts.find_lost"},
		{"17 deliveries come doubled and out of order", day(time.Hour, 100, faults(githubtest.Faults{Duplicate: 0.5, Reorder: 1, DelayMaxS: 600})), starts(5 * time.Minute), ""},
		{"18 a job is cancelled while it waits", with(quiet(time.Hour, 150, Faults{}), func(c *Config) { c.Cancels, c.cancelAfter = 1, 4*time.Second }), func(r Report) error {
			switch {
			case r.Cancel.N < 20:
				return fmt.Errorf("only %d jobs were cancelled while a VM was on its way", r.Cancel.N)
			case r.Cancel.Max > 10*time.Second:
				return fmt.Errorf("a VM was there %s after its job was cancelled", r.Cancel.Max)
			}
			return nil
		}, ""},
		{"19 labels of others", day(time.Hour, 400, Faults{}), starts(time.Hour), ""},
		{"20 runners of the organisation are taken by other repositories", with(day(4*time.Minute, 120, Faults{}), func(c *Config) { c.Repos, c.Quiet, c.Slots = 20, true, 400 }), func(r Report) error {
			if r.Rebound == 0 {
				return errors.New("no runner was taken by another job")
			}
			return nil
		}, ""},
		condition("self-hosted runners disabled", millrace.WaitSelfHostedDisabled),
		condition("app suspended", millrace.WaitSuspended),
		condition("app uninstalled", millrace.WaitSuspended),
		condition("permission missing", millrace.WaitPermission),
		condition("IP allow list", millrace.WaitIPAllowList),
		condition("runner version too old", millrace.WaitRunnerVersion),
		condition("runner group full", millrace.WaitRunnerGroupFull),
		{"21 runner group excludes a repository", with(window("runner group excludes a repository"), func(c *Config) { c.Repos = 1 }), incident(millrace.WaitRunnerGroup), ""},
		condition("API down", millrace.WaitGitHubDown),
		{"21 repositories are renamed", with(quiet(2*time.Hour, 160, faults(githubtest.Faults{Drop: 0.5})), func(c *Config) {
			c.Orgs, c.Repos = 2, 2
			c.script = func(s *Sim) {
				s.after(40*time.Minute, func() {
					for _, o := range s.orgs {
						s.load.move(o, "repo-0", o.login, "renamed")
						s.github.AddRepository(o.login, "repo-0", false) // another
					}
				})
				s.faults.open("hooks off", s.orgs[0].login, 40*time.Minute, 90*time.Minute)
			}
		}), starts(12 * time.Minute), ""},
		{"21 a repository is transferred", with(quiet(time.Hour, 60, Faults{}), func(c *Config) {
			c.script = func(s *Sim) {
				s.after(20*time.Minute, func() {
					s.load.queue(s.orgs[0], "repo-0", 3)
					s.load.move(s.orgs[0], "repo-0", "stranger", "repo-0")
				})
				s.after(50*time.Minute, s.checkAway)
			}
		}), func(r Report) error {
			if r.Wasted > 20 { // for three jobs, until GitHub has denied them for a quarter of an hour
				return fmt.Errorf("%d VMs were for nothing", r.Wasted)
			}
			return nil
		}, ""},
		{"GitHub cancels what waited for a day", with(quiet(time.Hour, 10, faults(githubtest.Faults{Drop: 0.5})), func(c *Config) {
			c.Repos, c.expires = 1, true
			c.script = func(s *Sim) { s.after(10*time.Minute, func() { s.hosts[0].crash(30 * time.Hour) }) }
		}), func(r Report) error {
			if r.Conclusions["cancelled"] < 5 {
				return fmt.Errorf("no job was cancelled: %v", r.Conclusions)
			}
			return nil
		}, ""},
		{"23 a host has no disk left", with(quiet(time.Hour, 60, Faults{}), func(c *Config) { c.Faults.BootFails = 0.7 }), starts(45 * time.Minute), ""},
		{"24 hosts lose power, registrations are left over", with(quiet(time.Hour, 100, faults(githubtest.Faults{JITReplyLost: 0.5})), func(c *Config) {
			c.Faults.PowerCuts, c.Cancels, c.cancelAfter = 3, 0.7, 4*time.Second
		}), starts(45 * time.Minute), "runners.sweep"},
		lostWebhooks(),
		hooksOff(),
	}
}

// lostWebhooks is how soon a lost delivery is found, with 200 repositories that have jobs.
func lostWebhooks() Scenario {
	return Scenario{"lost deliveries of 200 active repositories", Config{
		Day: time.Hour, Jobs: 600, Orgs: 1, Hosts: 1, Repos: 200, Servers: 1, Slots: 60, Quiet: true, Short: true, Faults: Faults{GitHub: githubtest.Faults{Drop: 0.3}},
		script: func(s *Sim) { // each has had a job
			s.must(s.github.SetFaults(githubtest.Faults{}))
			for _, repo := range s.orgs[0].repos {
				s.load.queue(s.orgs[0], repo, 1)
			}
			s.after(5*time.Minute, s.faults.set)
		},
	}, func(r Report) error {
		if r.LostDetect.P99 > 2*time.Minute {
			return fmt.Errorf("a lost delivery was found after %s", r.LostDetect)
		}
		return nil
	}, ""}
}

// hooksOff is a day on which GitHub sends nothing.
func hooksOff() Scenario {
	return Scenario{"hooks are off for 24 h", Config{
		Jobs: 240, Orgs: 1, Hosts: 1, Repos: 6, Servers: 1, Quiet: true, Faults: Faults{GitHub: githubtest.Faults{HooksOff: true}},
	}, func(r Report) error {
		if r.Wait.P99 > 5*time.Minute {
			return fmt.Errorf("jobs started after %s", r.Wait)
		}
		return nil
	}, "repositories.poll"}
}

// starts claims that every job runs within d.
func starts(d time.Duration) func(Report) error {
	return func(r Report) error {
		if r.Wait.Max > d {
			return fmt.Errorf("a job ran %s after it was queued", r.Wait.Max)
		}
		return nil
	}
}

// startsBesidePauses claims that every job runs within d of being queued, beside the pauses after its failed tries: a job may have any
// number of those.
func startsBesidePauses(d time.Duration) func(Report) error {
	return func(r Report) error {
		if r.Unpaused > d {
			return fmt.Errorf("a job ran %s after it was queued, without the pauses after its failed tries", r.Unpaused)
		}
		return nil
	}
}

// detected claims that every job whose delivery was lost is known within d.
func detected(d time.Duration) func(Report) error {
	return func(r Report) error {
		if r.LostDetect.N == 0 || r.LostDetect.Max > d {
			return fmt.Errorf("jobs whose delivery was lost were known after %s", r.LostDetect)
		}
		return nil
	}
}

// Run runs the scenario on an empty database, with some nets away. The error is what did not hold.
func (sc Scenario) Run(ctx context.Context, seed uint64, db Database, off ...string) (r Report, err error) {
	c := sc.Config
	c.Seed, c.Database, c.Off = seed, db, off
	if r, err = Run(ctx, c); err == nil {
		err = sc.Claim(r)
	}
	return r, err
}
