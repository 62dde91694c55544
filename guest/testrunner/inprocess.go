package testrunner

import (
	"context"
	"io"
	"net/http"

	"github.com/millrace-ci/millrace/guest"
)

// InProcess is the inside of a fake machine: a guest without a kernel, whose runner is this package's. What steps do is
// shell's; one that runs nothing is safe anywhere.
func InProcess(ctx context.Context, conn io.ReadWriter, shell Shell) error {
	return inProcess(ctx, conn, newRunner(shell))
}

// Terse is InProcess with a runner that takes its job and tells GitHub how it ended, but neither its log nor its steps, and does
// not look whether it was cancelled: where many of them share the processors of what is measured, they are to take little. It
// calls GitHub by c.
func Terse(ctx context.Context, conn io.ReadWriter, c *http.Client, shell Shell) error {
	r := newRunner(shell)
	r.client, r.terse = c, true
	return inProcess(ctx, conn, r)
}

func inProcess(ctx context.Context, conn io.ReadWriter, r *runner) error {
	g := guest.NewGuest(conn)
	if err := g.Say(guest.Event{Hello: &guest.Hello{Kernel: "none", BootID: "none"}}); err != nil {
		return err
	}
	config, err := g.Config()
	if err != nil {
		return err
	}
	code := r.main(ctx, config.JIT, guest.NewConsole(g))
	return g.Say(guest.Event{Exit: &guest.Exit{Code: code}})
}
