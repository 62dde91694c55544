package network_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/network/networktest"
)

func openNetwork(t *testing.T, c network.Config) *network.Network {
	t.Helper()
	n, err := network.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func attach(t *testing.T, n *network.Network, id string) *network.Link {
	t.Helper()
	l, err := n.Attach(id, millrace.EgressInternet)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A guest that writes whatever it likes gets past its tap with its own address alone, in every layer.
func TestFramesThatAreNotTheGuests(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	networktest.Build(t)
	n := openNetwork(t, network.Config{})
	l, other := attach(t, n, "a"), attach(t, n, "b")
	me, me6, gateway, gateway6 := l.Guest[0], l.Guest[1], l.Guest[0].Prev(), l.Guest[1].Prev()
	to, to6 := networktest.Internet, networktest.Internet6
	all, all6 := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("ff02::1")
	linkLocal := netip.MustParseAddr("fe80::bad")
	strange := net.HardwareAddr{2, 0, 0, 0, 0, 1}

	good := map[string][]byte{
		"its own, IPv4": ethernet(l.MAC, unix.ETH_P_IP, ip(me, to, unix.IPPROTO_UDP, udp(1, 53))),
		"its own, IPv6": ethernet(l.MAC, unix.ETH_P_IPV6, ip(me6, to6, unix.IPPROTO_UDP, udp(1, 53))),
		"its own, ping": ethernet(l.MAC, unix.ETH_P_IPV6, ip(me6, to6, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 0, 1, 0, 1})),
	}
	ndp := func(from netip.Addr, kind byte) []byte {
		return ethernet(l.MAC, unix.ETH_P_IPV6, ip(from, all6, unix.IPPROTO_ICMPV6, append([]byte{kind}, make([]byte, 23)...)))
	}
	bad := map[string][]byte{
		"another MAC address":              ethernet(strange, unix.ETH_P_IP, ip(me, to, unix.IPPROTO_UDP, udp(1, 53))),
		"another MAC address, IPv6":        ethernet(strange, unix.ETH_P_IPV6, ip(me6, to6, unix.IPPROTO_UDP, udp(1, 53))),
		"the other guest's MAC address":    ethernet(other.MAC, unix.ETH_P_IP, ip(me, to, unix.IPPROTO_UDP, udp(1, 53))),
		"the other guest's address":        ethernet(l.MAC, unix.ETH_P_IP, ip(other.Guest[0], to, unix.IPPROTO_UDP, udp(1, 53))),
		"the other guest's, IPv6":          ethernet(l.MAC, unix.ETH_P_IPV6, ip(other.Guest[1], to6, unix.IPPROTO_UDP, udp(1, 53))),
		"the other guest altogether":       ethernet(other.MAC, unix.ETH_P_IP, ip(other.Guest[0], to, unix.IPPROTO_UDP, udp(1, 53))),
		"the gateway's address":            ethernet(l.MAC, unix.ETH_P_IP, ip(gateway, to, unix.IPPROTO_UDP, udp(1, 53))),
		"the gateway's, IPv6":              ethernet(l.MAC, unix.ETH_P_IPV6, ip(gateway6, to6, unix.IPPROTO_UDP, udp(1, 53))),
		"the host's address":               ethernet(l.MAC, unix.ETH_P_IP, ip(networktest.HostPublic, to, unix.IPPROTO_UDP, udp(1, 53))),
		"the host's, IPv6":                 ethernet(l.MAC, unix.ETH_P_IPV6, ip(networktest.HostPublic6, to6, unix.IPPROTO_UDP, udp(1, 53))),
		"an address of the internet":       ethernet(l.MAC, unix.ETH_P_IP, ip(netip.MustParseAddr("198.51.100.9"), to, unix.IPPROTO_UDP, udp(1, 53))),
		"the loopback's":                   ethernet(l.MAC, unix.ETH_P_IP, ip(netip.MustParseAddr("127.0.0.1"), to, unix.IPPROTO_UDP, udp(1, 53))),
		"no address":                       ethernet(l.MAC, unix.ETH_P_IP, ip(netip.IPv4Unspecified(), all, unix.IPPROTO_UDP, udp(68, 67))),
		"a link-local address":             ethernet(l.MAC, unix.ETH_P_IPV6, ip(linkLocal, to6, unix.IPPROTO_UDP, udp(1, 53))),
		"a DHCP server's offer":            ethernet(l.MAC, unix.ETH_P_IP, ip(gateway, all, unix.IPPROTO_UDP, udp(67, 68))),
		"a DHCPv6 server's offer":          ethernet(l.MAC, unix.ETH_P_IPV6, ip(linkLocal, all6, unix.IPPROTO_UDP, udp(547, 546))),
		"an ARP request":                   ethernet(l.MAC, unix.ETH_P_ARP, arp(1, l.MAC, me, gateway)),
		"an ARP request for the host":      ethernet(l.MAC, unix.ETH_P_ARP, arp(1, l.MAC, me, networktest.HostPrivate)),
		"an ARP reply for the other":       ethernet(l.MAC, unix.ETH_P_ARP, arp(2, l.MAC, other.Guest[0], gateway)),
		"an ARP reply for the gateway":     ethernet(l.MAC, unix.ETH_P_ARP, arp(2, l.MAC, gateway, gateway)),
		"a router's advertisement":         ndp(linkLocal, 134),
		"one from its own address":         ndp(me6, 134),
		"a router's solicitation":          ndp(me6, 133),
		"a neighbour's solicitation":       ndp(me6, 135),
		"a neighbour's advertisement":      ndp(me6, 136),
		"a redirect":                       ndp(me6, 137),
		"a redirect from the gateway":      ndp(gateway6, 137),
		"LLDP":                             ethernet(l.MAC, 0x88cc, make([]byte, 46)),
		"PPPoE":                            ethernet(l.MAC, 0x8863, make([]byte, 46)),
		"a spanning tree":                  ethernet(l.MAC, 38, append([]byte{0x42, 0x42, 3}, make([]byte, 43)...)),
		"a frame in a VLAN":                ethernet(l.MAC, 0x8100, append([]byte{0, 7, 8, 6}, arp(1, l.MAC, me, gateway)...)),
		"a frame that says IPv6 and isn't": ethernet(l.MAC, unix.ETH_P_IPV6, ip(me, to, unix.IPPROTO_UDP, udp(1, 53))),
	}
	passed := watch(t, l.Name)
	for name, frame := range good {
		if send(t, l, frame); passed() != 1 {
			t.Errorf("what is the guest's own is dropped: %s", name)
		}
	}
	for name, frame := range bad {
		if send(t, l, frame); passed() != 0 {
			t.Errorf("what isn't the guest's own gets through: %s", name)
		}
	}
	networktest.Disarm(t)
	for name, frame := range bad {
		if send(t, l, frame); passed() != 1 {
			t.Errorf("without the rules, nothing comes of it either: %s", name)
		}
	}
	t.Logf("%d kinds of frames", len(bad))
}

// Nobody reaches a guest that didn't ask: not from the network around the host, not over the other guest's tap.
func TestGuestsAreNotReached(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	world := networktest.Build(t)
	n := openNetwork(t, network.Config{})
	l := attach(t, n, "a")
	world.RouteTo(t, l.Guest[0], networktest.HostPublic)
	world.RouteTo(t, l.Guest[1], networktest.HostPublic6)
	from := func(guest netip.Addr) int {
		conn, err := world.Dial("udp", netip.AddrPortFrom(guest, 9).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		return received(t, l, func(frame []byte) bool { return strings.Contains(string(frame), "hello") })
	}
	for _, guest := range l.Guest {
		if got := from(guest); got != 0 {
			t.Errorf("%s was reached from outside", guest)
		}
	}
	networktest.Disarm(t)
	for _, guest := range l.Guest {
		if got := from(guest); got != 1 {
			t.Errorf("without the rules, %d packets reach %s", got, guest)
		}
	}
}

// A guest that is kept from the internet reaches what was opened to guests, also once a later agent found it.
func TestEgress(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	networktest.Build(t)
	config := network.Config{Services: []netip.AddrPort{netip.AddrPortFrom(networktest.Internet, 8080), netip.AddrPortFrom(networktest.Internet6, 8080)}}
	n := openNetwork(t, config)
	links := map[millrace.Egress]*network.Link{}
	for _, egress := range millrace.Egresses {
		l, err := n.Attach("vm-"+string(egress), egress)
		if err != nil {
			t.Fatal(err)
		}
		links[egress] = l
	}
	out := watchOut(t)
	check := func(when string, links map[millrace.Egress]*network.Link) {
		t.Helper()
		for egress, l := range links {
			for i, to := range []netip.Addr{networktest.Internet, networktest.Internet6} {
				kind := [2]uint16{unix.ETH_P_IP, unix.ETH_P_IPV6}[i]
				for port, want := range map[uint16]int{8080: 1, 53: map[millrace.Egress]int{millrace.EgressInternet: 1}[egress]} {
					if send(t, l, ethernet(l.MAC, kind, ip(l.Guest[i], to, unix.IPPROTO_UDP, udp(1, port)))); out() != want {
						t.Errorf("%s: with egress %q, not %d packets to %s port %d", when, egress, want, to, port)
					}
				}
			}
		}
	}
	check("at first", links)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = openNetwork(t, config)
	for egress, l := range links {
		if found := n.Adopt("vm-" + string(egress)); found == nil || found.Name != l.Name {
			t.Errorf("%s is not found: %+v", l.Name, found)
		}
	}
	check("found again", links)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	config.Egress = millrace.EgressNone
	l, err := openNetwork(t, config).Attach("vm", millrace.EgressInternet)
	if err != nil {
		t.Fatal(err)
	}
	check("on a host whose guests may reach no more", map[millrace.Egress]*network.Link{millrace.EgressNone: l})
}

// A guest has so many new connections in a second, and so many in all; what one uses up, another has still.
func TestLimitsOfConnections(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	networktest.Build(t)
	const tries = 300
	for name, c := range map[string]struct {
		config  network.Config
		atLeast int
		atMost  int
	}{
		"in a second": {network.Config{ConnectionRate: 5}, 50, 80}, // ten times as many at once; the test takes a moment
		"in all":      {network.Config{Connections: 40}, 40, 40},
		"by default":  {network.Config{}, tries, tries},
	} {
		n := openNetwork(t, c.config)
		for _, id := range []string{"a", "b"} {
			l := attach(t, n, id)
			passed := watchOut(t)
			for port := range uint16(tries) {
				send(t, l, ethernet(l.MAC, unix.ETH_P_IP, ip(l.Guest[0], networktest.Internet, unix.IPPROTO_UDP, udp(1024+port, 53))))
			}
			if got := passed(); got < c.atLeast || got > c.atMost {
				t.Errorf("%s: guest %s opened %d connections, want %d to %d", name, id, got, c.atLeast, c.atMost)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	// The smallest pool has fewer slots than IDs collide in.
	n := openNetwork(t, network.Config{Pool: netip.MustParsePrefix("192.0.2.0/24")})
	if _, err := network.Open(network.Config{}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("opened twice: %v", err)
	}
	const count = 100
	links := make([]*network.Link, count)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range links {
		wg.Go(func() {
			var err error
			if links[i], err = n.Attach(fmt.Sprint("vm_", i), ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	t.Logf("attaching takes %v each, %d at once", time.Since(began)/count, count)
	for _, part := range []func(*network.Link) string{
		func(l *network.Link) string { return l.Name }, func(l *network.Link) string { return l.MAC.String() },
		func(l *network.Link) string { return l.Guest[0].String() }, func(l *network.Link) string { return l.Guest[1].String() },
	} {
		seen := map[string]bool{}
		for _, l := range links {
			seen[part(l)] = true
		}
		if len(seen) != count {
			t.Errorf("two VMs share something: %d of %d are different", len(seen), count)
		}
	}

	again := attach(t, n, "vm_7") // the same VM anew, though nobody detached it
	if again.Name != links[7].Name || !slices.Equal(again.MAC, links[7].MAC) || !slices.Equal(again.Guest, links[7].Guest) {
		t.Errorf("the same ID got %+v, then %+v", links[7], again)
	}
	if args := again.KernelArgs(); !strings.Contains(args, "millrace.address="+again.Guest[0].String()+"/31,"+again.Guest[1].String()+"/127 ") {
		t.Errorf("the guest is told %s", args)
	}
	began = time.Now()
	for _, l := range links {
		if err := errors.Join(n.Detach(l), n.Detach(l)); err != nil { // twice is as good as once
			t.Error(err)
		}
	}
	t.Logf("detaching takes %v each", time.Since(began)/count)
	if left := leftovers(t); len(left) != 2 {
		t.Errorf("after all are detached there is %v", left)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t); len(left) != 0 {
		t.Errorf("after Close there is %v", left)
	}
}

// What an agent leaves that is killed holds, and the next one has it: with the guest's addresses and rules, to be kept or taken down.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	n, err := network.Open(network.Config{})
	if err != nil {
		t.Fatal(err)
	}
	l := attach(t, n, "a")
	monitor, err := unix.Dup(int(l.Tap.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(monitor)
	network.Abandon(n)
	if left := leftovers(t); len(left) != 4 {
		t.Errorf("a killed agent leaves %v", left)
	}
	n = openNetwork(t, network.Config{})
	if left := leftovers(t); len(left) != 4 {
		t.Errorf("the agent after it has %v", left)
	}
	found := n.Adopt("a")
	if found == nil || found.Name != l.Name || found.MAC.String() != l.MAC.String() || !slices.Equal(found.Guest, l.Guest) {
		t.Fatalf("it finds %+v, want %+v", found, l)
	}
	if n.Adopt("b") != nil {
		t.Error("it finds what was never there")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t); len(left) != 4 {
		t.Errorf("an agent that ends while a VM runs leaves %v", left)
	}
	n = openNetwork(t, network.Config{})
	if err := n.Detach(n.Adopt("a")); err != nil {
		t.Error(err)
	}
	if left := leftovers(t); len(left) != 2 {
		t.Errorf("a VM that is gone leaves %v", left)
	}
	attach(t, n, "a")
}

// Whoever flushes the host's rules doesn't set guests free.
func TestRulesComeBack(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	n := openNetwork(t, network.Config{})
	attach(t, n, "a")
	l := attach(t, n, "b")
	c := new(nftables.Conn)
	for range 10 {
		gone := time.Now()
		c.FlushRuleset()
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		for len(leftovers(t)) != 6 { // two taps with a chain each, two tables
			if time.Since(gone) > 10*time.Second {
				t.Fatalf("there is only %v", leftovers(t))
			}
		}
		t.Logf("they are back after %v", time.Since(gone))
	}
	strange := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	passed := watch(t, l.Name)
	if send(t, l, ethernet(strange, unix.ETH_P_IP, ip(l.Guest[0], networktest.Internet, unix.IPPROTO_UDP, udp(1, 53)))); passed() != 0 {
		t.Error("the rules that are back let through what isn't the guest's")
	}
}

// leftovers are all links, tables and taps' chains that are ours.
func leftovers(t *testing.T) (list []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "mr-") {
			list = append(list, "link "+l.Attrs().Name)
		}
	}
	c := new(nftables.Conn)
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		list = append(list, "table "+table.Name)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range chains {
		list = append(list, "chain "+chain.Name)
	}
	return list
}

// watch counts what gets past the rules of a tap; each call says how much since the one before.
func watch(t *testing.T, tap string) (passed func() int) {
	t.Helper()
	return counter(t, &nftables.Chain{
		Table: &nftables.Table{Family: nftables.TableFamilyNetdev, Name: "test"}, Name: "watch", Device: tap,
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityRef(10),
	})
}

// watchOut counts what leaves the host.
func watchOut(t *testing.T) (passed func() int) {
	t.Helper()
	return counter(t, &nftables.Chain{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "test"}, Name: "watch",
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	}, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, // the answers that nobody is there are none of the guest's
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}})
}

func counter(t *testing.T, chain *nftables.Chain, match ...expr.Any) (passed func() int) {
	t.Helper()
	c := new(nftables.Conn)
	c.AddTable(chain.Table)
	c.AddChain(chain)
	c.FlushChain(chain)
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: append(match, &expr.Counter{})})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	var before uint64
	return func() int {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil || len(rules) != 1 {
			t.Fatalf("%d rules, %v", len(rules), err)
		}
		now := rules[0].Exprs[len(match)].(*expr.Counter).Packets
		defer func() { before = now }()
		return int(now - before)
	}
}

// send writes a frame as a guest's monitor does. The kernel has done with it when it returns.
func send(t *testing.T, l *network.Link, frame []byte) {
	t.Helper()
	const header = 10 // struct virtio_net_hdr, nothing asked for
	if _, err := l.Tap.Write(append(make([]byte, header), frame...)); err != nil {
		t.Fatal(err)
	}
}

// received counts the frames that a guest gets until it gets none for a while.
func received(t *testing.T, l *network.Link, matches func([]byte) bool) (count int) {
	t.Helper()
	frame := make([]byte, 2048)
	for {
		if err := l.Tap.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Tap.Read(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return count
		}
		if err != nil {
			t.Fatal(err)
		}
		if matches(frame[:n]) {
			count++
		}
	}
}

func ethernet(from net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat([]byte{0x02, 'm', 'r', 0, 0, 1}, from, binary.BigEndian.AppendUint16(nil, kind), payload)
}

func ip(from, to netip.Addr, protocol byte, payload []byte) []byte {
	if from.Is6() {
		head := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), protocol, 255}
		return slices.Concat(head, from.AsSlice(), to.AsSlice(), sum(payload, protocol, from, to))
	}
	head := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, protocol, 0, 0}
	head = slices.Concat(head, from.AsSlice(), to.AsSlice())
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, payload...)
}

// sum fills ICMPv6's and UDP's checksums in, which IPv6 asks for.
func sum(payload []byte, protocol byte, from, to netip.Addr) []byte {
	at := map[byte]int{unix.IPPROTO_ICMPV6: 2, unix.IPPROTO_UDP: 6}[protocol]
	binary.BigEndian.PutUint16(payload[at:], checksum(slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(payload)), 0, 0, 0, protocol}, payload)))
	return payload
}

func checksum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func udp(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	return append(binary.BigEndian.AppendUint16(b, to), 0, 12, 0, 0, 'p', 'i', 'n', 'g')
}

func arp(op byte, mac net.HardwareAddr, from, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac, from.AsSlice(), make([]byte, 6), target.AsSlice())
}
