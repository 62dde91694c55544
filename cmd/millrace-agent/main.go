// Command millrace-agent makes a machine a host and runs its VMs, see package agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
)

func main() { os.Exit(start()) }

// exitConfig is EX_CONFIG of sysexits(3): to start again helps nothing, and the systemd unit doesn't.
const exitConfig = 78

// start runs the command line and returns the exit code.
func start() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(os.Stdin, os.Getenv).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "millrace-agent:", err)
		return exitCode(err)
	}
	return 0
}

// exitCode is that of a command that ended with err.
func exitCode(err error) int {
	switch {
	case errors.Is(err, agent.EndRestart), errors.Is(err, agent.EndRotate):
		return 0
	case errors.Is(err, agent.EndRemoved), millrace.CodeOf(err) == millrace.NotFound: // the machine is not enrolled, or not any more
		return exitConfig
	}
	return 1
}

// options are the flags that commands share.
type options struct {
	dir    string
	github []string
	name   string
	offer  agent.Offer
	stdin  io.Reader
	getenv func(string) string
}

func command(stdin io.Reader, getenv func(string) string) *cobra.Command {
	o := &options{stdin: stdin, getenv: getenv}
	root := &cobra.Command{
		Use:           "millrace-agent",
		Short:         "Run Millrace's microVMs on this machine",
		Version:       agent.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&o.dir, "dir", defaultDir(getenv), "where identity, disks and sockets are kept")
	root.AddCommand(o.enroll(), o.run(), o.launch(), o.stopVMs(), o.doctor())
	return root
}

// defaultDir is root's or a person's own.
func defaultDir(getenv func(string) string) string {
	if dir := getenv("MILLRACE_AGENT_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/millrace-agent"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "millrace-agent"
	}
	return filepath.Join(home, ".local", "state", "millrace-agent")
}

// offerFlags adds what a host's owner may say of the offer.
func (o *options) offerFlags(cmd *cobra.Command) {
	cmd.Flags().Float64Var(&o.offer.CPUOvercommit, "cpu-overcommit", 1, "vCPUs to offer for each one there is")
	cmd.Flags().Func("memory-reserve", "memory to keep for the host, such as 4gb; a number alone is MB, and 0 leaves it to the agent: 512 MB, 64 MB for each VM and a 256th of all", func(s string) (err error) {
		var ok bool
		if o.offer.MemoryReserveMB, ok = millrace.ParseMemory(s); !ok {
			if o.offer.MemoryReserveMB, err = strconv.Atoi(s); err != nil {
				return errors.New("it is memory such as 4gb, 512mb or, in MB, 4096")
			}
		}
		return nil
	})
	cmd.Flags().IntVar(&o.offer.MaxVMs, "max-vms", 0, "VMs to run at once; 0 is as many as fit")
	cmd.Flags().Func("emulate", "an architecture that isn't this machine's, amd64 or arm64, to run VMs of by emulation: jobs take many times longer", func(arch string) error {
		o.offer.Emulates = append(o.offer.Emulates, millrace.Arch(arch))
		return nil
	})
	cmd.Flags().StringSliceVar(&o.offer.Labels, "label", nil, "extra labels that jobs may ask for")
}
