// Package agent is the program on a customer's host. It keeps the host's VMs as the control plane wants them and tells
// it what became of them. It dials out, knows the control plane only through package client, and holds no credentials
// but the host's two keys.
//
//	orders ─ sync ─▶ Step ─ StartVM, FetchJIT ─▶ driver, server
//	                  ▲  └─ ConfigureVM ─▶ guest, once its kernel runs and its registration is there
//	reports ◀─ sync ──┴─ hello, online, busy, usage, exit, done ◀─ guest, driver
//
// What is decided is decided by [Step], a pure function of state, event and time. [Run] is its edge: one goroutine
// that steps, others that only wait for a guest, a disk or the network. Both lists that cross the wire, orders and
// reports, are levels: any of them may be lost, repeated or cut short, and the next one says everything again.
//
// The host's owner has the last word: what exceeds the offer made on this machine is refused, whoever orders it, and so is
// everything while the disk is nearly full or the driver doesn't work. An agent that can't reach the control plane leaves
// its VMs alone.
//
// What has the privileges that VMs need may be another process: then Driver is vm/launcher's.
//
// VMs outlive the agent's process. What a later one must know of them is in a journal, which is written before what it
// tells of is done: a VM's machine is started, or a guest that ended is let go, only then. What a guest can say again is
// not in it.
package agent
