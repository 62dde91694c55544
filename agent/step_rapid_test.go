package agent

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// world is a control plane and a host's machines that do what rapid draws, and the promises that the agent keeps
// whatever they do.
type world struct {
	t      *rapid.T
	state  State
	now    time.Time
	epochs int64

	orders   map[byte]client.VMOrder // what the control plane wants
	version  int64
	started  map[Ref]bool // machines that were ever started
	running  map[Ref]bool // machines whose end was not yet told
	hello    map[Ref]bool
	busy     map[Ref]bool
	exited   map[Ref]bool
	fetching map[Ref]bool
	jit      map[Ref]bool
	told     map[Ref]bool // configured
	withdraw map[Ref]bool // an answered sync lacked it
	ended    map[Ref]bool // an answered sync said that it is gone
	call     Effect       // in flight
	journal  map[Ref][]byte
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, now: noon, version: 1, orders: map[byte]client.VMOrder{},
		started: map[Ref]bool{}, running: map[Ref]bool{}, hello: map[Ref]bool{}, busy: map[Ref]bool{}, exited: map[Ref]bool{},
		fetching: map[Ref]bool{}, jit: map[Ref]bool{}, told: map[Ref]bool{}, withdraw: map[Ref]bool{}, ended: map[Ref]bool{},
		journal: map[Ref][]byte{},
		state:   State{Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 3000, MemoryMB: 2048}, MaxVMs: 2}},
	}
	w.step(Timer{})
	return w
}

// step steps twice with the same arguments, for purity, and checks every effect.
func (w *world) step(ev Event) {
	before := w.state
	before.VMs = map[millrace.VMID]VM{}
	for id, v := range w.state.VMs {
		v.Steps = slices.Clone(v.Steps)
		before.VMs[id] = v
	}
	next, effects := Step(w.state, ev, w.now)
	again, sameEffects := Step(w.state, ev, w.now)
	if d := cmp.Diff(next, again) + cmp.Diff(effects, sameEffects); d != "" {
		w.t.Fatalf("%#v: the same step gave two results: %s", ev, d)
	}
	if d := cmp.Diff(before.VMs, w.state.VMs); d != "" && len(before.VMs) > 0 {
		w.t.Fatalf("%#v changed the state in place: %s", ev, d)
	}
	w.state = next
	for _, e := range effects {
		w.check(e)
	}
	for ref := range w.started {
		v, known := next.VMs[ref.ID]
		if known && v.Order.Epoch > ref.Epoch {
			w.ended[ref] = true // given out anew: nobody asks for the old epoch's end any more
		}
		if !w.ended[ref] && (!known || v.Order.Epoch < ref.Epoch) {
			w.t.Fatalf("%#v: %v was forgotten, and its end never told", ev, ref)
		}
	}
	used := millrace.Room{}
	for _, v := range next.VMs {
		if v.live() {
			used = used.Plus(v.Order.Size().Room())
		}
	}
	if !next.Facts.Room().Holds(used) {
		w.t.Fatalf("%d VMs, %v, run on a host of %s", used.VMs, used, next.Facts.Bounds())
	}
	if wake := next.Wake(); !wake.IsZero() && !wake.After(w.now) {
		w.t.Fatalf("%#v: the agent would spin: it wants to wake at %v, and it is %v", ev, wake, w.now)
	}
	if next.Call.N == 0 && next.Wake().IsZero() && !next.Stopping {
		w.t.Fatalf("%#v: the agent fell silent for ever", ev)
	}
}

func (w *world) check(e Effect) {
	switch e := e.(type) {
	case Record:
		content, err := json.Marshal(e.VM)
		if err != nil || e.VM.JIT != "" || strings.Contains(string(content), "config") {
			w.t.Fatalf("the journal would have %s, %v", content, err)
		}
		w.journal[e.VM.ref()] = content
	case Forget:
		if w.running[e.Ref] {
			w.t.Fatalf("%v is forgotten while it runs", e.Ref)
		}
		delete(w.journal, e.Ref)
	case DismissVM:
		if v := w.entry(e.Ref); v.ExitedAt.IsZero() {
			w.t.Fatalf("a guest may end before its last word is recorded: %+v", v)
		}
	case SendStart:
		w.call = e
	case SendSync:
		w.call = e
		reported := map[Ref]bool{}
		for _, r := range e.Request.VMs {
			reported[Ref{r.ID, r.Epoch}] = true
			for _, s := range r.Steps {
				if s.AgeMS < 0 {
					w.t.Fatalf("a negative age: %+v", r)
				}
			}
		}
		for ref := range w.running {
			if !reported[ref] {
				w.t.Fatalf("%v runs and isn't reported", ref)
			}
		}
	case StartVM:
		if w.started[e.Ref] {
			w.t.Fatalf("%v was started twice", e.Ref)
		}
		for ref := range w.running {
			if ref.ID == e.ID {
				w.t.Fatalf("%v was started while %v runs", e.Ref, ref)
			}
		}
		if !w.entry(e.Ref).live() {
			w.t.Fatalf("%v was started and isn't in the journal", e.Ref)
		}
		w.started[e.Ref], w.running[e.Ref] = true, true
	case FetchJIT:
		if w.fetching[e.Ref] {
			w.t.Fatalf("%v: two registrations are asked for at once", e.Ref)
		}
		w.fetching[e.Ref] = true
	case ConfigureVM:
		if !w.hello[e.Ref] || !w.jit[e.Ref] || w.told[e.Ref] {
			w.t.Fatalf("%v was configured: hello %v, registration %v, before %v", e.Ref, w.hello[e.Ref], w.jit[e.Ref], w.told[e.Ref])
		}
		w.told[e.Ref] = true
	case KillVM:
		if !w.running[e.Ref] {
			w.t.Fatalf("%v was killed and doesn't run", e.Ref)
		}
		if w.busy[e.Ref] && !w.withdraw[e.Ref] && !w.exited[e.Ref] && !w.state.Stopping {
			w.t.Fatalf("%v was killed while busy and ordered: %s", e.Ref, e.Reason)
		}
	}
}

// entry is what the journal has of a VM.
func (w *world) entry(ref Ref) (v VM) {
	if err := json.Unmarshal(w.journal[ref], &v); err != nil {
		w.t.Fatalf("%v is not in the journal: %v", ref, err)
	}
	return v
}

// restart is the agent's sudden end, and the start of another with nothing but the journal. What it had asked for comes to
// nothing, and guests say again what they are.
func (w *world) restart() {
	var entries []VM
	for ref := range w.journal {
		entries = append(entries, w.entry(ref))
	}
	slices.SortFunc(entries, func(a, b VM) int { return bytes.Compare(a.Order.ID[:], b.Order.ID[:]) })
	w.state = Resume(w.state.Facts, entries, func(ref Ref) bool { return w.running[ref] }, w.now)
	w.call, w.fetching, w.jit, w.hello = nil, map[Ref]bool{}, map[Ref]bool{}, map[Ref]bool{}
	w.step(Timer{})
}

// answer answers the call in flight with what the control plane wants by now.
func (w *world) answer() {
	switch call := w.call.(type) {
	case SendStart:
		w.step(Started{Call: call.Call})
	case SendSync:
		for _, r := range call.Request.VMs {
			w.ended[Ref{r.ID, r.Epoch}] = r.State == millrace.VMGone
			for n, o := range w.orders {
				if o.ID != r.ID || o.Epoch != r.Epoch {
					continue
				}
				o.State = r.State
				w.orders[n] = o
				if r.State == millrace.VMGone {
					delete(w.orders, n)
					w.version++
				}
			}
		}
		res := client.SyncResponse{Version: w.version}
		wanted := map[Ref]bool{}
		for n := range byte(8) {
			if o, ok := w.orders[n]; ok {
				res.VMs = append(res.VMs, o)
				wanted[Ref{o.ID, o.Epoch}] = true
			}
		}
		for ref := range w.running {
			w.withdraw[ref] = w.withdraw[ref] || !wanted[ref]
		}
		w.call = nil
		w.step(Synced{Call: call.Call, Response: res})
	}
}

// pick draws one of refs, or skips the action.
func (w *world) pick(refs map[Ref]bool) Ref {
	var list []Ref
	for ref, ok := range refs {
		if ok {
			list = append(list, ref)
		}
	}
	if len(list) == 0 {
		w.t.Skip("none")
	}
	slices.SortFunc(list, func(a, b Ref) int { return int(a.ID[15])*1000 + int(a.Epoch) - int(b.ID[15])*1000 - int(b.Epoch) })
	return rapid.SampledFrom(list).Draw(w.t, "vm")
}

func (w *world) actions() map[string]func(*rapid.T) {
	guest := func(ev func(Ref) Event) func(*rapid.T) {
		return func(*rapid.T) { w.step(ev(w.pick(w.running))) }
	}
	return map[string]func(*rapid.T){
		"order": func(t *rapid.T) {
			n := rapid.ByteMax(7).Draw(t, "n")
			if _, ok := w.orders[n]; ok {
				t.Skip("ordered")
			}
			w.epochs++
			o := order(n + 1)
			o.Epoch = w.epochs // given out anew, if it was before
			o.MilliCPU = rapid.IntRange(1, 2000).Draw(t, "cpu")
			w.orders[n] = o
			w.version++
		},
		"withdraw": func(t *rapid.T) {
			n := rapid.ByteMax(7).Draw(t, "n")
			delete(w.orders, n)
			w.version++
		},
		"answer": func(*rapid.T) { w.answer() },
		"fail": func(t *rapid.T) {
			code := rapid.SampledFrom([]millrace.Code{"", millrace.Internal, millrace.Conflict, millrace.Unauthenticated}).Draw(t, "code")
			call := w.state.Call.N
			w.call = nil
			w.step(CallFailed{Call: call, Code: code, Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter")})
		},
		"late answer": func(*rapid.T) { w.step(Synced{Call: w.state.Call.N - 1}) },
		"hello": func(*rapid.T) {
			ref := w.pick(w.running)
			w.hello[ref] = true
			w.step(VMHello{Ref: ref, Configured: w.told[ref]})
		},
		"online": guest(func(r Ref) Event { return VMReached{r, millrace.VMOnline} }),
		"busy": func(*rapid.T) {
			ref := w.pick(w.running)
			w.busy[ref] = w.told[ref]
			if w.told[ref] {
				w.step(VMReached{ref, millrace.VMBusy})
			}
		},
		"lying guest": guest(func(r Ref) Event { return VMReached{r, millrace.VMGone} }),
		"usage": func(t *rapid.T) {
			w.step(VMUsage{w.pick(w.running), millrace.Metering{CPUMillis: rapid.Int64Range(-5, 1000).Draw(t, "cpu")}})
		},
		"exit": func(*rapid.T) {
			ref := w.pick(w.running)
			w.exited[ref] = true
			w.step(VMExit{Ref: ref})
		},
		"done": func(*rapid.T) {
			ref := w.pick(w.running)
			delete(w.running, ref)
			w.step(VMDone{Ref: ref})
		},
		"jit": func(*rapid.T) {
			ref := w.pick(w.fetching)
			delete(w.fetching, ref)
			w.jit[ref] = true
			w.step(JITReady{ref, "config"})
		},
		"no jit": func(t *rapid.T) {
			ref := w.pick(w.fetching)
			delete(w.fetching, ref)
			w.withdraw[ref] = true
			w.step(JITFailed{Ref: ref, Code: rapid.SampledFrom([]millrace.Code{millrace.Gone, millrace.Unavailable}).Draw(t, "code")})
		},
		"stale": func(t *rapid.T) {
			ref := w.pick(w.started)
			ref.Epoch--
			if w.started[ref] {
				t.Skip("not an older one")
			}
			before := w.state.VMs
			w.step(VMDone{Ref: ref})
			if d := cmp.Diff(before, w.state.VMs); d != "" {
				t.Fatalf("an older epoch's end changed something: %s", d)
			}
		},
		"restart": func(*rapid.T) { w.restart() },
		"restart after a death": func(*rapid.T) {
			delete(w.running, w.pick(w.running))
			w.restart()
		},
		"refuse": func(t *rapid.T) {
			w.step(Refusal{Why: rapid.SampledFrom([]string{"", "its disk is full"}).Draw(t, "why")})
		},
		"wait": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "wait")))
			w.step(Timer{})
		},
	}
}

// settle lets faults stop, machines do what they are told, and the control plane answer, until nothing changes.
func (w *world) settle() {
	for range 200 {
		w.now = w.now.Add(time.Second)
		w.step(Timer{})
		for ref := range w.running {
			if w.state.VMs[ref.ID].Killed {
				delete(w.running, ref)
				w.step(VMDone{Ref: ref})
			}
		}
		w.answer()
	}
}

func TestAgentWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(w.actions())

		w.settle()
		for _, v := range w.state.VMs {
			o, wanted := w.orders[v.Order.ID[15]-1]
			if !wanted || o.Epoch != v.Order.Epoch || !w.running[v.ref()] || !v.live() {
				t.Errorf("after all has settled there still is %+v", v)
			}
		}
		if len(w.state.VMs) != len(w.orders) {
			t.Errorf("%d are wanted, there are %d", len(w.orders), len(w.state.VMs))
		}
		w.step(Stop{})
		w.settle()
		if !w.state.Stopped() {
			t.Errorf("it doesn't stop: %+v", w.state)
		}
	})
}
