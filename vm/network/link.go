package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
)

// Link is one VM's network.
type Link struct {
	Name  string           // the tap's
	MAC   net.HardwareAddr // the guest's
	Guest []netip.Addr     // the guest's addresses, IPv4 first; each one's gateway is the address before it
	// Tap is for the monitor, with a header in front of each packet (struct virtio_net_hdr). The tap lasts as long as one
	// copy of it is open.
	Tap *os.File

	resolvers []netip.Addr
}

// KernelArgs tell the guest's PID 1 its network, on the kernel's command line.
func (l *Link) KernelArgs() string {
	var addresses, resolvers []string
	for _, a := range l.Guest {
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()-1).String())
	}
	for _, r := range l.resolvers {
		resolvers = append(resolvers, r.String())
	}
	return fmt.Sprintf("millrace.address=%s millrace.gateway=%s millrace.dns=%s", strings.Join(addresses, ","), gatewayMAC, strings.Join(resolvers, ","))
}

// Attach makes the network of the VM with this ID, which reaches what egress says, if guests of this host may; "" is the internet.
// What an earlier Attach of the same ID made goes.
func (n *Network) Attach(id string, egress millrace.Egress) (*Link, error) {
	if n.cfg.Egress == millrace.EgressNone {
		egress = millrace.EgressNone
	}
	for _, other := range millrace.Egresses {
		name, _, _ := identity(id, other)
		if err := n.remove(name); err != nil {
			return nil, err
		}
	}
	l := &Link{resolvers: n.cfg.Resolvers}
	var slot uint32
	l.Name, l.MAC, slot = identity(id, egress)
	var err error
	if l.Tap, err = openTap(l.Name); err != nil {
		return nil, fmt.Errorf("making tap %s: %w", l.Name, err)
	}
	if err := n.configure(l, slot); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up tap %s: %w", l.Name, err), n.Detach(l))
	}
	return l, nil
}

// Detach removes a VM's network. One that has gone is no error.
func (n *Network) Detach(l *Link) error {
	l.Tap.Close() // also closed where it was handed to a monitor
	return n.remove(l.Name)
}

func (n *Network) remove(name string) error {
	n.mu.Lock()
	delete(n.links, name)
	err := dropChain(name)
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("removing the rules of tap %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("removing tap %s: %w", name, err)
	}
	return nil
}

func isGone(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV)
}

// openTap makes a tap that is gone when nobody has it open (Documentation/networking/tuntap.rst of the kernel).
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// configure gives both ends their addresses and closes the tap to what isn't the guest's. The guest doesn't run yet.
func (n *Network) configure(l *Link, slot uint32) error {
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, gatewayMAC); err != nil {
		return err
	}
	if err := restrain(l.Name, n.ipv6); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	slot, err = n.takeSlot(link, slot)
	if err != nil {
		return err
	}
	for _, pool := range n.pools() {
		gateway, guest := pair(pool, slot)
		if err := join(link, gateway, guest, l.MAC); err != nil {
			return err
		}
		l.Guest = append(l.Guest, guest)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[l.Name] = l
	return addChain(l)
}

// made is the network whose tap is link, as configure made it: the kernel has all of it.
func made(link netlink.Link) (*Link, error) {
	l := &Link{Name: link.Attrs().Name}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		gateway, _ := netip.AddrFromSlice(a.IP)
		if ones, bits := a.Mask.Size(); ones == bits {
			l.Guest = append(l.Guest, gateway.Unmap().Next())
		}
	}
	slices.SortFunc(l.Guest, netip.Addr.Compare) // IPv4 first
	neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	known := 0
	for _, k := range neighbours {
		ip, _ := netip.AddrFromSlice(k.IP)
		if k.State == netlink.NUD_PERMANENT && slices.Contains(l.Guest, ip.Unmap()) {
			l.MAC = k.HardwareAddr
			known++
		}
	}
	if len(l.Guest) == 0 || known != len(l.Guest) {
		return nil, fmt.Errorf("tap %s is not whole", l.Name)
	}
	return l, nil
}

// pools are those that guests have addresses of.
func (n *Network) pools() []netip.Prefix {
	if n.ipv6 {
		return []netip.Prefix{n.cfg.Pool, n.cfg.Pool6}
	}
	return []netip.Prefix{n.cfg.Pool}
}

// takeSlot finds a free pair of addresses, beginning at slot. The kernel's routing table says what is free: it takes one
// route to an address.
func (n *Network) takeSlot(link netlink.Link, slot uint32) (uint32, error) {
	count := slots(n.cfg.Pool)
	for try := range count {
		slot := (slot + try) % count
		_, guest := pair(n.cfg.Pool, slot)
		if err := addRoute(link, guest); !errors.Is(err, unix.EEXIST) {
			return slot, err
		}
	}
	return 0, fmt.Errorf("all of %s is in use", n.cfg.Pool)
}

func addRoute(link netlink.Link, guest netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(guest), Scope: netlink.SCOPE_LINK})
}

// join gives the tap its address and tells it the guest's on the wire: who knows all neighbours asks none, and believes
// none.
func join(link netlink.Link, gateway, guest netip.Addr, mac net.HardwareAddr) error {
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: single(gateway), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("address %s: %w", gateway, err)
	}
	if guest.Is6() { // IPv4's route is there: it took the slot
		if err := addRoute(link, guest); err != nil {
			return fmt.Errorf("route to %s: %w", guest, err)
		}
	}
	known := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: guest.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(known); err != nil {
		return fmt.Errorf("neighbour %s: %w", guest, err)
	}
	return nil
}

// single is the network of one address.
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
