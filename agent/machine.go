package agent

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
)

const (
	drainWithin   = 2 * time.Second  // for what a machine said before it ended
	flushWithin   = 5 * time.Second  // for a guest's console to arrive before it may power off
	uploadsWithin = 60 * time.Second // for the rest of its console to arrive
)

// machine is the loop's hold on a machine.
type machine struct {
	kill    context.CancelFunc
	config  chan guest.Config // has room for the one there will be
	dismiss chan struct{}     // has room for one
	printed *console
}

// manage runs one VM in the background until nothing is left of it, and tells the loop what becomes of it: VMDone last. Of
// what it printed, the server has the bytes before console. When this process ends, the machine runs on.
func (r *runner) manage(ref Ref, console int64, start func(context.Context) (vm.Machine, error)) {
	ctx, kill := context.WithCancel(context.WithoutCancel(r.base))
	hold := &machine{kill: kill, config: make(chan guest.Config, 1), dismiss: make(chan struct{}, 1), printed: newConsole(console)}
	r.vms[ref] = hold
	r.work.Go(func() {
		defer kill()
		m, err := start(ctx)
		if err != nil {
			r.tell(VMDone{Ref: ref, Reason: "The host could not start the VM: " + err.Error()})
			return
		}
		defer context.AfterFunc(ctx, m.Kill)()
		r.attend(ref, m, hold, console)
	})
}

// attend is the host of a machine, whose console goes on at byte from.
func (r *runner) attend(ref Ref, m vm.Machine, hold *machine, from int64) {
	printed, used := hold.printed, newMeter()
	channel := m.Channel()
	host := guest.NewHost(channel)
	uploads, giveUp := context.WithCancel(r.base)
	uploaded := make(chan struct{})
	r.work.Go(func() {
		defer close(uploaded)
		printed.upload(uploads, func(ctx context.Context, offset int64, chunk []byte) error {
			err := r.Server.AppendConsole(ctx, ref.ID, offset, chunk)
			if err == nil {
				r.tell(VMPrinted{Ref: ref, Console: offset + int64(len(chunk))})
			}
			return err
		})
	})
	r.work.Go(func() {
		defer giveUp()
		defer func() { <-uploaded }()
		used.upload(uploads, func(ctx context.Context, samples millrace.Series) error {
			return r.Server.AppendSamples(ctx, ref.ID, client.SamplesRequest{Epoch: ref.Epoch, Samples: samples})
		})
	})
	said := make(chan struct{})
	go func() {
		defer close(said)
		if err := host.Resume(from); err != nil {
			r.tell(VMExit{Ref: ref, Reason: "The VM cannot be spoken with: " + err.Error()})
			return
		}
		r.listen(ref, m, host, printed, used)
	}()
	r.work.Go(func() { r.speak(ref, m, hold, host, uploaded) })

	select {
	case <-m.Done():
	case <-r.base.Done():
		_ = channel.Close()
		<-said
		return
	}
	select {
	case <-said:
	case <-time.After(drainWithin):
	}
	_ = channel.Close()
	<-said
	printed.close()
	used.close()
	time.AfterFunc(uploadsWithin, giveUp)
	reason := ""
	if err := m.Err(); err != nil {
		reason = "The VM ended: " + err.Error()
	}
	r.tell(VMDone{Ref: ref, Reason: reason})
}

// silence tells the loop that a guest can't be heard any more, unless its machine has an end of its own to tell of.
func (r *runner) silence(ref Ref, m vm.Machine, err error) {
	select {
	case <-m.Done():
		if m.Err() != nil {
			return
		}
	case <-time.After(drainWithin):
	case <-r.base.Done(): // it is we who left
		return
	}
	reason := "The VM cannot be understood: " + err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		reason = "The VM fell silent."
	}
	r.tell(VMExit{Ref: ref, Reason: reason})
}

// speak tells a guest what the loop has for it, until its machine or this process ends.
func (r *runner) speak(ref Ref, m vm.Machine, hold *machine, host *guest.Host, uploaded <-chan struct{}) {
	for {
		select {
		case c := <-hold.config:
			if err := host.Configure(c); err != nil {
				r.tell(VMExit{Ref: ref, Reason: "The VM could not be told its registration: " + err.Error()})
			}
		case <-hold.dismiss:
			select { // what it printed can be had again only while it lives
			case <-uploaded:
			case <-time.After(flushWithin):
			case <-m.Done():
			case <-r.base.Done():
				return
			}
			_ = host.Heard() // one that isn't there any more needs no leave
		case <-m.Done():
			return
		case <-r.base.Done():
			return
		}
	}
}

// listen tells the loop what a guest says, until it says nothing more. A hostile one says anything for ever: it fills no log.
func (r *runner) listen(ref Ref, m vm.Machine, host *guest.Host, printed *console, used *meter) {
	greeted := false
	for {
		ev, err := host.Next()
		switch {
		case err != nil:
			r.silence(ref, m, err)
			return
		case ev.Hello != nil:
			if !greeted {
				greeted = true
				r.Log.Info("A VM's kernel runs.", "vm", ref.ID, "kernel", cut(ev.Hello.Kernel, maxHello), "boot_id", cut(ev.Hello.BootID, maxHello))
			}
			r.tell(VMHello{Ref: ref, Configured: ev.Hello.Configured})
		case ev.State != "":
			r.tell(VMReached{Ref: ref, State: ev.State})
		case ev.Usage != nil:
			used.read(*ev.Usage)
			r.tell(VMUsage{Ref: ref, Usage: ev.Usage.Metering})
		case ev.Exit != nil:
			printed.close() // its last word
			used.close()
			exit := VMExit{Ref: ref, Reason: ev.Exit.Reason}
			if ev.Exit.Code >= 0 { // negative: there was no runner to end
				exit.Code = &ev.Exit.Code
			}
			r.tell(exit)
		default:
			printed.add(ev.Offset, ev.Console)
		}
	}
}
