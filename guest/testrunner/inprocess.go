package testrunner

import (
	"context"
	"io"

	"github.com/millrace-ci/millrace/guest"
)

// InProcess is the inside of a fake machine: a guest without a kernel, whose runner is this package's. What steps do is
// shell's; one that runs nothing is safe anywhere.
func InProcess(ctx context.Context, conn io.ReadWriter, shell Shell) error {
	g := guest.NewGuest(conn)
	if err := g.Say(guest.Event{Hello: &guest.Hello{Kernel: "none", BootID: "none"}}); err != nil {
		return err
	}
	config, err := g.Config()
	if err != nil {
		return err
	}
	code := Run(ctx, config.JIT, guest.NewConsole(g), shell)
	return g.Say(guest.Event{Exit: &guest.Exit{Code: code}})
}
