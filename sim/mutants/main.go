// Command mutants shows that the simulator catches bugs: each of a list is put into the production code of a build of its
// own, and the scenario that is meant to catch it must fail. A scenario that holds nevertheless fails the command; so does
// one that doesn't hold without a bug.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	only := flag.String("only", "", "only bugs that have this in them")
	parallel := flag.Int("parallel", runtime.NumCPU(), "how many builds are tried at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, *parallel)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, parallel int) error {
	dir, err := os.MkdirTemp("", "mrmutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	var (
		mu               sync.Mutex
		failed           error
		caught, survived int
		wg               sync.WaitGroup
		slots            = make(chan struct{}, parallel)
	)
	try := func(name string, do func() (report string, err error)) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			report, err := do()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
			}
			fmt.Println(report)
		})
	}
	var used []string
	for i, m := range mutants {
		if !strings.Contains(m.bug, only) {
			continue
		}
		if !slices.Contains(used, m.scenario) {
			used = append(used, m.scenario)
		}
		try(m.bug, func() (string, error) {
			binary := filepath.Join(dir, fmt.Sprintf("mutant%d", i))
			if err := build(ctx, m, binary, "-o", binary, "./sim/simulate"); err != nil {
				return "broken    " + m.bug, err
			}
			defer os.Remove(binary)
			why, err := holds(ctx, binary, m.scenario)
			if err != nil {
				return "", err
			}
			mu.Lock()
			defer mu.Unlock()
			if why == "" {
				survived++
				return "SURVIVED  " + m.bug, fmt.Errorf("%q holds nevertheless", m.scenario)
			}
			caught++
			return fmt.Sprintf("caught    %s\n            %s", m.bug, why), nil
		})
	}
	wg.Wait()
	binary := filepath.Join(dir, "right")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./sim/simulate").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	for _, scenario := range used {
		try(scenario, func() (string, error) {
			why, err := holds(ctx, binary, scenario)
			if err == nil && why != "" {
				err = fmt.Errorf("does not hold without a bug: %s", why)
			}
			return "holds     without a bug: " + scenario, err
		})
	}
	wg.Wait()
	fmt.Printf("%d bugs, %d caught, %d survived, in %s\n", caught+survived, caught, survived, time.Since(began).Round(time.Second))
	return errors.Join(failed, ctx.Err())
}

// mutate is the file's content with the bug in it.
func (m mutant) mutate() ([]byte, error) {
	content, err := os.ReadFile(m.file)
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(content, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%s has %q %d times, and not once", m.file, m.old, n)
	}
	return bytes.Replace(content, []byte(m.old), []byte(m.new), 1), nil
}

// build runs go build with the bug in it; the tree stays as it is. What it needs beside goes to files that begin with path.
func build(ctx context.Context, m mutant, path string, args ...string) error {
	content, err := m.mutate()
	if err != nil {
		return err
	}
	file, err := filepath.Abs(m.file)
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: path + ".go"}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(path+".go", content, 0o600), os.WriteFile(path+".json", overlay, 0o600)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", append([]string{"build", "-overlay", path + ".json"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// holds runs the scenario; why is what did not hold, "" when all did.
func holds(ctx context.Context, binary, scenario string) (why string, err error) {
	cmd := exec.CommandContext(ctx, binary, "-scenario", scenario)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has a Postgres to stop
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		return "", errors.Join(ctx.Err(), err)
	}
	said := strings.TrimSpace(stderr.String())
	if err != nil && said == "" {
		return "", fmt.Errorf("it said nothing: %w", err)
	}
	if err == nil {
		return "", nil
	}
	line, _, _ := strings.Cut(said, "\n")
	return strings.TrimPrefix(line, "simulate: "), nil
}
