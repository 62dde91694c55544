// Package guest is the inside of a VM as its host sees it: the channel between the two, one byte stream whichever
// monitor carries it (virtio-serial, vsock), and the programs that the host puts into the VM. PID 1 itself is package
// pid1; a test runner that stands in for GitHub's is package testrunner.
//
//	guest                                   host
//	  │  ◀────  Resume: a host listens, and has so much of the console
//	  │ Hello: its kernel runs        ────▶  │
//	  │  ◀────  Config: who it is, and the runner's registration
//	  │ online, busy: from what its runner prints
//	  │ Console, Usage: now and then  ────▶  │
//	  │ Exit: the runner ended        ────▶  │
//	  │  ◀────  Heard: that is kept   then it powers off
//
// A host's process may die at any moment and another take its place. What it had read is lost then, and bytes that were on
// their way are lost, or come to the next one out of their context. So each begins with Resume, and the guest says anew all
// that it has to say: its words are levels, but for the console, of which it keeps the last and says from where each piece is.
package guest
