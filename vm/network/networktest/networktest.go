// Package networktest puts a test into a network namespace of its own, and a small internet behind it: a host between its
// VMs and a world in which every address answers, private ones, metadata services and the host's own included. What
// doesn't answer there was kept from it.
package networktest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/millrace-ci/millrace/vm/network"
)

const inside = "MILLRACE_TEST_NAMESPACE"

// Enter runs the calling test anew, as a process whose network namespace is its own, and says whether this is that
// process. The test returns at once where it isn't. It is skipped where namespaces can't be made.
func Enter(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		if err := network.Check(); err != nil {
			t.Skipf("this kernel can't: %v", err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and taps need root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL):
		t.Skipf("this machine lets root make no network namespaces: %v", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "\n--- SKIP"):
		t.Skipf("%s", out)
	}
	t.Logf("%s", out)
	return false
}

// Port answers on every address of the world and of the host, and so do Service and SMTP, by TCP: with "here".
const (
	Port    = 8099
	Service = 5000
	SMTP    = 25
)

// The host's addresses: at home, in public and on a bridge for containers.
var (
	HostPrivate  = netip.MustParseAddr("192.168.7.2")
	HostPublic   = netip.MustParseAddr("203.0.113.2")
	HostPrivate6 = netip.MustParseAddr("fd07::2")
	HostPublic6  = netip.MustParseAddr("2001:db8:7::2")
	HostBridge   = netip.MustParseAddr("172.17.0.1")
	HostBridge6  = netip.MustParseAddr("fd17::1")
)

// Two addresses of the internet. Documentation's are public here.
var (
	Internet  = netip.MustParseAddr("198.51.100.7")
	Internet6 = netip.MustParseAddr("2001:db8::7")
)

// World is what is beyond the host.
type World struct{ ns netns.NsHandle }

// Build makes the calling process's namespace the host, and a world.
func Build(t *testing.T) *World {
	t.Helper()
	w := &World{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(inThread(func() (err error) { w.ns, err = netns.New(); return err }))
	t.Cleanup(func() { w.ns.Close() })

	must(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "world", PeerNamespace: netlink.NsFd(w.ns),
	}))
	must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "containers"}}))
	must(set("lo"))
	must(set("uplink", HostPublic.String()+"/24", HostPrivate.String()+"/24", HostPublic6.String()+"/64", HostPrivate6.String()+"/64"))
	must(set("containers", HostBridge.String()+"/16", HostBridge6.String()+"/64"))
	must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("203.0.113.1")}))
	must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("2001:db8:7::1")}))
	must(w.do(func() error {
		if err := errors.Join(set("lo"), set("world", "203.0.113.1/24", "192.168.7.1/24", "2001:db8:7::1/64", "fd07::1/64")); err != nil {
			return err
		}
		return answerEverywhere()
	}))
	for _, listen := range []func(func() error) error{w.do, func(f func() error) error { return f() }} {
		for _, port := range []int{Port, Service, SMTP} {
			must(listen(func() error { return answer(t, port) }))
		}
	}
	return w
}

// answerEverywhere makes all addresses but the few around the host's this namespace's own.
func answerEverywhere() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	// The routes to neighbours are in a table that is looked at later: the local one must not know a way for their addresses.
	for _, p := range []string{
		"10.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/22", "192.168.64.0/18",
		"198.18.0.0/15", "198.51.100.0/24", "240.0.0.0/8",
		"64:ff9b::/32", "100::/64", "2001::/24", "2001:db8::/48", "2002::/16", "4000::/16", "5f00::/16", "fd00::/16", "fd20::/16", "fdc8::/16", "fec0::/10",
	} {
		_, dst, err := net.ParseCIDR(p)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: syscall.RTN_LOCAL, Table: syscall.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
			return fmt.Errorf("answering as %s: %w", p, err)
		}
	}
	return nil
}

// do runs f in the world.
func (w *World) do(f func() error) error {
	return inThread(func() error {
		if err := netns.Set(w.ns); err != nil {
			return err
		}
		return f()
	})
}

// Listen opens a TCP port of the world.
func (w *World) Listen(address string) (l net.Listener, err error) {
	err = w.do(func() error { l, err = net.Listen("tcp", address); return err })
	return l, err
}

// inThread runs f in a thread that ends with it, whatever namespace it is in then.
func inThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread isn't used again
		done <- f()
	}()
	return <-done
}

// set brings a link up, with addresses.
func set(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s of %s: %w", a, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// answer says "here" to whoever connects to a port of any address.
func answer(t *testing.T, port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "here\n")
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn) // closed on what it hasn't read, a connection is reset
			}()
		}
	}()
	return nil
}

// Disarm makes the rules that are there let everything through, and the kernel's own checks with them: what is closed with
// rules and open without them is closed by them.
func Disarm(t *testing.T) {
	t.Helper()
	c := new(nftables.Conn)
	chains, err := c.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range chains {
		if chain.Table.Name == "millrace" && chain.Type != nftables.ChainTypeNAT {
			c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	checks, _ := filepath.Glob("/proc/sys/net/ipv4/conf/*/rp_filter")
	for _, name := range checks {
		if err := os.WriteFile(name, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Dial opens a connection from the world.
func (w *World) Dial(kind, address string) (conn net.Conn, err error) {
	err = w.do(func() error { conn, err = net.Dial(kind, address); return err })
	return conn, err
}

// RouteTo makes the world send what is for an address through the host.
func (w *World) RouteTo(t *testing.T, to, through netip.Addr) {
	t.Helper()
	err := w.do(func() error {
		dst := &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}
		// Before all addresses are its own.
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: through.AsSlice(), Table: syscall.RT_TABLE_LOCAL})
	})
	if err != nil {
		t.Fatal(err)
	}
}
