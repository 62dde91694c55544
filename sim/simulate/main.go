// Command simulate runs simulated days, see package sim, and prints what they came to: a line for each seed, and what did
// not hold, with the seed that shows it again. Days are run in processes of their own, one for each core: a day is one
// thread that talks to its own Postgres, and is twice as fast when both stay on one core.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/millrace-ci/millrace/sim"
)

var (
	seed     = flag.Uint64("seed", 0, "run this seed alone; 0: as many as -seeds says, from 1 on")
	scenario = flag.String("scenario", "", "run the scenarios whose name begins so, or all of them, and not days")
	off      = flag.String("off", "", "with -scenario: the net that is away, by its task, such as repositories.poll")
	seeds    = flag.Int("seeds", 10, "how many seeds to run")
	jobs     = flag.Int("jobs", 0, "about how many jobs a day has (default 2,100)")
	length   = flag.Duration("day", 0, "how long a day is (default 24h)")
	parallel = flag.Int("parallel", runtime.NumCPU(), "how many days are run at a time")
	skew     = flag.Bool("skew", true, "hosts' clocks are wrong by up to a day: the day is the same either way")
	tail     = flag.Int("tail", 20, "how many of the last lines of the trace of a day that failed are printed")
	trace    = flag.String("trace", "", "with -seed: write the trace to this file")
	verbose  = flag.Bool("v", false, "with -seed: print what the servers log")
	asJSON   = flag.Bool("json", false, "with -seed: print the report as JSON")
	profile  = flag.String("cpuprofile", "", "with -seed: write a CPU profile to this file")
)

func main() {
	flag.Parse()
	debug.SetGCPercent(400) // a day needs little memory, and its core is Postgres's too
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := all
	switch {
	case *scenario != "":
		run = scenarios
	case *seed != 0:
		run = one
	}
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

// one runs a day in this process.
func one(ctx context.Context) error {
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	report, err := day(ctx)
	if err != nil && report.Failed == "" {
		return err
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	show(ctx, report)
	if report.Failed != "" {
		return errors.New(report.Failed)
	}
	return report.Goals()
}

func day(ctx context.Context) (report sim.Report, err error) {
	cluster, err := sim.NewCluster(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	db, _, err := cluster.New(ctx)
	if err != nil {
		return report, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048) // no part of a day: what is signed with it is only verified
	if err != nil {
		return report, err
	}
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	cfg := sim.Config{Seed: *seed, Database: db, Jobs: *jobs, Day: *length, Faults: sim.WorstDay(), Skew: *skew, Key: key, Log: log}
	if *trace != "" {
		f, err := os.Create(*trace)
		if err != nil {
			return report, err
		}
		defer f.Close()
		buffered := bufio.NewWriter(f)
		defer func() { err = errors.Join(err, buffered.Flush()) }()
		cfg.Trace = buffered
	}
	return sim.Run(ctx, cfg)
}

// scenarios runs short days with one thing wrong.
func scenarios(ctx context.Context) (failed error) {
	cluster, err := sim.NewCluster(ctx)
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, cluster.Stop()) }()
	for _, sc := range sim.Scenarios() {
		if !strings.HasPrefix(sc.Name, strings.TrimSuffix(*scenario, "all")) {
			continue
		}
		db, drop, err := cluster.New(ctx)
		if err != nil {
			return err
		}
		report, err := sc.Run(ctx, max(1, *seed), db, *off)
		fmt.Printf("%s\n", sc.Name)
		show(ctx, report)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", sc.Name, err))
		}
		failed = errors.Join(failed, drop())
	}
	return failed
}

// all runs many days, and adds them up.
func all(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		sum    sim.Report
		mu     sync.Mutex
		wg     sync.WaitGroup
		failed error
		next   uint64
	)
	for core := range *parallel {
		wg.Go(func() {
			for {
				mu.Lock()
				next++
				n := next
				mu.Unlock()
				if n > uint64(*seeds) || ctx.Err() != nil {
					return
				}
				report, err := child(ctx, n, core)
				mu.Lock()
				if err == nil {
					show(ctx, report)
					sum.Add(report)
					if report.Failed != "" {
						err = errors.New(report.Failed)
					}
				}
				if err != nil && ctx.Err() == nil {
					failed = fmt.Errorf("seed %d: %w", n, err)
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		return failed
	}
	fmt.Printf("all %d seeds\n%s", *seeds, sum)
	return sum.Goals()
}

// child runs a day in a process on one core, as far as the machine lets us choose.
func child(ctx context.Context, n uint64, core int) (report sim.Report, err error) {
	self, err := os.Executable()
	if err != nil {
		return report, err
	}
	args := []string{self, "-seed", strconv.FormatUint(n, 10), "-jobs", strconv.Itoa(*jobs), "-day", length.String(), "-json"}
	if taskset, err := exec.LookPath("taskset"); err == nil && core < runtime.NumCPU() {
		args = append([]string{taskset, "-c", strconv.Itoa(core)}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has a Postgres to stop
	out, err := cmd.Output()
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(out, &report)
}

func show(ctx context.Context, report sim.Report) {
	fmt.Printf("%s\n%s", report.Line(), report)
	if report.Failed == "" {
		return
	}
	fmt.Printf("  FAILED: %s\n  again: SEED=%d make sim, at commit %s\n", report.Failed, report.Seed, commit(ctx))
	for _, l := range report.Lines[max(0, len(report.Lines)-*tail):] {
		fmt.Print("  ", l)
	}
}

// commit is what was built, as far as git can tell.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(context.WithoutCancel(ctx), "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
