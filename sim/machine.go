package sim

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// machine is a VM on a host, with what is inside.
type machine struct {
	host     *host
	ref      agent.Ref
	memory   int
	milliCPU int
	runner   int64 // GitHub's; 0 until it was configured
	online   bool
	busy     int64 // the job that it runs
	crashed  bool  // the runner died with its job, and GitHub has yet to notice
	dead     bool

	// What it has to say to whichever agent there is.
	hello  bool
	states []millrace.VMState
	usage  millrace.Metering
	exit   *agent.VMExit
}

// later plans something of this machine, whatever becomes of its agent.
func (m *machine) later(d time.Duration, do func()) {
	m.host.sim.after(d, func() {
		if !m.dead {
			do()
		}
	})
}

// say says something to the agent, if there is one.
func (m *machine) say(event agent.Event) {
	if m.host.up {
		m.host.step(event)
	}
}

// reach says that the runner is online or busy.
func (m *machine) reach(state millrace.VMState) {
	m.states = append(m.states, state)
	m.say(agent.VMReached{Ref: m.ref, State: state})
}

// exits says the machine's last word. It powers off when the agent has kept that, or after a while.
func (m *machine) exits(code int, reason string) {
	m.exit = &agent.VMExit{Ref: m.ref, Code: &code, Reason: reason}
	m.later(10*time.Minute, func() { m.end("") })
	m.say(*m.exit)
}

// resume says everything to an agent that has found the machine.
func (m *machine) resume() {
	if m.dead || !m.hello {
		return
	}
	m.say(agent.VMHello{Ref: m.ref, Configured: m.runner != 0})
	for _, state := range m.states {
		m.say(agent.VMReached{Ref: m.ref, State: state})
	}
	m.say(agent.VMUsage{Ref: m.ref, Usage: m.usage})
	if m.exit != nil {
		m.say(*m.exit)
	}
}

// die is the machine's end, whoever brings it about.
func (m *machine) die() {
	m.dead = true
	if m.busy > 0 {
		m.host.sim.report.DiedBusy++
	}
}

// end is the machine's own end.
func (m *machine) end(reason string) {
	if m.dead {
		return
	}
	m.die()
	delete(m.host.machines, m.ref)
	m.say(agent.VMDone{Ref: m.ref, Reason: reason})
}

// configure starts the runner, which connects to GitHub.
func (h *host) configure(m *machine, jit millrace.Secret) {
	s := h.sim
	if m == nil || m.dead {
		return
	}
	var config githubtest.JITConfig
	plain, err := base64.StdEncoding.DecodeString(jit.Reveal())
	if err == nil {
		err = json.Unmarshal(plain, &config)
	}
	if err != nil {
		s.violated("jit", "a registration can't be read: %v", err)
		return
	}
	if m.runner != 0 { // it knows who it is
		return
	}
	m.runner = config.RunnerID
	s.load.machines[m.runner] = m
	m.later(h.pace(time.Duration(s.logNormal(0.7, 0.4)*float64(time.Second))), m.connect)
}

func (m *machine) connect() {
	s := m.host.sim
	if err := s.github.Connect(m.runner); err != nil {
		code := 1
		if !errors.Is(err, githubtest.ErrGone) {
			code = 7
		}
		m.exits(code, err.Error())
		return
	}
	if s.chance(s.cfg.Faults.QuitsIdle) {
		m.exits(0, "")
		return
	}
	m.online = true
	m.reach(millrace.VMOnline)
	m.listen()
}

// listen is the runner's poll: GitHub hears it every 25 s.
func (m *machine) listen() {
	m.later(25*time.Second, func() {
		if m.hear() {
			m.listen()
		}
	})
}

// hear is what the runner hears of GitHub; false when that ends it.
func (m *machine) hear() bool {
	if m.dead || m.exit != nil {
		return false
	}
	err := m.host.sim.github.Alive(m.runner)
	switch {
	case errors.Is(err, githubtest.ErrCancelled) && m.busy > 0:
		m.finish("cancelled")
	case err != nil && m.busy == 0:
		m.exits(1, err.Error())
	default:
		return true
	}
	return false
}

// assigned hears from GitHub that a runner was given a job.
func (s *Sim) assigned(runner, job int64) {
	s.after(s.between(50*time.Millisecond, 1500*time.Millisecond), func() {
		if m := s.load.machines[runner]; m != nil && !m.dead && m.exit == nil && m.online && m.busy == 0 {
			m.pickUp()
		}
	})
}

func (m *machine) pickUp() {
	s := m.host.sim
	job, ok := s.github.PickUp(m.runner)
	if !ok {
		m.crashed = true
		return
	}
	m.busy = job.ID
	s.load.started(job.ID, m)
	m.reach(millrace.VMBusy)
	m.later(s.load.duration(job.ID), func() {
		if m.busy == job.ID {
			m.finish(s.load.conclusion(job.ID))
		}
	})
}

func (m *machine) finish(conclusion string) {
	s := m.host.sim
	s.github.Finish(m.runner, conclusion)
	m.busy = -1 // done
	m.usage = millrace.Metering{CPUMillis: 1000, PeakMemory: 1 << 28}
	m.say(agent.VMUsage{Ref: m.ref, Usage: m.usage})
	m.exits(0, "")
}
