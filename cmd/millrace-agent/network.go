package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/spf13/pflag"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm/network"
)

// networks are what a host's owner says of VMs' networks.
type networks struct {
	kind   string // auto, tap or user
	egress string
	config network.Config
}

func (n *networks) flags(f *pflag.FlagSet) {
	f.StringVar(&n.kind, "network", "auto", "what VMs' networks are: tap (closed but for the internet; needs root), user (QEMU's: open to this host's), or auto")
	f.Func("allow", "a service of yours for VMs, ADDRESS:PORT, such as a registry mirror on this host; may be repeated", func(s string) error {
		service, err := netip.ParseAddrPort(s)
		n.config.Services = append(n.config.Services, service)
		return err
	})
	f.Func("close", "a network for VMs not to reach besides the private ones, such as 203.0.113.0/24; may be repeated", func(s string) error {
		closed, err := netip.ParsePrefix(s)
		n.config.Closed = append(n.config.Closed, closed)
		return err
	})
	f.Func("resolver", "a DNS server for VMs, open to them wherever it is; may be repeated (default: this host's, where VMs may reach them, else public ones)", func(s string) error {
		resolver, err := netip.ParseAddr(s)
		n.config.Resolvers = append(n.config.Resolvers, resolver)
		return err
	})
	f.TextVar(&n.config.Pool, "vm-addresses", netip.MustParsePrefix("198.18.0.0/16"), "the IPv4 addresses of VMs' networks, two for each; they don't leave this host")
	f.StringVar(&n.egress, "egress", string(millrace.EgressInternet), "what VMs may reach at the most: internet, or none but what --allow and --resolver open; needs taps")
	f.IntVar(&n.config.ConnectionRate, "connection-rate", 100, "connections that a VM may open in a second")
	f.IntVar(&n.config.Connections, "connections", 16<<10, "connections that a VM may have at a time")
}

func (n *networks) check() error {
	n.config.Egress = millrace.Egress(n.egress)
	switch {
	case !slices.Contains([]string{"auto", "tap", "user"}, n.kind):
		return fmt.Errorf("--network is auto, tap or user, not %q", n.kind)
	case !slices.Contains(millrace.Egresses, n.config.Egress):
		return fmt.Errorf("--egress is internet or none, not %q", n.egress)
	case n.config.Egress == millrace.EgressNone && n.kind == "user":
		return errors.New("--egress none takes taps: user-mode networks are open to what this host reaches")
	}
	return nil
}

// open makes VMs' networks, nil: QEMU's user mode.
func (n *networks) open(log *slog.Logger) (*network.Network, error) {
	if n.kind == "user" {
		return nil, nil
	}
	n.config.Log = log
	opened, err := network.Open(n.config)
	switch {
	case err == nil:
		log.Info("Each VM has a tap, from which it reaches the internet and what is allowed.", "allowed", n.config.Services)
	case n.kind == "tap" || n.config.Egress == millrace.EgressNone: // rather none than open ones
		return nil, fmt.Errorf("VMs' networks: %w", err)
	default:
		log.Warn("VMs have QEMU's user-mode network: they reach what this host reaches, its own services included.", "because", err)
		return nil, nil
	}
	rivals, err := network.Rivals()
	if err != nil {
		return nil, err
	}
	if len(rivals) > 0 {
		log.Warn("Rules of others drop what VMs send to the internet, unless they accept what comes from and goes to mr-*.", "chains", rivals)
	}
	return opened, nil
}
