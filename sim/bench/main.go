// Command bench measures the figures of docs/figures.md in one run and fails when one misses its goal. It starts what it
// measures: Postgres with fsync on, `millraced serve` and `millrace-agent run` as processes of their own, and the
// stand-in GitHub within itself. Everything shares this machine's processors. With -fleet it measures many hosts alone, whose
// agents are within itself, too.
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
)

func main() {
	only := flag.Bool("placement", false, "measure placement alone, for which nothing is started")
	many := flag.Bool("fleet", false, "measure many hosts alone")
	o := fleetOptions{signals: []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}}
	flag.BoolFunc("no-restarts", "leave out what a fleet does after the server's end", func(string) error {
		o.signals = nil
		return nil
	})
	flag.IntVar(&o.hosts, "hosts", 2000, "of a fleet")
	flag.DurationVar(&o.length, "for", time.Minute, "how long a fleet is idle, and then at work")
	flag.Float64Var(&o.rate, "rate", 100, "jobs per second of a fleet at work")
	flag.StringVar(&o.profile, "profile", "", "a folder for CPU profiles of a fleet's server and of this program, and for Postgres's statements")
	flag.StringVar(&o.disks, "disks", "/dev/shm", "a folder for a fleet's hosts: in memory, as one disk would stand for all of theirs")
	flag.Parse()
	exit(measure(*only, *many, o))
}

func measure(only, many bool, o fleetOptions) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Whoever reads the figures may end before us, as head does: printing fails then, and what was started is ended. Unless somebody
	// asks for this signal it ends the process at once; and it ends no context, as it comes of each connection whose other end died, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	switch {
	case only:
		return report(placement())
	case many:
		figures, err := measureFleet(ctx, o)
		if err != nil {
			return err
		}
		return summary(figures)
	default:
		return run(ctx)
	}
}

// exit ends the process, with an error if there is one.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// figure is one result: its name, its value in words, and whether it reached its goal ("" when it has none).
type figure struct {
	name, value, goal string
	missed            bool
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "mrbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := start(ctx, dir, setup{
		programs: []string{"millraced", "millrace-agent"},
		tenants:  []tenant{{"bench", []string{"bench"}}, {"real", []string{"real"}}}, // of the bench's own host, and of the real agent's
	})
	if err != nil {
		return err
	}
	var figures []figure
	for _, measure := range []func(context.Context, *world) ([]figure, error){acks, orders, memory} {
		list, err := measure(ctx, w)
		if err != nil {
			return errors.Join(err, w.stop())
		}
		figures = append(figures, list...)
	}
	if err := w.stop(); err != nil {
		return err
	}
	boots, err := boots(ctx) // alone on the machine
	if err != nil {
		return err
	}
	figures = append(figures, boots...)
	figures = append(figures, placement()...)
	return report(figures)
}

func (f figure) print() error {
	goal := ""
	if f.goal != "" {
		goal = "  (goal " + f.goal + ")"
	}
	if f.missed {
		goal += "  MISSED"
	}
	_, err := fmt.Printf("%-62s %s%s\n", f.name, f.value, goal)
	return err
}

func report(figures []figure) error {
	for _, f := range figures {
		if err := f.print(); err != nil {
			return err
		}
	}
	return summary(figures)
}

// summary prints the figures in one line. Its error names those that missed their goal.
func summary(figures []figure) error {
	var values, missed []string
	for _, f := range figures {
		if f.missed {
			missed = append(missed, f.name)
		}
		values = append(values, f.name+"="+strings.ReplaceAll(f.value, " ", ""))
	}
	fmt.Println(strings.ReplaceAll(strings.Join(values, ", "), "→", "to"))
	if len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, ", "))
	}
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
