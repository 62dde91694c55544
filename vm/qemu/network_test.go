package qemu_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/network"
	"github.com/millrace-ci/millrace/vm/network/networktest"
)

// forbidden is what a guest must not reach, by what it is. Others are known when the guests run.
var forbidden = map[string][]string{
	"the host": {
		networktest.HostPrivate.String(), networktest.HostPublic.String(), networktest.HostPrivate6.String(), networktest.HostPublic6.String(),
		networktest.HostBridge.String(), networktest.HostBridge6.String(),
	},
	"the host's neighbours": {"192.168.7.1", "fd07::1"},
	"private networks": {
		"10.0.0.1", "10.255.255.254", "172.16.0.1", "172.18.0.5", "172.31.255.254", "192.168.0.1", "192.168.1.1", "192.168.122.1",
		"fd00::1", "fdc8:3f1e:6d72::ffff:1", "fec0::1",
	},
	"carriers' networks": {"100.64.0.1", "100.127.255.254"},
	"metadata services": {
		"169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254",
	},
	"ways around":      {"64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001::a00:1", "192.88.99.1"},
	"what is nobody's": {"192.0.0.8", "198.18.255.254", "198.19.255.254", "240.0.0.1", "100::1", "2001:10::1", "4000::1", "5f00::1"},
}

// open is what it must reach.
var open = []string{
	networktest.Internet.String() + " 8099", networktest.Internet6.String() + " 8099",
	networktest.HostPrivate.String() + " 5000", // a service that is opened, and one that is a container behind the host's own rules
	networktest.HostPublic.String() + " 5000",
}

// Two real VMs try all that they must not reach and all that they must, each other included. Then they try again without
// the rules: what doesn't answer then proves nothing.
func TestGuestsReachTheInternetAlone(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	world := networktest.Build(t)
	publish(t, networktest.HostPublic, 5000)
	publish(t, networktest.HostPublic, 8080)
	n, err := network.Open(network.Config{Services: []netip.AddrPort{
		netip.AddrPortFrom(networktest.HostPrivate, networktest.Service), netip.AddrPortFrom(networktest.HostPublic, networktest.Service),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	d := prepareOn(t, t.TempDir(), n)

	// The guests meet at a server on the internet, which tells each where to try to go; twice.
	var mu sync.Mutex
	guests := map[string][]netip.Addr{}
	met := [4]sync.WaitGroup{}
	for i := range met {
		met[i].Add(2)
	}
	disarm := sync.OnceFunc(func() { networktest.Disarm(t); linkLocal(t) })
	brokers := map[string]*broker{}
	mux := http.NewServeMux()
	for i, id := range []string{"left", "right"} {
		brokers[id] = newBroker(`
address=$(sed 's/.*millrace.address=\([^ ]*\).*/\1/' /proc/cmdline)
mkdir www; echo here >www/who; busybox httpd -p '[::]:8099' -h www
printf 'GET /who HTTP/1.0\r\n\r\n' >get
try() { case $(nc -w 20 $1 $2 <get 2>/dev/null) in *here*) echo "$3 open $1 $2" ;; *) echo "$3 shut $1 $2" ;; esac; }
for round in 0 1; do
	wget -q -O targets "http://198.51.100.7/` + id + `/$round?$address" || echo "no targets"
	while read -r a p; do try $a $p $round & pids="$pids $!"; done <targets
	wait $pids
	wget -q -O /dev/null "http://198.51.100.7/` + id + `/done/$round"
done`)
		mux.Handle("/"+id+"/_broker/", http.StripPrefix("/"+id, brokers[id]))
		mux.HandleFunc("/"+id+"/{round}", func(w http.ResponseWriter, r *http.Request) {
			round := int(r.PathValue("round")[0] - '0')
			mu.Lock()
			guests[id] = nil
			for _, s := range strings.Split(r.URL.RawQuery, ",") {
				guests[id] = append(guests[id], netip.MustParsePrefix(s).Addr())
			}
			mu.Unlock()
			met[2*round].Done()
			met[2*round].Wait()
			if round == 1 {
				disarm()
			}
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(w, strings.Join(targets(guests, i), "\n"))
		})
		mux.HandleFunc("/"+id+"/done/{round}", func(_ http.ResponseWriter, r *http.Request) {
			round := int(r.PathValue("round")[0] - '0')
			met[2*round+1].Done()
			met[2*round+1].Wait()
		})
	}
	l, err := world.Listen(networktest.Internet.String() + ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(l) //nolint:errcheck // Close ends it
	t.Cleanup(func() { server.Close() })

	var wg sync.WaitGroup
	for id := range brokers {
		wg.Go(func() {
			// Each tries a hundred connections, of which half get no answer.
			boot(t, d, id, guest.Config{Hostname: id, JIT: jit("http://198.51.100.7/" + id)}, 2*time.Minute)
		})
	}
	wg.Wait()
	for i, id := range []string{"left", "right"} {
		lines := strings.Split(brokers[id].log.String(), "\n")
		count := 0
		for _, target := range targets(guests, i) {
			want := "0 shut " + target
			if slices.Contains(open, target) {
				want = "0 open " + target
			} else {
				count++
			}
			if !slices.Contains(lines, want) {
				t.Errorf("%s: not %q", id, want)
			}
			if control := "1 open " + target; !slices.Contains(lines, control) {
				t.Errorf("%s: without the rules, not %q", id, control)
			}
		}
		if count < 30 {
			t.Errorf("%d forbidden targets are too few", count)
		}
		t.Logf("%s tried %d forbidden targets and %d others", id, count, len(open))
		if t.Failed() {
			t.Logf("%s", brokers[id].log.String())
		}
	}
}

// A VM that is kept from the internet runs its job by what was opened to it, and reaches nothing else.
func TestGuestWithoutTheInternet(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	world := networktest.Build(t)
	n, err := network.Open(network.Config{Services: []netip.AddrPort{netip.AddrPortFrom(networktest.Internet, 80)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	d := prepareOn(t, t.TempDir(), n)
	b := newBroker(`for to in "198.51.100.7 8080" "1.1.1.1 53" "10.0.0.1 80"; do nc -w 5 $to </dev/null >/dev/null 2>&1 && echo "open $to" || echo "shut $to"; done`)
	for _, port := range []string{"80", "8080"} {
		l, err := world.Listen(networktest.Internet.String() + ":" + port)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: b}
		go server.Serve(l) //nolint:errcheck // Close ends it
		t.Cleanup(func() { server.Close() })
	}
	for _, c := range []struct {
		egress millrace.Egress
		want   string
	}{{millrace.EgressNone, "shut 198.51.100.7 8080"}, {millrace.EgressInternet, "open 198.51.100.7 8080"}} {
		m, err := d.Start(t.Context(), vm.Spec{ID: "vm-" + string(c.egress), Arch: d.Arch(), VCPUs: 1, MemoryMB: 256, Egress: c.egress})
		if err != nil {
			t.Fatal(err)
		}
		stop := time.AfterFunc(time.Minute, m.Kill)
		host := resume(t, m, 0)
		if err := host.Configure(guest.Config{Hostname: "vm", JIT: jit("http://198.51.100.7")}); err != nil {
			t.Fatal(err)
		}
		for {
			said, err := host.Next()
			if err != nil {
				break
			}
			if said.Exit != nil {
				_ = host.Heard() // so that it powers off
			}
		}
		<-m.Done()
		stop.Stop()
		b.mu.Lock()
		if !strings.Contains(b.log.String(), c.want) {
			t.Errorf("egress %s: not %q: %s", c.egress, c.want, b.log.String())
		}
		b.log.Reset()
		b.mu.Unlock()
	}
	if _, err := prepareOn(t, t.TempDir(), nil).Start(t.Context(), vm.Spec{ID: "a", Arch: d.Arch(), VCPUs: 1, MemoryMB: 256, Egress: millrace.EgressNone}); err == nil || !strings.Contains(err.Error(), "user-mode") {
		t.Errorf("without taps: %v", err)
	}
}

// An agent that is killed leaves its VMs running, with their taps and within their rules. The one after it takes them over.
func TestKilledAgentsNetworks(t *testing.T) {
	t.Parallel()
	if !networktest.Enter(t) {
		return
	}
	const killed = "MILLRACE_TEST_KILLED"
	open := func() *network.Network {
		n, err := network.Open(network.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if dir := os.Getenv(killed); dir != "" {
		m, err := prepareOn(t, dir, open()).Start(t.Context(), vm.Spec{ID: "a", Arch: millrace.AMD64, VCPUs: 1, MemoryMB: 256})
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 1)
		if _, err := m.Channel().Read(first); err != nil {
			t.Fatal(err)
		}
		fmt.Println("up")
		select {}
	}
	dir := t.TempDir()
	agent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	agent.Env = append(os.Environ(), killed+"="+dir)
	agent.Stderr = os.Stderr
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill() }) //nolint:errcheck // it is dead already, or else it would outlive us
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("the agent said %q, %v", line, err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // killed
	if n := taps(t); n != 1 {
		t.Fatalf("a VM whose agent was killed has %d taps", n)
	}
	if chains, err := new(nftables.Conn).ListChains(); err != nil || len(chains) != 5 {
		t.Errorf("its rules are %d chains: %v", len(chains), err)
	}
	n := open()
	if chains, err := new(nftables.Conn).ListChains(); taps(t) != 1 || err != nil || len(chains) != 5 {
		t.Errorf("the next agent finds %d taps, and has %d chains: %v", taps(t), len(chains), err)
	}
	d := prepareOn(t, dir, n)
	adopted, err := d.Adopt(t.Context(), []string{"a", "b"})
	m := adopted["a"]
	if err != nil || m == nil || len(adopted) != 1 || taps(t) != 1 {
		t.Fatalf("it adopts %v, with %d taps: %v", adopted, taps(t), err)
	}
	m.Kill()
	<-m.Done()
	if n := taps(t); n != 0 {
		t.Errorf("a VM that is gone leaves %d taps", n)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// taps counts ours.
func taps(t *testing.T) (count int) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, "mr-") {
			count++
		}
	}
	return count
}

// targets are all that a guest tries: address and port.
func targets(guests map[string][]netip.Addr, i int) []string {
	list := slices.Clone(open)
	for _, addresses := range forbidden {
		for _, a := range addresses {
			list = append(list, a+" 8099")
		}
	}
	mine, other := guests[[]string{"left", "right"}[i]], guests[[]string{"right", "left"}[i]]
	for _, a := range other {
		list = append(list, a.String()+" 8099", a.Prev().String()+" 8099") // the other guest, and its gateway
	}
	for _, a := range mine {
		list = append(list, a.Prev().String()+" 8099")
	}
	return append(
		list, "fe80::1%eth0 8099", networktest.Internet.String()+" 25", networktest.Internet6.String()+" 25",
		networktest.HostPublic.String()+" 8080", // a container's port
	)
}

// publish sends on what comes to a port of the host, as container engines do.
func publish(t *testing.T, host netip.Addr, port uint16) {
	t.Helper()
	c := new(nftables.Conn)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "containers"})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: host.AsSlice()},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
		&expr.Immediate{Register: 1, Data: []byte{10, 88, 0, 5}},
		&expr.Immediate{Register: 2, Data: []byte{0x1f, 0xa3}}, // 8099
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: 2, RegAddrMin: 1, RegProtoMin: 2},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// linkLocal gives all taps a link-local address, as they would have if they weren't kept from it.
func linkLocal(t *testing.T) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, link := range links {
		if !strings.HasPrefix(link.Attrs().Name, "mr-") {
			continue
		}
		addr, err := netlink.ParseAddr("fe80::1/64")
		if err != nil {
			t.Error(err)
		}
		addr.Flags = 2 // IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Error(err)
		}
	}
}
