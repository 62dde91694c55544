package sim

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// host is a machine with its agent: the production Step, with effects that take simulated time. Its clock is its own.
type host struct {
	sim   *Sim
	org   *org
	name  string
	id    millrace.HostID
	facts millrace.HostFacts
	sign  ed25519.PrivateKey
	seal  *ecdh.PrivateKey
	skew  time.Duration

	life     int // raised when the agent dies
	up       bool
	journal  map[agent.Ref][]byte // outlives agents, as do machines
	state    agent.State
	server   *client.Agent
	epoch    int64
	wakeAt   time.Time
	cutOff   time.Time // no message passes before
	slow     time.Time // everything takes ten times as long before
	machines map[agent.Ref]*machine
}

func (s *Sim) addHost(setup *store.Store, o *org, n int) error {
	h := &host{sim: s, org: o, name: fmt.Sprintf("%s-rack-%d", o.login, n), machines: map[agent.Ref]*machine{}, journal: map[agent.Ref][]byte{}}
	seed := make([]byte, 32)
	_, _ = seeded{s.rand}.Read(seed) // never fails
	h.sign = ed25519.NewKeyFromSeed(seed)
	var err error
	if h.seal, err = ecdh.X25519().NewPrivateKey(seed); err != nil {
		return err
	}
	h.facts = millrace.HostFacts{
		Arch: millrace.AMD64, VCPUs: 64, MemoryMB: 262144, DiskMB: 1_000_000, Offer: millrace.Size{MilliCPU: 64_000, MemoryMB: 250_000},
		Labels: []string{}, Network: millrace.NetworkTap, Driver: "sim", Version: "sim", Kernel: "6.1", CPUModel: "sim",
	}
	if n%2 == 1 {
		h.facts.Arch, h.facts.MaxVMs = millrace.ARM64, 20
	}
	if skew := s.within(48*time.Hour) - 24*time.Hour; s.cfg.Skew { // drawn in any case: a day is the same with and without
		h.skew = skew
	}
	_, secret, err := setup.Org(o.ID).CreateEnrollmentToken(s.ctx, millrace.Actor{Kind: millrace.ActorSystem}, store.NewEnrollmentToken{})
	if err != nil {
		return err
	}
	enrolled, _, err := setup.EnrollHost(s.ctx, millrace.Actor{}, store.Enrollment{Secret: secret.Reveal(), Name: h.name, SignKey: h.sign.Public().(ed25519.PublicKey), SealKey: h.seal.PublicKey().Bytes(), Facts: h.facts})
	if err != nil {
		return err
	}
	h.id = enrolled.ID
	s.hosts = append(s.hosts, h)
	s.byHost[h.id] = h
	s.after(s.within(5*time.Second), h.start)
	return nil
}

// start starts the agent's process: it knows who it is, and finds its journal and its machines.
func (h *host) start() {
	h.up, h.cutOff = true, latest(h.cutOff, h.sim.now)
	var entries []agent.VM
	for ref := range sortedRefs(h.journal) {
		var v agent.VM
		h.sim.must(json.Unmarshal(h.journal[ref], &v))
		entries = append(entries, v)
	}
	h.state = agent.Resume(h.facts, entries, func(ref agent.Ref) bool { return h.machines[ref] != nil }, h.clock())
	for ref := range sortedRefs(h.machines) {
		if _, known := h.state.VMs[ref.ID]; !known {
			h.sim.violated("I7", "host %s has machine %s, which is not in its agent's journal", h.name, ref.ID)
		}
		m := h.machines[ref]
		h.later(h.sim.between(time.Millisecond, 100*time.Millisecond), m.resume)
	}
	h.server = &client.Agent{URL: "http://millrace.sim", Host: h.id, Key: h.sign, HTTP: &http.Client{Transport: toServer{h}}, Now: h.clock}
	h.epoch, h.wakeAt = 0, time.Time{}
	h.step(agent.Timer{})
}

// clock is the host's own.
func (h *host) clock() time.Time { return h.sim.now.Add(h.skew) }

// kill ends the agent's process. Its machines go on, and another process comes after it.
func (h *host) kill(back time.Duration) {
	if !h.up {
		return
	}
	s := h.sim
	s.report.AgentKills++
	s.faults.last = latest(s.faults.last, s.now.Add(back))
	h.up = false
	h.life++
	s.after(back, h.start)
}

// crash takes the host's power: its machines end, too.
func (h *host) crash(back time.Duration) {
	if !h.up {
		return
	}
	s := h.sim
	s.report.HostCrashes++
	s.faults.last = latest(s.faults.last, s.now.Add(back))
	h.up = false
	h.life++
	for _, m := range h.machines {
		m.die()
	}
	h.machines = map[agent.Ref]*machine{}
	s.after(back, h.start)
}

// later plans something of this life of the agent.
func (h *host) later(d time.Duration, do func()) {
	life := h.life
	h.sim.after(d, func() {
		if h.life == life && h.up {
			do()
		}
	})
}

// pace is how long something takes on this host that takes d on a good one.
func (h *host) pace(d time.Duration) time.Duration {
	if h.sim.now.Before(h.slow) {
		return 10 * d
	}
	return d
}

func (h *host) step(event agent.Event) {
	var effects []agent.Effect
	h.state, effects = agent.Step(h.state, event, h.clock())
	for _, e := range effects {
		h.do(e)
	}
	wake := h.state.Wake()
	if wake.IsZero() || !h.wakeAt.IsZero() && h.wakeAt.After(h.clock()) && !wake.Before(h.wakeAt) {
		return
	}
	h.wakeAt = wake
	h.later(max(time.Millisecond, wake.Sub(h.clock())), func() {
		if h.wakeAt.Equal(wake) {
			h.wakeAt = time.Time{}
			h.step(agent.Timer{})
		}
	})
}

// fail tells the agent that a call came to nothing.
func (h *host) fail(call int, after time.Duration) {
	h.later(after, func() { h.step(agent.CallFailed{Call: call, Jitter: h.sim.rand.Float64()}) })
}

// timeout is how long an agent waits for an answer that does not come.
const timeout = 15 * time.Second

// lost reports whether a message between the host and the control plane gets lost now.
func (h *host) lost() bool {
	return h.sim.now.Before(h.cutOff) || h.sim.chance(h.sim.cfg.Faults.LoseMessage)
}

func (h *host) do(e agent.Effect) {
	s := h.sim
	switch e := e.(type) {
	case agent.Record:
		entry, err := json.Marshal(e.VM)
		s.must(err)
		h.journal[agent.Ref{ID: e.VM.Order.ID, Epoch: e.VM.Order.Epoch}] = entry
	case agent.Forget:
		delete(h.journal, e.Ref)
	case agent.DismissVM:
		if m := h.machines[e.Ref]; m != nil {
			m.later(s.between(50*time.Millisecond, 500*time.Millisecond), func() { m.end("") })
		}
	case agent.SendStart:
		h.call(func() (agent.Event, error) {
			out, err := h.server.Start(s.ctx, client.StartRequest{Facts: e.Facts})
			if err == nil {
				h.epoch = out.Epoch
			}
			return agent.Started{Call: e.Call}, err
		}, func(code millrace.Code, _ string) agent.Event {
			return agent.CallFailed{Call: e.Call, Code: code, Jitter: s.rand.Float64()}
		})
	case agent.SendSync:
		h.sync(e)
	case agent.FetchJIT:
		h.call(func() (agent.Event, error) {
			answer, err := h.server.JIT(s.ctx, e.ID, e.Epoch)
			if err != nil {
				return nil, err
			}
			plain, err := client.Open(h.seal, client.SealedFor{Host: h.id, VM: e.ID, Epoch: e.Epoch}, answer.Sealed)
			if err != nil {
				s.violated("seal", "a registration is not sealed for its host and VM: %v", err)
			}
			return agent.JITReady{Ref: e.Ref, JIT: millrace.Secret(plain)}, nil
		}, func(code millrace.Code, message string) agent.Event {
			return agent.JITFailed{Ref: e.Ref, Code: code, Message: message, Jitter: s.rand.Float64()}
		})
	case agent.StartVM:
		h.boot(e)
	case agent.ConfigureVM:
		h.configure(h.machines[e.Ref], e.JIT)
	case agent.KillVM:
		m := h.machines[e.Ref]
		if m == nil || m.dead {
			return
		}
		s.checkKill(m, e.Reason)
		m.die()
		delete(h.machines, e.Ref)
		h.later(s.between(10*time.Millisecond, 100*time.Millisecond), func() { h.step(agent.VMDone(e)) })
	}
}

// call makes a call: either way of it takes time, and either may be lost.
func (h *host) call(do func() (agent.Event, error), failed func(millrace.Code, string) agent.Event) {
	s := h.sim
	silence := func() { h.later(timeout, func() { h.step(failed("", "The control plane could not be reached.")) }) }
	if h.lost() {
		silence()
		return
	}
	h.later(s.network(), func() {
		event, err := do()
		if h.lost() { // the answer
			silence()
			return
		}
		if err != nil {
			event = failed("", "The control plane could not be reached.")
			if client.IsAnswer(err) {
				event = failed(millrace.CodeOf(err), millrace.MessageOf(err))
			}
		}
		h.later(s.network(), func() { h.step(event) })
	})
}

func (h *host) sync(e agent.SendSync) {
	s := h.sim
	if h.lost() {
		h.fail(e.Call, timeout)
		return
	}
	epoch := h.epoch
	s.after(s.network(), func() { // on its way it outlives the agent
		srv := s.anyServer()
		if srv == nil {
			h.fail(e.Call, s.network())
			return
		}
		var err error
		life := h.life
		alive := srv.do(func() {
			err = srv.sync(&poll{host: h, call: e.Call, have: e.Request.Have, reply: func(out client.SyncResponse) {
				if h.life != life || h.lost() {
					return // the agent's own time-out ends the call
				}
				h.later(s.network(), func() { h.step(agent.Synced{Call: e.Call, Response: out}) })
			}}, epoch, e.Request)
		})
		switch {
		case !alive:
			h.fail(e.Call, s.network())
		case err != nil:
			s.tolerate(err)
			if h.life == life {
				h.later(s.network(), func() {
					h.step(agent.CallFailed{Call: e.Call, Code: millrace.CodeOf(err), Jitter: s.rand.Float64()})
				})
			}
		default:
			s.mirror.read(s)
			if now := s.mirror.epochs[h.id]; epoch != now {
				s.violated("I5", "host %s: a message of epoch %d was taken in epoch %d", h.name, epoch, now)
			}
		}
	})
	h.later(millrace.LongestSync+5*time.Second, func() { // its answer may be lost
		if h.state.Call.N == e.Call {
			h.step(agent.CallFailed{Call: e.Call, Jitter: s.rand.Float64()})
		}
	})
}

// boot starts a machine. Some never come up.
func (h *host) boot(e agent.StartVM) {
	s := h.sim
	m := &machine{host: h, ref: e.Ref, memory: e.Spec.MemoryMB, milliCPU: 1000 * e.Spec.VCPUs}
	h.machines[e.Ref] = m
	s.checkRoom(h)
	took := h.pace(time.Duration(s.logNormal(1.2, 0.3) * float64(time.Second)))
	switch {
	case s.chance(s.cfg.Faults.BootFails):
		m.later(took, func() { m.end("The host could not start the VM: no space left on device") })
	case s.chance(s.cfg.Faults.BootHangs):
	default:
		m.later(took, func() {
			m.hello = true
			m.say(agent.VMHello{Ref: m.ref})
		})
	}
}
