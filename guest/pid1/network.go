//go:build linux

package pid1

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

const nic = "eth0"

// network is what the one network card is set to.
type network struct {
	addresses []netip.Prefix
	gateways  []netip.Addr     // one for each family
	mac       net.HardwareAddr // of the gateways; nil: it is asked for
	resolvers []string
}

// userMode is QEMU's user-mode network: the same addresses for every guest, each on a network of its own
// (https://wiki.qemu.org/Documentation/Networking, "User Networking").
var userMode = network{
	addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")},
	gateways:  []netip.Addr{netip.MustParseAddr("10.0.2.2")},
	resolvers: []string{"10.0.2.3"},
}

// networkOf is the network that the host put on the kernel's command line, as package vm/network writes it; without one
// it is QEMU's.
//
//	millrace.address=198.18.0.7/31,fd00::7/127   each with its gateway in the address before it
//	millrace.gateway=02:00:00:00:00:01           whose address on the wire this is; a guest asks nobody
//	millrace.dns=192.0.2.1,192.0.2.2
func networkOf(commandLine string) (network, error) {
	var n network
	for _, arg := range strings.Fields(commandLine) {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "millrace.address":
			for _, s := range strings.Split(value, ",") {
				prefix, err := netip.ParsePrefix(s)
				if err != nil {
					return n, err
				}
				n.addresses = append(n.addresses, prefix)
				n.gateways = append(n.gateways, prefix.Addr().Prev())
			}
		case "millrace.gateway":
			mac, err := net.ParseMAC(value)
			if err != nil {
				return n, err
			}
			n.mac = mac
		case "millrace.dns":
			n.resolvers = strings.Split(value, ",")
		}
	}
	if n.addresses == nil {
		return userMode, nil
	}
	return n, nil
}

// configureNetwork brings up the loopback and the one network card.
func configureNetwork() error {
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	n, err := networkOf(string(commandLine))
	if err != nil {
		return fmt.Errorf("the network on the kernel's command line: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing up the loopback: %w", err)
	}
	if err := wait("the network card", func() bool { _, err := os.Stat("/sys/class/net/" + nic); return err == nil }); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return fmt.Errorf("setting up %s: %w", nic, err)
	}
	return os.WriteFile("/etc/resolv.conf", []byte("nameserver "+strings.Join(n.resolvers, "\nnameserver ")+"\n"), 0o644)
}

func (n network) configure() error {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	at := link.Attrs().Index
	for _, a := range n.addresses {
		// Nobody else can have the address: it is of use at once.
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}, Flags: noDAD}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, g := range n.gateways {
		if n.mac != nil {
			known := &netlink.Neigh{LinkIndex: at, State: netlink.NUD_PERMANENT, IP: g.AsSlice(), HardwareAddr: n.mac}
			if err := netlink.NeighSet(known); err != nil {
				return fmt.Errorf("neighbour %s: %w", g, err)
			}
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: at, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("route through %s: %w", g, err)
		}
	}
	return nil
}

const noDAD = 0x02 // IFA_F_NODAD of linux/if_addr.h
