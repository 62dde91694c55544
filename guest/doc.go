// Package guest is the inside of a VM as its host sees it: the channel between the two, one byte stream whichever
// monitor carries it (virtio-serial, vsock), and the programs that the host puts into the VM. PID 1 itself is package
// pid1; a test runner that stands in for GitHub's is package testrunner.
//
//	guest                                   host
//	  │ Hello: its kernel runs        ────▶  │
//	  │  ◀────  Config: who it is, and the runner's registration
//	  │ online, busy: from what its runner prints
//	  │ Console, Usage: now and then  ────▶  │
//	  │ Exit: the runner ended        ────▶  │   then it powers off
package guest
