// Command simulate runs simulated days, see package sim, and prints what they came to. It ends with a line for each seed
// and fails at the first thing that did not hold; the same seed shows it again.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"

	"github.com/millrace-ci/millrace/sim"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func run() error {
	seed := flag.Uint64("seed", 0, "run this seed alone; 0: as many as -seeds says")
	seeds := flag.Int("seeds", 10, "how many seeds to run, from 1 on")
	jobs := flag.Int("jobs", 0, "about how many jobs a day has (default 2,100)")
	days := flag.Int("parallel", max(1, runtime.NumCPU()/2), "how many days are run at a time")
	trace := flag.Int("trace", 0, "print this many of the last lines of the trace of a day that failed")
	verbose := flag.Bool("v", false, "print what the servers log")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
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
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	cluster, err := sim.NewCluster(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Stop() }()
	key, err := rsa.GenerateKey(rand.Reader, 2048) // no part of a day: what is signed with it is only verified
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var (
		all    sim.Report
		mu     sync.Mutex
		wg     sync.WaitGroup
		failed error
		queue  = make(chan uint64)
	)
	for range *days {
		wg.Go(func() {
			for n := range queue {
				report, err := day(ctx, cluster, sim.Config{Seed: n, Jobs: *jobs, Faults: sim.WorstDay(), Skew: true, Key: key, Log: log})
				mu.Lock()
				fmt.Printf("%s\n%s", report.Line(), report)
				if err != nil {
					fmt.Printf("  FAILED: %s\n  again: SEED=%d make sim, at commit %s\n", err, n, commit(ctx))
					for _, l := range report.Lines[max(0, len(report.Lines)-*trace):] {
						fmt.Print("  ", l)
					}
					failed = errors.Join(failed, fmt.Errorf("seed %d: %w", n, err))
					cancel()
				}
				all.Add(report)
				mu.Unlock()
			}
		})
	}
	for n := first; n <= last && ctx.Err() == nil; n++ {
		select {
		case queue <- n:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
	if failed != nil {
		return failed
	}
	if first != last {
		fmt.Printf("all %d seeds\n%s", last-first+1, all)
	}
	return all.Goals()
}

func day(ctx context.Context, cluster *sim.Cluster, cfg sim.Config) (report sim.Report, err error) {
	db, drop, err := cluster.New(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	cfg.Database = db
	return sim.Run(ctx, cfg)
}

// commit is what was built, as far as git can tell.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(context.WithoutCancel(ctx), "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
