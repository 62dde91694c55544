package main

import (
	"bytes"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/network/networktest"
)

// An agent that may have taps has them; one that may not says why and does without, unless it was told not to.
func TestNetworks(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	var printed bytes.Buffer
	log := slog.New(slog.NewTextHandler(&printed, nil))
	open := func(kind string) (*network.Network, error) {
		printed.Reset()
		n := networks{kind: kind}
		return n.open(log)
	}
	first, err := open("auto")
	if err != nil || first == nil {
		t.Fatalf("%v, %v", first, err)
	}
	if second, err := open("auto"); err != nil || second != nil || !strings.Contains(printed.String(), "another agent") {
		t.Errorf("a second agent: %v, %v\n%s", second, err, &printed)
	}
	if second, err := open("tap"); err == nil || second != nil {
		t.Errorf("a second agent that must have taps: %v, %v", second, err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if none, err := open("user"); err != nil || none != nil || printed.Len() > 0 {
		t.Errorf("user mode: %v, %v\n%s", none, err, &printed)
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // capabilities are a thread's; it isn't used again
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
			return
		}
		if n, err := open("auto"); err != nil || n != nil || !strings.Contains(printed.String(), "CAP_NET_ADMIN") {
			t.Errorf("without privileges: %v, %v\n%s", n, err, &printed)
		}
	}()
	<-done
}
