package network

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// guard puts the rules back at once when somebody takes them down: "flush ruleset" is the first line of many a host's
// /etc/nftables.conf, and would leave running guests without bounds.
func (n *Network) guard() error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watching the rules of nftables: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		conn.Close()
		return fmt.Errorf("watching the rules of nftables: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			messages, err := conn.Receive()
			switch {
			case errors.Is(err, unix.ENOBUFS): // more happened than could be told
				n.repair()
			case err != nil:
				return
			}
			for _, m := range messages {
				if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE {
					n.repair()
				}
			}
		}
	}()
	n.quit = func() {
		conn.Close()
		<-done
	}
	return nil
}

// repair puts up what isn't there.
func (n *Network) repair() {
	n.mu.Lock()
	defer n.mu.Unlock()
	tables, err := new(nftables.Conn).ListTables()
	if err != nil {
		n.cfg.Log.Error("The rules of VMs' networks cannot be read.", "error", err)
		return
	}
	there := 0
	for _, t := range tables {
		if t.Name == table && (t.Family == all.Family || t.Family == taps.Family) {
			there++
		}
	}
	if there == 2 {
		return
	}
	err = n.install()
	for _, l := range n.links {
		// A tap may just have gone with its VM.
		if linkErr := addChain(l); linkErr != nil && !errors.Is(linkErr, unix.ENOENT) {
			err = errors.Join(err, linkErr)
		}
	}
	if err != nil {
		n.cfg.Log.Error("Somebody removed the rules of VMs' networks, and they cannot be put back.", "error", err)
		return
	}
	n.cfg.Log.Warn("Somebody removed the rules of VMs' networks; they are back.")
}
