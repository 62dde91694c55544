// Package network gives each VM of a host a network of its own: a tap that leads to the host and nowhere else. There is
// no bridge, so that guests are not neighbours, and what the host passes on is decided by nftables rules. A guest
// reaches the internet and the services that the host's owner opened; everything that is private, the host's or another
// guest's is closed to it, in IPv4 and IPv6 alike. Nobody opens a connection to a guest from outside. A guest that is to be kept
// from the internet reaches the services that were opened, and nothing else.
//
//	guest 198.18.0.7 ── tap mr-… 198.18.0.6 ── host: netdev millrace, who may send what  (one chain for each tap)
//	                                             │     inet millrace, what goes where     (the same for all)
//	                                             └──▶ internet, from the host's address
//
// All there is of a network is in the kernel, under names made of the VM's ID, and outlives the agent with its VM. A tap ends with
// the monitor that holds it. The next agent's [Open] finds what is there.
package network

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
)

// Config is what a host's owner decides about the networks of its VMs. The zero value is a good one.
type Config struct {
	// Pool and Pool6 are where taps and guests have their addresses from, two for each VM. The addresses mean nothing
	// beyond the host. They are 198.18.0.0/16, of the range for benchmarks that no network should use (RFC 2544), and a
	// unique local prefix (RFC 4193) if they are zero.
	Pool, Pool6 netip.Prefix
	// Services are what guests reach though it is closed otherwise, by TCP and UDP: a registry mirror on this host.
	Services []netip.AddrPort
	// Resolvers are the guests' DNS servers, and open to them on port 53. None: those of the host that aren't closed to
	// guests, or else public ones.
	Resolvers []netip.Addr
	// Closed is what guests don't reach besides what no guest should: public addresses of a company's own.
	Closed []netip.Prefix
	// Egress is what guests may reach at the most, whatever is asked for them; "" is the internet.
	Egress millrace.Egress
	// ConnectionRate is how many connections a guest may open in a second, ten times as many at once; 0 is 100.
	ConnectionRate int
	// Connections is how many a guest may have at a time: the host's table of them is shared. 0 is 16,384.
	Connections int
	Log         *slog.Logger
}

// Network is the host's side of all its VMs' networks.
type Network struct {
	cfg     Config
	ipv6    bool
	release net.Listener
	quit    func()

	mu    sync.Mutex
	links map[string]*Link // by name; those that the rules must be there for
}

// Open makes this host ready for VMs' networks: it switches forwarding on, and puts the rules up, also those of the taps that an
// agent before this one left. There is one in each network namespace at a time.
func Open(cfg Config) (*Network, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if err := Check(); err != nil {
		return nil, err
	}
	// A name in the abstract namespace belongs to the network namespace and goes with the process (unix(7)).
	release, err := net.Listen("unix", "@"+table)
	if err != nil {
		return nil, errors.New("another agent on this machine has the VMs' networks")
	}
	n := &Network{cfg: cfg, release: release, links: map[string]*Link{}}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) open() error {
	if err := n.checkPools(); err != nil {
		return err
	}
	if err := n.find(); err != nil {
		return err
	}
	if err := n.install(); err != nil {
		return fmt.Errorf("putting up the rules of nftables: %w", err)
	}
	for _, l := range n.links {
		if err := addChain(l); err != nil && !errors.Is(err, unix.ENOENT) { // gone with its VM a moment ago
			return fmt.Errorf("putting up the rules of tap %s: %w", l.Name, err)
		}
	}
	if err := n.guard(); err != nil {
		return err
	}
	var err error
	n.ipv6, err = forward()
	return err
}

// Close takes the rules down once no VM has a network any more, but for forwarding, which others may have come to rely on. What
// VMs have stays as it is, for the next agent to find.
func (n *Network) Close() error {
	if n.quit != nil {
		n.quit()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.links) == 0 {
		if err := uninstall(); err != nil {
			return err
		}
	}
	n.release.Close()
	return nil
}

// Adopt is the network that an earlier agent made of the VM with this ID; nil: there is none.
func (n *Network) Adopt(id string) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, egress := range millrace.Egresses {
		name, _, _ := identity(id, egress)
		if l := n.links[name]; l != nil {
			return l
		}
	}
	return nil
}

func (c Config) complete() (Config, error) {
	c.Pool, c.Pool6 = cmp.Or(c.Pool, defaultPool).Masked(), cmp.Or(c.Pool6, defaultPool6).Masked()
	if !c.Pool.Addr().Is4() || c.Pool.Bits() > 24 {
		return c, fmt.Errorf("guests' IPv4 addresses need a network of 256 addresses or more, not %s", c.Pool)
	}
	if !c.Pool6.Addr().Is6() || c.Pool6.Bits() > c.Pool.Bits()+96 {
		return c, fmt.Errorf("guests' IPv6 addresses need a network as large as %s, not %s", c.Pool, c.Pool6)
	}
	for _, p := range c.Closed {
		if p != p.Masked() {
			return c, fmt.Errorf("%s is not a network; %s is", p, p.Masked())
		}
	}
	c.Closed = slices.Concat(c.Closed, []netip.Prefix{c.Pool, c.Pool6}, special)
	for _, r := range c.Resolvers {
		c.Services = append(slices.Clip(c.Services), netip.AddrPortFrom(r, 53))
	}
	if len(c.Resolvers) == 0 {
		c.Resolvers = usable(hostResolvers("/"), c.Closed)
	}
	c.ConnectionRate, c.Connections = cmp.Or(c.ConnectionRate, 100), cmp.Or(c.Connections, 16<<10)
	if c.ConnectionRate < 0 || c.Connections < 0 {
		return c, errors.New("a guest's limits of connections can't be negative")
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c, nil
}

// checkPools refuses pools that the host has another use for.
func (n *Network) checkPools() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		to := netip.PrefixFrom(addr.Unmap(), ones)
		if ones == 0 || !to.Overlaps(n.cfg.Pool) && !to.Overlaps(n.cfg.Pool6) {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && isOurs(link) {
			continue // left behind, and swept next
		}
		return fmt.Errorf("this host has a route to %s, where guests' addresses would be; choose others for them", to)
	}
	return nil
}

// find notes the taps that are ours and whole, and removes those that an agent began and didn't end.
func (n *Network) find() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		if !isOurs(link) {
			continue
		}
		l, err := made(link)
		if err == nil {
			n.links[l.Name] = l
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !isGone(err) {
			return fmt.Errorf("removing %s, which an earlier agent left: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

func isOurs(link netlink.Link) bool {
	return link.Type() == "tuntap" && strings.HasPrefix(link.Attrs().Name, prefix)
}
