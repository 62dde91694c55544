// Command chaos kills the product while it works, and shows that nothing it acknowledged is lost and that its books balance
// afterwards.
//
// What runs are real processes, on loopback only: two `millraced serve` on one Postgres with fsync on, and one agent. The
// stand-in GitHub lives in this process, so it survives, and so does the small balancer before the two servers. For some
// minutes jobs are queued and webhooks flow, while servers, agent and Postgres get SIGKILL, or SIGSTOP and later SIGCONT, at
// moments that a printed seed chooses. What is killed is started again at once, as a service manager does; nobody repairs
// anything. Then the faults end, and the figures are:
//
//   - from SIGKILL of a server until that server is ready again: 2 s at the most. Kills that met a Postgres which was away
//     are listed apart, for no server is ready without one.
//   - acknowledged and lost deliveries: none. A delivery that was answered with 2xx is in the database by its GUID, and so is
//     its job's row. Beside the real jobs' deliveries a second tenant's flow, which no agent serves, to make them many.
//     SIGKILL loses no page of the kernel's cache: this proves nothing of a power cut.
//   - the books balance within eight minutes: each job is completed at GitHub and here, with the same outcome and the same
//     runner; one VM ran it, and its log was written by one runner; its facts are written once; no job is open, no VM is
//     live, no runner is registered. What no delivery told is found by the product itself, by its sweep of failed deliveries
//     and its polls.
//   - jobs that failed: none. With the fake driver, whose VMs die with their agent, none but those whose agent was killed.
//
// The stand-in takes a job from a silent runner after -loses-job-after rather than GitHub's ten minutes: it bounds the run.
// The agent is the product's, with the fake driver: it boots no VMs, and its guests die with it. With -driver qemu it is
// `millrace-agent run`, whose VMs `millrace-agent launch` starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace/sim"
)

func main() {
	if dir := os.Getenv(agentDir); dir != "" { // this process is the agent
		if err := fakeAgent(dir); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	o := options{seed: time.Now().UnixNano() % 1_000_000}
	flag.DurationVar(&o.length, "for", 4*time.Minute, "how long faults go on")
	flag.Int64Var(&o.seed, "seed", o.seed, "chooses the faults and the jobs")
	flag.Float64Var(&o.jobs, "jobs", 1.5, "jobs queued per second; GitHub lets an installation register 2.7 runners")
	flag.Float64Var(&o.load, "load", 20, "further deliveries per second, of a tenant without hosts")
	flag.DurationVar(&o.losesJobAfter, "loses-job-after", 2*time.Minute, "after which a silent runner has lost its job; GitHub's is 10m")
	flag.DurationVar(&o.drain, "drain", 8*time.Minute, "within which the books must balance after the last fault")
	flag.StringVar(&o.driver, "driver", "fake", "what the agent runs VMs with: fake or qemu")
	flag.BoolVar(&o.keep, "keep", false, "keep the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

type options struct {
	length        time.Duration
	seed          int64
	jobs, load    float64
	losesJobAfter time.Duration
	drain         time.Duration
	driver        string
	keep          bool
}

func run(ctx context.Context, o options) (err error) {
	if o.driver != "fake" && o.driver != "qemu" {
		return fmt.Errorf("-driver is fake or qemu, not %q", o.driver)
	}
	dir, err := os.MkdirTemp("", "mrchaos")
	if err != nil {
		return err
	}
	fmt.Printf("seed %d, faults for %v, driver %s\n", o.seed, o.length, o.driver)
	w, err := start(ctx, dir, o)
	defer func() {
		stopped := w.stop()
		interrupted := errors.Is(err, context.Canceled) && stopped == nil
		if err = errors.Join(err, stopped); o.keep || err != nil && !interrupted {
			fmt.Println("logs are in", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err != nil {
		return err
	}

	flow, stopFlow := context.WithCancel(ctx)
	flowing := make(chan struct{})
	go func() { defer close(flowing); w.flow(flow) }()
	w.torment(ctx)
	stopFlow()
	<-flowing
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return w.report(ctx)
}

// report waits until the books balance and prints the figures; its error names those that missed their goal.
func (w *world) report(ctx context.Context) error {
	fmt.Printf("the faults are over; %d jobs were queued\n", len(w.queued()))
	drained, open, err := w.balance(ctx)
	if err != nil {
		return err
	}
	books, err := w.readBooks(ctx)
	if err != nil {
		return err
	}
	var missed []string
	line := func(ok bool, name, format string, args ...any) {
		mark := ""
		if !ok {
			mark, missed = "  MISSED", append(missed, name)
		}
		fmt.Printf("%-46s %s%s\n", name, fmt.Sprintf(format, args...), mark)
	}
	f := &w.figures
	clean, blocked := f.serverKills()
	took := sim.QuantilesOf(clean)
	line(took.N > 0 && took.Max <= 2*time.Second, "server SIGKILL → ready again", "%s (goal max 2 s)", took)
	line(true, "  while Postgres was away", "%s", sim.QuantilesOf(blocked))
	line(len(f.postgresBack) >= w.wanted, "Postgres SIGKILL", "%d (goal %d)", len(f.postgresBack), w.wanted)
	line(true, "  → Postgres accepts connections", "%s", sim.QuantilesOf(f.postgresBack))
	line(true, "  → a server is ready", "%s", sim.QuantilesOf(f.servedAgain))
	line(true, "agent SIGKILL", "%d", len(f.agentKills))
	line(true, "SIGSTOP of servers, agent, Postgres", "%d, %d, %d", f.serverStops, f.agentStops, f.postgresStops)
	line(len(f.failures) == 0, "faults from which something did not come back", "%d (goal 0)%s", len(f.failures), sample(f.failures))
	own := w.ownExits()
	line(len(own) == 0, "processes that ended by themselves", "%d (goal 0)%s", len(own), sample(own))

	d := w.witness.count()
	line(true, "deliveries", "%d, tried %d times: %d acknowledged at the first try, %d later, %d never", d.all, d.tries, d.first, d.later, d.never)
	lost := books.lost()
	line(len(lost) == 0 && d.first > 0, "acknowledged and lost", "%d of %d (goal 0)%s", len(lost), d.first+d.later, sample(lost))
	line(true, "jobs of which a delivery was missed", "%d; of which `queued` was: %d, `completed`: %d", d.missedAny, d.missedQueued, d.missedCompleted)
	line(true, "jobs that deliveries alone did not complete", "%d: polls did", d.neverCompleted)

	line(true, "jobs", "%d: %d succeeded, %d failed, %d cancelled", len(books.standin), books.outcomes["success"], books.outcomes["failure"], books.outcomes["cancelled"])
	excuses := f.agentKills
	if w.o.driver == "qemu" {
		excuses = nil
	}
	unexplained := books.unexplained(excuses)
	line(len(unexplained) == 0, "failed for no reason", "%d (goal 0)%s", len(unexplained), sample(unexplained))
	line(true, "VMs", "%d, of which %d ran no job", len(books.vms), books.idle())
	line(len(open) == 0, "books balance", "after %s (limit %v)%s", round(drained), w.o.drain, sample(open))
	fmt.Printf("seed=%d jobs=%d server_kills=%d server_ready_max=%s postgres_kills=%d agent_kills=%d acknowledged=%d lost=%d drain=%s\n",
		w.o.seed, len(books.standin), len(clean)+len(blocked), round(took.Max), len(f.postgresBack), len(f.agentKills), d.first+d.later, len(lost), round(drained))
	if len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, "; "))
	}
	return nil
}
