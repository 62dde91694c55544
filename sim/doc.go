// Package sim proves the whole: tests and benchmarks of real processes, and a simulator.
//
// The tests of real processes know the product by its outside contract (ready file, pages, REST API, the stand-in's
// control interface) wherever that suffices.
//
// The simulator runs a day of a fleet in a minute: orgs, hosts, jobs of realistic shape, and every fault that GitHub, a
// network and machines are known for. One loop of one thread owns time; one source of randomness decides everything; so a
// seed is a day, and the same day again whenever it is asked for. What decides is the production code: the store on a
// real Postgres, the placer's and the agents' Step, the workers' tasks, the API's handlers, the GitHub adapter. Swapped
// are the clock, the network between the parts, GitHub (the stand-in, called in-process) and what is inside a VM.
//
//	sim.go      the loop, the clock, one day from start to end
//	load.go     what people push, cancel and run again
//	fault.go    what goes wrong
//	scenario.go a short day with one thing wrong, for each failure mode seen in the wild
//	server.go   a control plane: a process that can die between any two of its steps
//	network.go  what passes between GitHub, servers and hosts
//	host.go     a host with its agent, and its machines
//	mirror.go   what the database says, change by change: the trace
//	invariant.go  what must hold after every step
//	report.go   what a day came to
//	database.go a Postgres with a database for each day
//
// Real processes that are killed at work are sim/chaos; figures of speed are sim/bench.
package sim
