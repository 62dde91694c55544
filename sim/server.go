package sim

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/scheduler"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/workers"
)

// server is one process of the control plane. It may die between any two of its steps: where a transaction begins, where
// one is committed, before and after each call of GitHub. What is in its memory is gone then.
type server struct {
	sim  *Sim
	n    int
	life int // raised when it dies: what an earlier life planned is not done
	up   bool

	st       *store.Store
	app      *github.App
	work     *workers.Workers
	handler  http.Handler
	placer   workers.PlacerState
	wakeAt   time.Time
	polls    map[millrace.HostID]*poll
	onCommit func()
	dying    bool
	missed   bool // an announcement was lost
	tasked   bool // the outbox may have tasks
}

// seeded is a reader of the day's randomness, for IDs.
type seeded struct{ r *rand.Rand }

// Read fills p.
func (r seeded) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.r.Uint32())
	}
	return len(p), nil
}

func (srv *server) boot() (err error) {
	s := srv.sim
	srv.st, err = store.Open(s.ctx, store.Config{
		AppURL: s.cfg.Database.App, SystemURL: s.cfg.Database.System, Now: srv.clock, IDs: &millrace.Source{Rand: seeded{s.rand}}, Log: s.cfg.Log,
		Committed: srv.committed,
	})
	if err != nil {
		return err
	}
	srv.app, err = github.New(github.Config{
		APIURL: s.github.APIURL(), AppID: s.github.AppID(), PrivateKeyPEM: s.github.PrivateKeyPEM(), WebhookSecrets: []string{s.github.WebhookSecret()},
		Transport: toGitHub{srv}, Now: func() time.Time { return s.now }, Pauses: srv.st,
	})
	if err != nil {
		return err
	}
	srv.work = workers.New(workers.Config{Store: srv.st, GitHub: srv.app, Log: s.cfg.Log, SingleThreaded: true})
	srv.handler = api.New(api.Config{Store: srv.st, Webhooks: srv.app, Runners: srv.work.Gate(), Log: s.cfg.Log, Now: func() time.Time { return s.now }})
	srv.placer, srv.wakeAt, srv.polls, srv.onCommit, srv.dying, srv.up = workers.PlacerState{}, time.Time{}, map[millrace.HostID]*poll{}, nil, false, true
	// What a process does by itself from its start on.
	for _, job := range workers.Schedule {
		if job.Here != nil {
			s.everyOf(srv, job.Every, func() { s.tolerate(job.Here(srv.work, s.ctx)) })
		}
	}
	srv.missed, srv.tasked = true, true     // while it was away
	s.everyOf(srv, 10*time.Second, func() { // an announcement can be lost; when none was, there is nothing to find
		if !srv.missed {
			return
		}
		srv.missed = false
		demand, err := srv.st.OrgsWithDemand(s.ctx)
		s.tolerate(err)
		srv.step(workers.Announced{Demand: demand})
	})
	s.everyOf(srv, 5*time.Second, func() {
		if srv.tasked {
			srv.relay()
		}
	})
	return nil
}

// everyOf plans something that a process does again and again until it dies.
func (s *Sim) everyOf(srv *server, pace time.Duration, do func()) {
	life := srv.life
	var again func()
	again = func() {
		if srv.life != life {
			return
		}
		if srv.do(do) {
			s.after(pace, again)
		}
	}
	s.after(s.within(pace), again)
}

// tolerate takes an error that production code would log and try again after; one that is a mistake of ours is none.
func (s *Sim) tolerate(err error) {
	if err != nil && millrace.CodeOf(err) == millrace.Internal {
		s.cfg.Log.Error("internal", "error", err)
		s.violated("errors", "nobody expects %v", err)
	}
}

// clock is the database's time, which is read when a transaction begins.
func (srv *server) clock() time.Time {
	srv.point()
	return srv.sim.now
}

// committed hears of each commit: a point to die at, and announcements to pass on to all processes.
func (srv *server) committed(topics []string) {
	if srv.onCommit != nil {
		done := srv.onCommit
		srv.onCommit = nil
		done()
	}
	s := srv.sim
	s.mirror.dirty = s.mirror.dirty || len(topics) > 0 // whatever people or processes may care for is announced
	tasked := slices.Contains(topics, store.TopicTasks())
	for _, to := range s.servers {
		to.tasked = to.tasked || tasked
		if len(topics) == 0 {
			continue
		}
		if s.chance(s.cfg.Faults.LoseAnnouncement) {
			to.lost(topics)
			continue
		}
		life := to.life
		s.after(s.between(200*time.Microsecond, 2*time.Millisecond), func() {
			if to.life == life && to.up {
				to.announced(topics)
			}
		})
	}
	srv.point()
}

// lost notes what a process was not told.
func (srv *server) lost(topics []string) {
	srv.missed = true
	for _, topic := range topics {
		if id, err := millrace.ParseHostID(topic); err == nil && srv.polls[id] != nil {
			srv.polls[id].stale = true
		}
	}
}

// announced is what a process does about an announcement.
func (srv *server) announced(topics []string) {
	for _, topic := range topics {
		if topic == store.TopicTasks() {
			srv.do(srv.relay)
		}
		if id, err := millrace.ParseHostID(topic); err == nil {
			if p := srv.polls[id]; p != nil {
				srv.do(func() { srv.answer(p, false) })
			}
		}
	}
	if demand := store.DemandOf(topics); len(demand) > 0 {
		srv.do(func() { srv.step(workers.Announced{Demand: demand}) })
	}
}

// point is where a process may die.
func (srv *server) point() {
	s := srv.sim
	if s.running != srv || srv.dying {
		return
	}
	s.faults.points++
	if s.faults.killsAt(srv) {
		srv.dying = true
		panic(errCrash)
	}
}

// do has the process do something; it reports whether it lived through it.
func (srv *server) do(f func()) (alive bool) {
	s := srv.sim
	if !srv.up {
		return false
	}
	before := s.running
	s.running = srv
	defer func() {
		s.running = before
		p := recover()
		if p != nil && !srv.dying {
			panic(p)
		}
		if !srv.dying { // the API recovers from panics, also from this one
			return
		}
		srv.die(s.between(500*time.Millisecond, 3*time.Second))
		alive = false
	}()
	f()
	return true
}

// die ends the process: its memory is gone, its connections break, and it is started again after a while.
func (srv *server) die(back time.Duration) {
	s := srv.sim
	s.report.ServerCrashes++
	s.deaths = append(s.deaths, s.now)
	srv.up = false
	srv.life++
	polls := srv.polls
	srv.polls = nil
	srv.st.Close()
	srv.st = nil
	s.must(s.mirror.settled(s.alive()))
	for _, h := range s.hosts {
		if p := polls[h.id]; p != nil {
			h.fail(p.call, s.network())
		}
	}
	s.after(back, func() { s.must(srv.boot()) })
}

// alive is the number of processes that are up.
func (s *Sim) alive() (n int) {
	for _, srv := range s.servers {
		if srv.up {
			n++
		}
	}
	return n
}

// anyServer is one that is up, by chance; nil when none is.
func (s *Sim) anyServer() *server {
	n := s.alive()
	if n == 0 {
		return nil
	}
	pick := 0
	if n > 1 {
		pick = s.rand.IntN(n)
	}
	for _, srv := range s.servers {
		if !srv.up {
			continue
		}
		if pick == 0 {
			return srv
		}
		pick--
	}
	return nil
}

// step lets the placer step, and plans the passes that it wants.
func (srv *server) step(event workers.PlacerEvent) {
	s := srv.sim
	var run []workers.RunPass
	srv.placer, run = workers.Step(srv.placer, event, s.now)
	life := srv.life
	for _, pass := range run {
		s.after(50*time.Microsecond, func() {
			if srv.life == life {
				srv.do(func() { srv.pass(pass) })
			}
		})
	}
	if wake := srv.placer.Wake(); !wake.IsZero() && (srv.wakeAt.IsZero() || srv.wakeAt.Before(s.now) || wake.Before(srv.wakeAt)) {
		srv.wakeAt = wake
		s.after(max(0, wake.Sub(s.now)), func() {
			if srv.life == life && srv.wakeAt.Equal(wake) {
				srv.wakeAt = time.Time{}
				srv.do(func() { srv.step(workers.Woken{}) })
			}
		})
	}
}

func (srv *server) pass(p workers.RunPass) {
	placed, err := srv.st.Place(srv.sim.ctx, p.Org, p.Asked, scheduler.Decide)
	s := srv.sim
	s.tolerate(err)
	s.report.Passes++
	life := srv.life
	s.after(s.between(2*time.Millisecond, 10*time.Millisecond), func() {
		if srv.life == life {
			srv.do(func() {
				srv.step(workers.PassDone{Org: p.Org, NextAt: placed.NextAt, Waits: placed.Waits, Failed: err != nil})
			})
		}
	})
}

// task is a row of the task queue: in the database, so that it outlives processes.
type task struct {
	args  river.JobArgs
	tries int
}

// relay moves tasks from the outbox to the queue.
func (srv *server) relay() {
	s := srv.sim
	for {
		var moved []*task
		srv.onCommit = func() {
			for _, t := range moved {
				s.enqueue(t, s.network())
			}
		}
		n, err := srv.st.RelayOutbox(s.ctx, func(_ context.Context, _ pgx.Tx, kind string, args []byte) error {
			decoded, err := workers.DecodeTask(kind, args)
			if err != nil {
				return err
			}
			moved = append(moved, &task{args: decoded})
			return nil
		})
		srv.onCommit = nil
		s.must(err)
		if n == 0 || err != nil {
			srv.tasked = err != nil
			return
		}
	}
}

// enqueue puts a task into the queue, to be done after a while by whoever is up.
func (s *Sim) enqueue(t *task, d time.Duration) {
	s.tasks = append(s.tasks, t)
	s.after(d, func() { s.work(t) })
}

func (s *Sim) work(t *task) {
	srv := s.anyServer()
	if srv == nil {
		s.after(time.Second, func() { s.work(t) })
		return
	}
	var err error
	switch alive := srv.do(func() { err = srv.work.Do(s.ctx, t.args) }); {
	case !alive:
		s.after(90*time.Second, func() { s.work(t) }) // rescued
	case err != nil:
		s.tolerate(err)
		t.tries++
		s.after(min(time.Second<<min(t.tries, 6), time.Minute), func() { s.work(t) })
	default:
		for i := range s.tasks {
			if s.tasks[i] == t {
				s.tasks = append(s.tasks[:i], s.tasks[i+1:]...)
				break
			}
		}
	}
}

// schedule plans what is done by the clock, once over all processes. A task that failed is due again at its next tick.
func (s *Sim) schedule() {
	for _, job := range workers.Schedule {
		if job.Task == nil || slices.Contains(s.cfg.Off, job.Task.Kind()) {
			continue
		}
		s.every(job.Every, func() {
			if srv := s.anyServer(); srv != nil {
				srv.do(func() { s.tolerate(srv.work.Do(s.ctx, job.Task)) })
			}
		})
	}
}
