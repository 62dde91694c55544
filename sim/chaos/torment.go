package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace/sim/local"
)

// figures are what was measured of faults.
type figures struct {
	mu            sync.Mutex
	servers       []outage // from SIGKILL of a server until it was ready
	postgres      []outage // while Postgres was away, however
	postgresBack  []time.Duration
	servedAgain   []time.Duration
	agentKills    []outage // from SIGKILL until an instant after
	failures      []string // faults from which nothing came back
	serverStops   int
	agentStops    int
	postgresStops int
}

type outage struct{ from, to time.Time }

func (o outage) took() time.Duration     { return o.to.Sub(o.from) }
func (o outage) meets(other outage) bool { return o.from.Before(other.to) && other.from.Before(o.to) }

// serverKills are the outages of servers apart from those during which Postgres was away.
func (f *figures) serverKills() (clean, blocked []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.servers {
		if slices.ContainsFunc(f.postgres, s.meets) {
			blocked = append(blocked, s.took())
		} else {
			clean = append(clean, s.took())
		}
	}
	return clean, blocked
}

// torment does harm until the time is over and Postgres was killed often enough; each fault is over when it returns. What
// is done to each process depends on the seed alone; how the processes' faults meet depends on how long they take to recover.
func (w *world) torment(ctx context.Context) {
	end := time.Now().Add(w.o.length)
	over := func() bool { return ctx.Err() != nil || !time.Now().Before(end) }
	var all sync.WaitGroup
	victim := func(stream uint64, gapFrom, gapTo time.Duration, over func() bool, harm func(*rand.Rand)) {
		all.Go(func() {
			chance := rand.New(rand.NewPCG(uint64(w.o.seed), stream))
			for {
				select {
				case <-time.After(between(chance, gapFrom, gapTo)):
				case <-ctx.Done():
				}
				if over() {
					return
				}
				harm(chance)
			}
		})
	}
	for i := range w.servers {
		victim(10+uint64(i), 3*time.Second, 12*time.Second, over, func(chance *rand.Rand) { w.harmServer(ctx, i, chance) })
	}
	victim(20, 8*time.Second, 25*time.Second, over, func(chance *rand.Rand) { w.harmAgent(ctx, chance) })
	victim(30, 2*time.Second, 9*time.Second, func() bool {
		return ctx.Err() != nil || over() && len(w.figures.postgresBack) >= w.wanted
	}, func(chance *rand.Rand) { w.harmPostgres(ctx, chance) })
	all.Wait()
}

// failed notes that a fault was the end of something.
func (w *world) failed(err error) {
	w.say("%v", err)
	w.figures.mu.Lock()
	defer w.figures.mu.Unlock()
	w.figures.failures = append(w.figures.failures, err.Error())
}

func (w *world) say(format string, args ...any) {
	fmt.Println(time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// pause stops a process for a while.
func pause(ctx context.Context, p *process, d time.Duration) {
	p.signal(syscall.SIGSTOP)
	sleep(ctx, d)
	p.signal(syscall.SIGCONT)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (w *world) harmServer(ctx context.Context, i int, chance *rand.Rand) {
	f, p := &w.figures, w.servers[i]
	kill, d := chance.IntN(10) < 7, between(chance, time.Second, 8*time.Second)
	if !kill {
		w.say("%s SIGSTOP for %s", p.name, round(d))
		f.mu.Lock()
		f.serverStops++
		f.mu.Unlock()
		pause(ctx, p, d)
		return
	}
	from := time.Now()
	p.kill()
	if err := w.untilReady(ctx, w.urls[i]); err != nil && ctx.Err() == nil {
		w.failed(err)
	}
	killed := outage{from, time.Now()}
	f.mu.Lock()
	f.servers = append(f.servers, killed)
	f.mu.Unlock()
	w.say("%s SIGKILL, ready after %s", p.name, round(killed.took()))
}

func (w *world) harmAgent(ctx context.Context, chance *rand.Rand) {
	f := &w.figures
	kill, d := len(f.agentKills) <= f.agentStops, between(chance, time.Second, 15*time.Second) // in turn
	if chance.IntN(4) == 0 {
		d = between(chance, 32*time.Second, 40*time.Second) // longer than a host may be silent
	}
	if !kill {
		w.say("agent SIGSTOP for %s", round(d))
		f.agentStops++
		pause(ctx, w.agent, d)
		return
	}
	w.say("agent SIGKILL")
	from := time.Now()
	w.agent.kill()
	f.agentKills = append(f.agentKills, outage{from, time.Now().Add(time.Second)})
}

func (w *world) harmPostgres(ctx context.Context, chance *rand.Rand) {
	f := &w.figures
	kill, d := chance.IntN(8) > 0, between(chance, time.Second, 6*time.Second)
	from := time.Now()
	if kill {
		back, err := w.killPostgres(ctx)
		if err != nil {
			if ctx.Err() == nil {
				w.failed(err)
			}
			return
		}
		f.postgresBack = append(f.postgresBack, back)
	} else {
		w.say("Postgres SIGSTOP for %s", round(d))
		f.postgresStops++
		w.signalPostgres(syscall.SIGSTOP)
		sleep(ctx, d)
		w.resumePostgres()
	}
	if err := w.untilReady(ctx, w.urls[:]...); err != nil && ctx.Err() == nil {
		w.failed(err)
	}
	away := outage{from, time.Now()}
	f.mu.Lock()
	f.postgres = append(f.postgres, away)
	f.mu.Unlock()
	if kill {
		f.servedAgain = append(f.servedAgain, away.took())
		w.say("Postgres SIGKILL, back after %s, a server is ready after %s", round(f.postgresBack[len(f.postgresBack)-1]), round(away.took()))
	}
}

// killPostgres kills the postmaster alone: its children must find out and go. Then it starts a new one, as often as it
// takes, and returns how long Postgres was away.
func (w *world) killPostgres(ctx context.Context) (time.Duration, error) {
	pid, err := w.postgres.PID()
	if err != nil {
		return 0, err
	}
	children := local.Children(pid)
	from := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("killing Postgres: %w", err)
	}
	for {
		if err = w.postgres.Restart(ctx); err == nil {
			break
		}
		if took := time.Since(from); ctx.Err() != nil || took > readyWithin {
			return 0, fmt.Errorf("the processes %v of Postgres: %w", slices.DeleteFunc(children, local.Gone), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	back := time.Since(from)
	if left := slices.DeleteFunc(children, local.Gone); len(left) > 0 {
		return 0, fmt.Errorf("processes of the killed Postgres outlived it: %v", left)
	}
	return back, nil
}

// signalPostgres signals the postmaster and then its children, of which there are no new ones while it is stopped.
func (w *world) signalPostgres(sig syscall.Signal) {
	pid, err := w.postgres.PID()
	if err != nil {
		return // it does not run
	}
	children := local.Children(pid)
	if sig == syscall.SIGSTOP {
		_ = syscall.Kill(pid, sig)
		children = local.Children(pid)
	}
	for _, child := range children {
		_ = syscall.Kill(child, sig)
	}
	_ = syscall.Kill(pid, sig)
}

func (w *world) resumePostgres() { w.signalPostgres(syscall.SIGCONT) }
