package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/sim"
	"github.com/millrace-ci/millrace/sim/local"
	"github.com/millrace-ci/millrace/store"
)

// fleetOptions are how large a fleet is, and what it has to do.
type fleetOptions struct {
	hosts   int
	length  time.Duration // of being idle, and of the load
	rate    float64       // jobs queued per second
	signals []syscall.Signal
	profile string // a folder for profiles; "": none
	disks   string // a folder for what stands for the hosts' disks
}

const (
	fleetOrgs = 20
	// perInstallation is how many jobs per second an installation has at the most: GitHub lets it register 2.7 runners.
	perInstallation = 2.5
	jobTakes        = "2s"

	mostIdleCPU  = 0.15 // of a core
	backWithin   = 60 * time.Second
	orderWithin  = 250 * time.Millisecond // 99 of 100 orders
	warmUp       = 10 * time.Second
	settleFor    = millrace.Heartbeat + millrace.Heartbeat/2
	giveUpFleet  = 3 * time.Minute
	lookForFleet = 20 * time.Millisecond
)

// fleet is a world with many hosts.
type fleet struct {
	*world
	o     fleetOptions
	disks string // a folder for the hosts'
	*acknowledgements
	log   *os.File      // of the agents
	ended chan struct{} // closed when they have ended

	mu     sync.Mutex
	synced []time.Time // by host: when the last sync that was answered began
	orders map[millrace.VMID]time.Time
	failed error // of the agents
}

// measureFleet measures what many hosts cost the server, idle and at work, and how they come back when it is restarted.
func measureFleet(ctx context.Context, o fleetOptions) (figures []figure, err error) {
	debug.SetGCPercent(400) // this process is others' machines: their memory is cheaper here than the processors that it shares
	dir, err := os.MkdirTemp("", "mrfleet")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	disks, err := os.MkdirTemp(o.disks, "mrfleet")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(disks)
	f := &fleet{o: o, disks: disks, acknowledgements: newAcknowledgements(), synced: make([]time.Time, o.hosts), orders: map[millrace.VMID]time.Time{}, ended: make(chan struct{})}
	s := setup{programs: []string{"millraced"}, hooks: &http.Client{Transport: f.acknowledgements, Timeout: 10 * time.Second}}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o700); err != nil {
			return nil, err
		}
		s.tags, s.settings = "profile", map[string]string{"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_planning": "on"}
	}
	installations := max(1, int(o.rate/perInstallation/fleetOrgs+0.999))
	for i := range fleetOrgs {
		t := tenant{slug: fmt.Sprintf("org-%d", i)}
		for n := range installations {
			t.owners = append(t.owners, fmt.Sprintf("owner-%d-%d", i, n))
		}
		s.tenants = append(s.tenants, t)
	}
	if f.world, err = start(ctx, dir, s); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, measure := range []func(context.Context) ([]figure, error){f.enroll, f.idle, f.restarts, f.load} {
		list, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		for _, f := range list { // the rest takes minutes
			if err := f.print(); err != nil {
				return nil, err
			}
		}
		figures = append(figures, list...)
	}
	return figures, nil
}

// enroll starts the agents and waits until all have synced.
func (f *fleet) enroll(ctx context.Context) (_ []figure, err error) {
	var tokens []millrace.Secret
	for _, org := range f.orgs {
		_, token, err := f.store.Org(org.ID).CreateEnrollmentToken(ctx, millrace.Actor{Kind: millrace.ActorSystem},
			store.NewEnrollmentToken{Uses: (f.o.hosts + fleetOrgs - 1) / fleetOrgs})
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, token)
	}
	f.store.Close() // it would be told of each commit
	if f.log, err = os.Create(filepath.Join(f.dir, "agents.log")); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	f.stops = append(f.stops, f.log.Close, func() error {
		stop()
		<-f.ended
		return f.failed
	})
	began := time.Now()
	go func() {
		defer close(f.ended)
		err := f.agents(running, tokens)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failed = err
	}()
	back, err := f.back(ctx, began)
	if err != nil {
		return nil, err
	}
	return []figure{{name: fmt.Sprintf("%d hosts enrolled and synced", f.o.hosts), value: seconds(back)}}, nil
}

// back waits until each host had a sync answered that began after a moment, and returns how long after it that was.
func (f *fleet) back(ctx context.Context, since time.Time) (time.Duration, error) {
	missing := 0
	for time.Since(since) < giveUpFleet {
		f.mu.Lock()
		err := f.failed
		missing = 0
		for _, began := range f.synced {
			if began.Before(since) {
				missing++
			}
		}
		f.mu.Unlock()
		if missing == 0 || err != nil {
			return time.Since(since), err
		}
		if err := wait(ctx, lookForFleet); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%d hosts did not sync within %v", missing, giveUpFleet)
}

// idle measures what hosts cost that have nothing to do.
func (f *fleet) idle(ctx context.Context) ([]figure, error) {
	if err := wait(ctx, settleFor); err != nil { // whoever enrolled last has its first heartbeat
		return nil, err
	}
	cores, err := f.cpuWhile(ctx, "idle", func() error { return wait(ctx, f.o.length) })
	if err != nil {
		return nil, err
	}
	now, peak, err := rss(f.server.Process.Pid)
	if err != nil {
		return nil, err
	}
	return []figure{
		{
			name: fmt.Sprintf("server, %d idle hosts", f.o.hosts), value: percent(cores.server) + " of a core", goal: "≤ " + percent(mostIdleCPU),
			missed: cores.server > mostIdleCPU,
		},
		{name: "Postgres beside it", value: percent(cores.postgres) + " of a core"},
		{name: "memory of the server", value: fmt.Sprintf("%.0f MiB, at most %.0f MiB", now, peak)},
	}, nil
}

// cores are shares of a core. What this process takes, the server can't have; what was left idle, nobody wanted.
type cores struct{ server, postgres, bench, idle float64 }

// cpuWhile measures what the server and Postgres take of a core while something is done.
func (f *fleet) cpuWhile(ctx context.Context, name string, do func() error) (c cores, err error) {
	postmaster, err := f.postgres.PID()
	if err != nil {
		return c, err
	}
	read := func() ([4]time.Duration, error) {
		server, err := local.CPU(f.server.Process.Pid)
		postgres, err2 := local.FamilyCPU(postmaster)
		bench, err3 := local.CPU(os.Getpid())
		idle, err4 := local.Idle()
		return [4]time.Duration{server, postgres, bench, idle}, errors.Join(err, err2, err3, err4)
	}
	before, err := read()
	if err != nil {
		return c, err
	}
	profiled, err := f.profileWhile(ctx, name)
	if err != nil {
		return c, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return c, err
	}
	took := time.Since(began)
	after, err := read()
	of := func(i int) float64 { return float64(after[i]-before[i]) / float64(took) }
	c = cores{server: of(0), postgres: of(1), bench: of(2), idle: of(3)}
	return c, errors.Join(err, profiled())
}

// restarts measures how long after the server's end all hosts have synced again.
func (f *fleet) restarts(ctx context.Context) (figures []figure, err error) {
	for _, sig := range f.o.signals {
		began := time.Now()
		if err := f.endServer(sig); err != nil {
			return nil, err
		}
		ended := time.Since(began)
		if err := f.startServer(ctx); err != nil {
			return nil, err
		}
		ready := time.Since(began)
		back, err := f.back(ctx, began.Add(ended))
		if err != nil {
			return nil, err
		}
		back += ended
		figures = append(figures, figure{
			name: "all hosts back after " + signalName(sig), value: fmt.Sprintf("%s (ready after %s)", seconds(back), seconds(ready)), goal: "≤ " + seconds(backWithin),
			missed: back > backWithin,
		})
		if err := wait(ctx, settleFor); err != nil {
			return nil, err
		}
	}
	return figures, nil
}

func signalName(sig syscall.Signal) string {
	return map[syscall.Signal]string{syscall.SIGTERM: "SIGTERM", syscall.SIGKILL: "SIGKILL"}[sig]
}

// load queues jobs at a steady rate, whatever becomes of them, and waits until all are completed. The first are not measured:
// each of the server's connections prepares each of its statements once.
func (f *fleet) load(ctx context.Context) ([]figure, error) {
	total := int(f.o.rate * f.o.length.Seconds())
	var owners []string
	for n := range len(f.tenants[0].owners) {
		for _, t := range f.tenants {
			owners = append(owners, t.owners[n])
		}
	}
	warming := int(f.o.rate * warmUp.Seconds())
	jobs := make([]int64, 0, warming+total)
	queue := func(n int) error {
		return steadily(ctx, f.o.rate, n, func(int) error {
			i := len(jobs)
			// A size that no other job of the owner has: its VM is given to no other, and so it is known which order was its.
			id, err := f.github.Queue(githubtest.QueueRequest{
				Owner: owners[i%len(owners)], Repo: "app", Labels: []string{fmt.Sprintf("millrace-1cpu-%dmb", 256+i/len(owners))},
				Steps: []githubtest.QueueStep{{Name: "idle", Run: jobTakes}},
			})
			jobs = append(jobs, id)
			return err
		})
	}
	if err := queue(warming); err != nil {
		return nil, err
	}
	if err := f.analyze(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	cores, err := f.cpuWhile(ctx, "load", func() error { return queue(total) })
	if err != nil {
		return nil, err
	}
	queueing := time.Since(began)
	lost, err := f.completed(ctx, jobs)
	if err != nil {
		return nil, err
	}
	took, never, err := f.untilOrdered(ctx, jobs[warming:])
	if err != nil {
		return nil, err
	}
	acks := sim.QuantilesOf(f.took())
	orders := sim.QuantilesOf(took)
	return []figure{
		{name: fmt.Sprintf("jobs queued, %g/s", f.o.rate), value: strconv.Itoa(total)},
		{name: "queueing them took", value: seconds(queueing)},
		{name: "jobs lost", value: strconv.Itoa(lost), goal: "0", missed: lost > 0},
		{name: "jobs without an order", value: strconv.Itoa(never), goal: "0", missed: never > 0},
		{name: "ack → order at the agent p50", value: ms(orders.P50)},
		{name: "ack → order at the agent p99", value: ms(orders.P99), goal: "≤ " + ms(orderWithin), missed: orders.P99 > orderWithin},
		{name: "ack → order at the agent, longest", value: ms(orders.Max)},
		{name: "webhook ack p50 under this load", value: ms(acks.P50)},
		{name: "webhook ack p99 under this load", value: ms(acks.P99)},
		{name: "server under this load", value: percent(cores.server) + " of a core"},
		{name: "Postgres under this load", value: percent(cores.postgres) + " of a core"},
		{name: "agents, their VMs and the stand-in GitHub", value: percent(cores.bench) + " of a core"},
		{name: fmt.Sprintf("left idle of %d processors", runtime.NumCPU()), value: percent(cores.idle) + " of a core"},
	}, nil
}

// analyze has Postgres look at its tables, as it does by itself within a minute or two of their first rows (its manual, "The
// Autovacuum Daemon"): until then it plans for empty ones, where every index is as good as the best.
func (f *fleet) analyze(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, f.postgres.URL("postgres", database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `ANALYZE`)
	return err
}

// completed waits until all jobs have succeeded, and returns how many did not.
func (f *fleet) completed(ctx context.Context, jobs []int64) (lost int, err error) {
	began := time.Now()
	for {
		lost = 0
		for _, id := range jobs {
			if job, _ := f.github.Job(id); job.Status != "completed" || job.Conclusion != "success" {
				lost++
			}
		}
		if lost == 0 || time.Since(began) > giveUpFleet {
			return lost, nil
		}
		if err := wait(ctx, time.Second/2); err != nil {
			return 0, err
		}
	}
}

// untilOrdered is for each job how long after its delivery's acknowledgement an agent had the order for its VM, and the
// number of those that had none, or were not acknowledged.
func (f *fleet) untilOrdered(ctx context.Context, jobs []int64) (took []time.Duration, never int, err error) {
	conn, err := pgx.Connect(ctx, f.postgres.URL("postgres", database))
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT j.github_job_id, v.vm_id FROM vms v JOIN jobs j ON (j.org_id, j.job_id) = (v.org_id, v.for_job)`)
	if err != nil {
		return nil, 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ordered := map[int64]time.Time{}
	var job int64
	var vm millrace.VMID
	_, err = pgx.ForEachRow(rows, []any{&job, &vm}, func() error {
		at, told := f.orders[vm]
		if first, again := ordered[job]; told && (!again || at.Before(first)) { // one that failed was followed by another
			ordered[job] = at
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	acknowledged, err := f.queued()
	if err != nil {
		return nil, 0, err
	}
	for _, id := range jobs {
		at, told := ordered[id]
		from, acked := acknowledged[id]
		if !told || !acked {
			never++
			continue
		}
		took = append(took, max(0, at.Sub(from))) // an order may be there before the answer has been read
	}
	return took, never, nil
}

// steadily calls do n times, so often a second. What was late is caught up with (open loop): a system that can't keep up with a rate
// must not look better for being asked less often.
func steadily(ctx context.Context, rate float64, n int, do func(i int) error) error {
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if err := wait(ctx, time.Until(due)); err != nil {
			return err
		}
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func percent(share float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", 100*share), ".0") + " %"
}
