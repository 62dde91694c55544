package network

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-ci/millrace"
)

var (
	defaultPool  = netip.MustParsePrefix("198.18.0.0/16")
	defaultPool6 = netip.MustParsePrefix("fdc8:3f1e:6d72::/64")
)

// special is what isn't the internet: what IANA's registries of special-purpose addresses
// (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry) don't call globally
// reachable, but for documentation's addresses, which lead nowhere; ways around that (6to4, Teredo, and NAT64, which is
// outside 2000::/3, carry IPv4 addresses within); and metadata services of clouds elsewhere.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32",             // Azure's (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16)
	"::/3", "4000::/2", "8000::/1", // all but global unicast, 2000::/3 (RFC 4291)
	"2001::/23", "2002::/16",
)

func prefixes(list ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, s := range list {
		all[i] = netip.MustParsePrefix(s)
	}
	return all
}

// gatewayMAC is every tap's own address: a guest has one neighbour.
var gatewayMAC = net.HardwareAddr{0x02, 'm', 'r', 0, 0, 1}

// prefix begins the names of our taps, and closedPrefix those of VMs that are kept from the internet: so the kernel knows it, and
// an agent that finds the tap.
const prefix, closedPrefix = "mr-", "mr-n"

// identity is what follows from a VM's ID and what it may reach: its tap's name, at most 15 characters, its MAC address, locally
// administered, and where in the pools to look for addresses first.
func identity(id string, egress millrace.Egress) (name string, mac net.HardwareAddr, slot uint32) {
	sum := sha256.Sum256([]byte(id))
	name = prefix + hex.EncodeToString(sum[:6])
	if egress == millrace.EgressNone {
		name = closedPrefix + name[len(closedPrefix):]
	}
	return name, append(net.HardwareAddr{0x02}, sum[6:11]...), binary.BigEndian.Uint32(sum[12:])
}

// slots is how many pairs of addresses a pool has.
func slots(pool netip.Prefix) uint32 { return 1 << (pool.Addr().BitLen() - pool.Bits() - 1) }

// pair is the slot's two addresses in pool: the tap's and, after it, the guest's.
func pair(pool netip.Prefix, slot uint32) (gateway, guest netip.Addr) {
	b := pool.Addr().AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)|slot<<1)
	gateway, _ = netip.AddrFromSlice(b)
	return gateway, gateway.Next()
}

// hostResolvers are those that the files below root name. Where systemd-resolved answers, on the loopback, its own are
// in a file beside.
func hostResolvers(root string) []netip.Addr {
	var all []netip.Addr
	for _, name := range []string{"etc/resolv.conf", "run/systemd/resolve/resolv.conf"} {
		content, _ := os.ReadFile(filepath.Join(root, name))
		for line := range strings.Lines(string(content)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			addr, err := netip.ParseAddr(fields[1])
			if addr = addr.WithZone(""); err == nil && !slices.Contains(all, addr) { // what has a zone is closed without it
				all = append(all, addr)
			}
		}
	}
	return all
}

// usable are at most three of the resolvers that aren't closed, as many as a resolv.conf may name (resolv.conf(5)); if
// there are none, two that anybody may use.
func usable(resolvers []netip.Addr, closed []netip.Prefix) []netip.Addr {
	open := slices.DeleteFunc(resolvers, func(r netip.Addr) bool {
		return slices.ContainsFunc(closed, func(p netip.Prefix) bool { return p.Contains(r) })
	})
	if len(open) == 0 {
		return []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")}
	}
	return open[:min(3, len(open))]
}
