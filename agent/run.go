package agent

import (
	"context"
	"crypto/ecdh"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
)

const (
	examineWithin = 5 * time.Second  // a host that is silent for longer than it takes to start anew is offline
	stopWithin    = 10 * time.Second // for the machines to end
	farewellAfter = 2 * time.Second  // for the server to hear of it
)

// Server is the control plane as the agent needs it: *[client.Agent].
type Server interface {
	Start(ctx context.Context, in client.StartRequest) (client.StartResponse, error)
	Sync(ctx context.Context, in client.SyncRequest) (client.SyncResponse, error)
	JIT(ctx context.Context, vm millrace.VMID, epoch int64) (client.JITResponse, error)
	AppendConsole(ctx context.Context, vm millrace.VMID, offset int64, data []byte) error
	AppendLog(ctx context.Context, offset int64, data []byte) error
	AppendSamples(ctx context.Context, vm millrace.VMID, in client.SamplesRequest) error
}

// Config is what an agent runs with.
type Config struct {
	Server Server
	Host   millrace.HostID
	// SealKeys are those that registrations may be sealed to, the present one first.
	SealKeys []*ecdh.PrivateKey
	// KeysUnsure says that the control plane may know new keys of this host, whose answer got lost: if it refuses the present
	// ones, the agent ends to start anew with them.
	KeysUnsure bool
	Driver     vm.Driver
	Dir        string // where the journal is; locked by the caller, see [Lock]
	Disk       string // a directory on the disk that VMs live on; "" is Dir
	Facts      millrace.HostFacts
	Log        *slog.Logger
	// Own gets what goes to Log, and is sent to the control plane; nil makes one.
	Own *OwnLog
	// EndVMs has the agent kill its VMs at its end, and tell the server. Otherwise they run on, for the next one to adopt.
	EndVMs bool
	// Examine finds out what there is to say of this host when the agent starts, after Driver was prepared; nil: nothing.
	Examine func(context.Context) []millrace.Finding
}

// Run is the agent until ctx ends, or it ends by itself: then it returns why, an [End]. First it takes over what an earlier
// process left, and it returns an error when that can't be known; a host that can't start VMs says so to the server.
func Run(ctx context.Context, c Config) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx: the end is told too
	defer cancel()
	r := &runner{
		Config: c,
		base:   base,
		events: make(chan Event),
		vms:    map[Ref]*machine{},
		cut:    func() {},
		logged: make(chan struct{}),
	}
	if r.Own == nil {
		r.Own = NewOwnLog()
	}
	r.Log = r.Own.with(c.Log)
	if err := r.adopt(ctx); err != nil {
		return err
	}
	r.loop(ctx)
	r.Own.console.close()                         // its last word
	if r.state.Started && r.state.Failures == 0 { // else nobody hears it now
		select {
		case <-r.logged:
		case <-time.After(farewellAfter):
		}
	}
	cancel()
	if err := r.wait(stopWithin); err != nil {
		return err
	}
	if end := r.state.Ended(); end != "" {
		return end
	}
	return nil
}

// adopt finds what an earlier process left, and what there is to say of this host.
func (r *runner) adopt(ctx context.Context) error {
	var err error
	if r.journal, err = openJournal(r.Dir); err != nil {
		return err
	}
	entries, err := r.journal.read(r.Log)
	if err != nil {
		return err
	}
	var ids []string
	for _, v := range entries {
		if v.live() {
			ids = append(ids, v.ref().machine())
		}
	}
	adopted, err := r.Driver.Adopt(ctx, ids)
	if err != nil {
		return err
	}
	refuses := r.refuses(ctx)
	if r.Examine != nil {
		within, cancel := context.WithTimeout(ctx, examineWithin)
		r.Facts.Findings = r.Examine(within)
		cancel()
	}
	r.Facts.Driver, r.Facts.BootMS = r.Driver.Name(), int(r.Driver.Boot().Took.Milliseconds()) // it may have probed
	r.state = Resume(r.Facts, entries, func(ref Ref) bool { return adopted[ref.machine()] != nil }, time.Now())
	r.state.Refuses, r.state.Reboots, r.state.Unsure = refuses, r.Facts.Reboots, r.KeysUnsure
	for _, v := range r.state.VMs {
		if v.live() {
			m := adopted[v.ref().machine()]
			r.Log.Info("A VM is adopted.", "vm", v.Order.ID, "epoch", v.Order.Epoch, "state", v.State)
			r.manage(v.ref(), v.Console, func(context.Context) (vm.Machine, error) { return m, nil })
		}
	}
	return ctx.Err()
}

// runner is the edge around Step. Its fields belong to the loop's goroutine but for base, events and work.
type runner struct {
	Config
	base   context.Context
	events chan Event
	work   sync.WaitGroup
	logged chan struct{} // closed when all of it has arrived, or never will

	sendLog sync.Once
	state   State
	journal journal
	vms     map[Ref]*machine
	cut     context.CancelFunc // of the call in flight
}

// loop steps until the agent has stopped.
func (r *runner) loop(ctx context.Context) {
	r.work.Go(r.watchHealth)
	r.step(Timer{})
	stop := ctx.Done()
	var giveUp, farewell <-chan time.Time
	for !r.state.Stopped() {
		if end := r.state.Ended(); end != "" && (stop == nil || !r.EndVMs || end == EndRemoved) {
			r.Log.Info("The agent ends.", "because", end.Error())
			return
		} else if end != "" {
			stop, giveUp = nil, time.After(stopWithin)
			r.step(Stop{})
		}
		if giveUp != nil && farewell == nil && r.state.Live() == 0 {
			farewell = time.After(farewellAfter)
		}
		select {
		case ev := <-r.events:
			r.step(ev)
		case <-r.timer():
			r.step(Timer{})
		case <-stop:
			if !r.EndVMs {
				r.Log.Info("The agent ends, and its VMs run on.", "machines", r.state.Live())
				return
			}
			stop, giveUp = nil, time.After(stopWithin)
			r.step(Stop{})
		case <-giveUp:
			r.Log.Warn("Machines did not end in time.", "machines", r.state.Live())
			return
		case <-farewell:
			return
		}
	}
}

// timer fires when Step wants to be called. A timer that is no longer waited for is collected.
func (r *runner) timer() <-chan time.Time {
	at := r.state.Wake()
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// wait waits for all goroutines; their context has ended.
func (r *runner) wait(limit time.Duration) error {
	done := make(chan struct{})
	go func() { r.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		return errors.New("agent: a machine or a call did not end in time")
	}
}

// tell gives ev to the loop, unless that has ended.
func (r *runner) tell(ev Event) {
	select {
	case r.events <- ev:
	case <-r.base.Done():
	}
}

func (r *runner) step(ev Event) {
	r.note(ev)
	var effects []Effect
	r.state, effects = Step(r.state, ev, time.Now())
	for _, e := range effects {
		r.do(e)
	}
}

// do does e in the background.
func (r *runner) do(e Effect) {
	switch e := e.(type) {
	case Record:
		if err := r.journal.write(e.VM); err != nil {
			r.Log.Error("A VM can't be noted in the journal.", "vm", e.VM.Order.ID, "error", err)
		}
	case Forget:
		if err := r.journal.remove(e.Ref); err != nil {
			r.Log.Error("A VM can't be removed from the journal.", "vm", e.ID, "error", err)
		}
	case SendStart:
		r.call(e.Call, func(ctx context.Context) (Event, error) {
			_, err := r.Server.Start(ctx, client.StartRequest{Facts: e.Facts, BootID: bootID()})
			return Started{Call: e.Call}, err
		})
	case SendSync:
		r.call(e.Call, func(ctx context.Context) (Event, error) {
			answer, err := r.Server.Sync(ctx, e.Request)
			return Synced{Call: e.Call, Response: answer}, err
		})
	case FetchJIT:
		r.work.Go(func() { r.tell(r.fetchJIT(e.Ref)) })
	case StartVM:
		r.Log.Info("A VM is started.", "vm", e.ID, "epoch", e.Epoch, "vcpus", e.Spec.VCPUs, "memory_mb", e.Spec.MemoryMB)
		r.manage(e.Ref, 0, func(ctx context.Context) (vm.Machine, error) {
			if !r.journal.has(e.Ref) { // a later process would not know it
				return nil, errors.New("it can't be noted in the agent's journal")
			}
			return r.Driver.Start(ctx, e.Spec)
		})
	case ConfigureVM:
		r.vms[e.Ref].config <- guest.Config{Hostname: e.Hostname, JIT: e.JIT.Reveal(), Now: time.Now()}
	case WatchVM:
		r.vms[e.Ref].printed.watch(e.Watched)
	case DismissVM:
		select {
		case r.vms[e.Ref].dismiss <- struct{}{}:
		default: // it is being told
		}
	case KillVM:
		r.Log.Info("A VM is killed.", "vm", e.ID, "epoch", e.Epoch, "reason", e.Reason)
		r.vms[e.Ref].kill()
	}
}

// call makes a call and cuts the one before it short.
func (r *runner) call(n int, do func(context.Context) (Event, error)) {
	r.cut()
	ctx, cut := context.WithCancel(r.base)
	r.cut = cut
	r.work.Go(func() {
		defer cut()
		ev, err := do(ctx)
		switch {
		case err == nil:
			r.tell(ev)
		case ctx.Err() == nil:
			r.Log.Warn("The control plane did not answer as hoped.", "error", err)
			failed := CallFailed{Call: n, Jitter: rand.Float64()}
			if client.IsAnswer(err) {
				failed.Code = millrace.CodeOf(err)
			}
			r.tell(failed)
		}
	})
}

// fetchJIT asks for a VM's registration and opens it.
func (r *runner) fetchJIT(ref Ref) Event {
	answer, err := r.Server.JIT(r.base, ref.ID, ref.Epoch)
	if err != nil {
		failed := JITFailed{Ref: ref, Message: "The control plane could not be reached.", Jitter: rand.Float64()}
		if client.IsAnswer(err) {
			failed.Code, failed.Message = millrace.CodeOf(err), millrace.MessageOf(err)
		}
		r.Log.Warn("A VM has no registration yet.", "vm", ref.ID, "error", err)
		return failed
	}
	var plain []byte
	for _, key := range r.SealKeys {
		if plain, err = client.Open(key, client.SealedFor{Host: r.Host, VM: ref.ID, Epoch: ref.Epoch}, answer.Sealed); err == nil {
			break
		}
	}
	if err != nil {
		r.Log.Error("A VM's registration is not sealed for this host.", "vm", ref.ID, "error", err)
		return JITFailed{Ref: ref, Code: millrace.Unprocessable, Message: "It is not sealed for this host and VM."}
	}
	return JITReady{Ref: ref, JIT: millrace.Secret(plain)}
}

// note keeps the log and the list of machines.
func (r *runner) note(ev Event) {
	switch ev := ev.(type) {
	case Started:
		r.sendLog.Do(func() {
			r.work.Go(func() {
				defer close(r.logged)
				r.Own.upload(r.base, r.Server)
			})
		})
		r.Log.Info("The control plane knows this agent.", "offer", r.Facts.Offer, "driver", r.Facts.Driver)
	case VMReached:
		if r.state.VMs[ev.ID].comesTo(ev.State) { // guests say it again
			r.Log.Info("A VM's runner is "+string(ev.State)+".", "vm", ev.ID)
		}
	case VMExit:
		if ev.Code != nil && r.state.VMs[ev.ID].ExitedAt.IsZero() {
			r.Log.Info("A VM's runner has ended.", "vm", ev.ID, "exit_code", *ev.Code)
		}
	case VMDone:
		r.Log.Info("A VM is gone.", "vm", ev.ID, "epoch", ev.Epoch, "reason", ev.Reason)
		delete(r.vms, ev.Ref)
	}
}
