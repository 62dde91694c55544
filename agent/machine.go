package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
)

const (
	drainWithin   = 2 * time.Second  // for what a machine said before it ended
	uploadsWithin = 60 * time.Second // for the rest of its console to arrive
)

// machine is the loop's hold on a machine.
type machine struct {
	kill   context.CancelFunc
	config chan guest.Config // has room for the one there will be
}

// machine runs one VM from its start until nothing is left of it, and tells the loop what becomes of it: VMDone last.
func (r *runner) machine(ctx context.Context, ref Ref, spec vm.Spec, config <-chan guest.Config) {
	m, err := r.Driver.Start(ctx, spec)
	if err != nil {
		r.tell(VMDone{Ref: ref, Reason: "The host could not start the VM: " + err.Error()})
		return
	}
	channel := m.Channel()
	host := guest.NewHost(channel)
	printed := newConsole()
	uploads, giveUp := context.WithCancel(r.base)
	r.work.Go(func() {
		defer giveUp()
		printed.upload(uploads, func(ctx context.Context, offset int64, chunk []byte) error {
			return r.Server.AppendConsole(ctx, ref.ID, offset, chunk)
		})
	})
	r.work.Go(func() {
		select {
		case c := <-config:
			if err := host.Configure(c); err != nil {
				r.tell(VMExit{Ref: ref, Reason: "The VM could not be told its registration: " + err.Error()})
			}
		case <-m.Done():
		}
	})
	said := make(chan struct{})
	go func() { defer close(said); r.listen(ref, host, printed) }()

	<-m.Done()
	select {
	case <-said:
	case <-time.After(drainWithin):
	}
	_ = channel.Close()
	<-said
	printed.close()
	time.AfterFunc(uploadsWithin, giveUp)
	reason := ""
	if err := m.Err(); err != nil {
		reason = "The VM ended: " + err.Error()
	}
	r.tell(VMDone{Ref: ref, Reason: reason})
}

// listen tells the loop what a guest says, until it says nothing more.
func (r *runner) listen(ref Ref, host *guest.Host, printed *console) {
	for {
		ev, err := host.Next()
		switch {
		case errors.Is(err, io.EOF):
			r.tell(VMExit{Ref: ref, Reason: "The VM fell silent."})
			return
		case err != nil:
			r.tell(VMExit{Ref: ref, Reason: "The VM cannot be understood: " + err.Error()})
			return
		case ev.Hello != nil:
			r.Log.Info("A VM's kernel runs.", "vm", ref.ID, "kernel", ev.Hello.Kernel, "boot_id", ev.Hello.BootID)
			r.tell(VMHello{Ref: ref})
		case ev.State != "":
			r.tell(VMReached{Ref: ref, State: ev.State})
		case ev.Usage != nil:
			r.tell(VMUsage{Ref: ref, Usage: *ev.Usage})
		case ev.Exit != nil:
			exit := VMExit{Ref: ref, Reason: ev.Exit.Reason}
			if ev.Exit.Code >= 0 { // negative: there was no runner to end
				exit.Code = &ev.Exit.Code
			}
			r.tell(exit)
		default:
			printed.add(ev.Console)
		}
	}
}
