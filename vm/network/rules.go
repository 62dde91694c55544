package network

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is the name of our two tables: one of what all guests may, and one that holds each tap to its guest.
const table = "millrace"

var (
	all  = &nftables.Table{Family: nftables.TableFamilyINet, Name: table}
	taps = &nftables.Table{Family: nftables.TableFamilyNetdev, Name: table}
)

// install puts up what all guests may, in place of what was there, and takes taps' chains down.
func (n *Network) install() error {
	c := new(nftables.Conn)
	renew(c, all)
	if err := n.admit(c); err != nil {
		return err
	}
	renew(c, taps)
	return c.Flush() // one transaction
}

// uninstall removes them.
func uninstall() error {
	c := new(nftables.Conn)
	for _, t := range []*nftables.Table{all, taps} {
		c.AddTable(t) // so that there is one to remove
		c.DelTable(t)
	}
	return c.Flush()
}

// renew empties a table of everything.
func renew(c *nftables.Conn, t *nftables.Table) {
	c.AddTable(t) // so that there is one to remove
	c.DelTable(t)
	c.AddTable(t)
}

// rule is a list of matches and what is done with what matches them all.
type rule = []expr.Any

func when(parts ...rule) rule { return slices.Concat(parts...) }

var (
	accept = verdict(expr.VerdictAccept, "")
	drop   = verdict(expr.VerdictDrop, "")
	// A guest that is told so need not wait to find out.
	reject = rule{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}

	fromGuest  = ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, prefix)
	fromClosed = ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, closedPrefix)
	toGuest    = ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, prefix)
	toOther    = ifname(expr.MetaKeyOIFNAME, expr.CmpOpNeq, prefix)

	answer  = state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	invalid = state(expr.CtStateBitINVALID)
)

func verdict(kind expr.VerdictKind, chain string) rule {
	return rule{&expr.Verdict{Kind: kind, Chain: chain}}
}

func ifname(key expr.MetaKey, op expr.CmpOp, begins string) rule {
	return rule{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte(begins)}}
}

func state(bits uint32) rule {
	return rule{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// meta matches one byte of a packet's meta data.
func meta(key expr.MetaKey, value byte) rule {
	return rule{&expr.Meta{Key: key, Register: 1}, equal(value)}
}

func equal(value ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value} }

func payload(base expr.PayloadBase, offset, length int) *expr.Payload {
	return &expr.Payload{Base: base, Offset: uint32(offset), Len: uint32(length), DestRegister: 1}
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// Where IPv4's and IPv6's headers have the addresses.
func source(a netip.Addr) *expr.Payload {
	if a.Is4() {
		return payload(expr.PayloadBaseNetworkHeader, 12, 4)
	}
	return payload(expr.PayloadBaseNetworkHeader, 8, 16)
}

func destination(a netip.Addr) *expr.Payload {
	if a.Is4() {
		return payload(expr.PayloadBaseNetworkHeader, 16, 4)
	}
	return payload(expr.PayloadBaseNetworkHeader, 24, 16)
}

// admit is what goes where, for all guests. It is, as nft would list it:
//
//	chain guest {                                      # from a guest, to anywhere
//		ct state established,related accept
//		ct state invalid drop
//		update @rate { iifname limit rate over … } drop
//		add @count { iifname ct count over … } drop
//		ct original ip daddr SERVICE meta l4proto tcp ct original proto-dst PORT accept   # and udp, for each service
//	}
//	chain input {
//		type filter hook input priority filter; policy accept;
//		iifname "mr-*" jump guest
//		iifname "mr-*" reject
//	}
//	chain forward {
//		type filter hook forward priority filter; policy accept;
//		iifname "mr-*" jump guest
//		iifname "mr-n*" reject
//		iifname "mr-*" oifname "mr-*" reject
//		iifname "mr-*" ip daddr @closed4 reject        # and ip6, @closed6
//		iifname "mr-*" tcp dport 25 reject
//		oifname "mr-*" ct state established,related accept
//		oifname "mr-*" drop
//	}
//	chain postrouting {
//		type nat hook postrouting priority srcnat; policy accept;
//		ip saddr POOL oifname != "mr-*" masquerade     # and ip6
//	}
//
// A service is known by where the guest sent its packets, not by where the host's other rules sent them on: the mirror may
// be a container. What is closed goes by both, as a packet's address is the one it will be sent to.
func (n *Network) admit(c *nftables.Conn) error {
	sets, err := n.addSets(c)
	if err != nil {
		return err
	}
	chain := func(name string, hook *nftables.ChainHook, kind nftables.ChainType, priority *nftables.ChainPriority, rules ...rule) {
		ch := c.AddChain(&nftables.Chain{Table: all, Name: name, Hooknum: hook, Type: kind, Priority: priority})
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: all, Chain: ch, Exprs: r})
		}
	}
	rate, count := uint64(n.cfg.ConnectionRate), uint32(n.cfg.Connections)
	guest := []rule{
		when(answer, accept),
		when(invalid, drop),
		when(perGuest(sets.rate, unix.NFT_DYNSET_OP_UPDATE, &expr.Limit{
			Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: uint32(10 * rate), Over: true,
		}), drop),
		when(perGuest(sets.count, unix.NFT_DYNSET_OP_ADD, &expr.Connlimit{Count: count, Flags: expr.NFT_CONNLIMIT_F_INV}), drop),
	}
	for _, s := range n.cfg.Services {
		guest = append(guest, when(isService(s, unix.IPPROTO_TCP), accept), when(isService(s, unix.IPPROTO_UDP), accept))
	}
	chain("guest", nil, "", nil, guest...)
	chain("input", nftables.ChainHookInput, nftables.ChainTypeFilter, nftables.ChainPriorityFilter,
		when(fromGuest, verdict(expr.VerdictJump, "guest")),
		when(fromGuest, reject),
	)
	forward := []rule{when(fromGuest, verdict(expr.VerdictJump, "guest")), when(fromClosed, reject), when(fromGuest, toGuest, reject)}
	nat := []rule{}
	for i, pool := range []netip.Prefix{n.cfg.Pool, n.cfg.Pool6} {
		ours, a := meta(expr.MetaKeyNFPROTO, family(pool.Addr())), pool.Addr()
		forward = append(forward, when(fromGuest, ours, rule{destination(a)}, in(sets.closed[i]), reject))
		nat = append(nat, when(ours, rule{source(a)}, within(pool), toOther, rule{&expr.Masq{}}))
	}
	smtp := rule{payload(expr.PayloadBaseTransportHeader, 2, 2), equal(0, 25)} // no machine for spam
	forward = append(
		forward, when(fromGuest, meta(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP), smtp, reject),
		when(toGuest, answer, accept), when(toGuest, drop),
	)
	chain("forward", nftables.ChainHookForward, nftables.ChainTypeFilter, nftables.ChainPriorityFilter, forward...)
	chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainTypeNAT, nftables.ChainPriorityNATSource, nat...)
	return nil
}

// within matches what is in register 1 if it is an address of p.
func within(p netip.Prefix) rule {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return rule{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		equal(p.Addr().AsSlice()...),
	}
}

type sets struct {
	rate, count *nftables.Set
	closed      [2]*nftables.Set // IPv4's, IPv6's
}

func (n *Network) addSets(c *nftables.Conn) (sets, error) {
	s := sets{
		rate: &nftables.Set{
			Table: all, Name: "rate", KeyType: nftables.TypeIFName, Dynamic: true,
			HasTimeout: true, Timeout: time.Minute, Size: 1 << 16, // by then a limit is as new
		},
		// Elements without connections go by themselves.
		count: &nftables.Set{Table: all, Name: "count", KeyType: nftables.TypeIFName, Dynamic: true, Size: 1 << 16},
		closed: [2]*nftables.Set{
			{Table: all, Name: "closed4", KeyType: nftables.TypeIPAddr, Interval: true},
			{Table: all, Name: "closed6", KeyType: nftables.TypeIP6Addr, Interval: true},
		},
	}
	closed4, closed6 := intervals(n.cfg.Closed, netip.Addr.Is4), intervals(n.cfg.Closed, netip.Addr.Is6)
	return s, errors.Join(c.AddSet(s.rate, nil), c.AddSet(s.count, nil), c.AddSet(s.closed[0], closed4), c.AddSet(s.closed[1], closed6))
}

func in(s *nftables.Set) rule {
	return rule{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

// perGuest matches what makes a guest exceed limit, which each has for itself.
func perGuest(s *nftables.Set, op uint32, limit expr.Any) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Dynset{SrcRegKey: 1, SetName: s.Name, SetID: s.ID, Operation: op, Exprs: []expr.Any{limit}},
	}
}

// isService matches what was first sent to s.
func isService(s netip.AddrPort, protocol byte) rule {
	return when(
		meta(expr.MetaKeyNFPROTO, family(s.Addr())), meta(expr.MetaKeyL4PROTO, protocol),
		rule{&expr.Ct{Key: expr.CtKeyDST, Register: 1}, equal(s.Addr().AsSlice()...)},
		rule{&expr.Ct{Key: expr.CtKeyPROTODST, Register: 1}, equal(binary.BigEndian.AppendUint16(nil, s.Port())...)},
	)
}

// intervals are the networks of one family as a set wants them: none within another, each from its first address to the
// one after its last.
func intervals(networks []netip.Prefix, ofFamily func(netip.Addr) bool) []nftables.SetElement {
	var list []nftables.SetElement
	for i, p := range networks {
		covered := func(q netip.Prefix) bool { return q.Bits() < p.Bits() && q.Overlaps(p) }
		if !ofFamily(p.Addr()) || slices.Contains(networks[:i], p) || slices.ContainsFunc(networks, covered) {
			continue
		}
		list = append(list, nftables.SetElement{Key: p.Addr().AsSlice()})
		if next := last(p).Next(); next.IsValid() {
			list = append(list, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return list
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// bind puts up the chain of one tap: what comes in is the guest's own, in every layer, or it is dropped. That leaves no
// ARP and no neighbour discovery, as both ends know each other; no router's advertisement and no other protocol.
//
//	chain mr-… {
//		type filter hook ingress device "mr-…" priority filter; policy drop;
//		ether saddr MAC meta protocol ip ip saddr ADDRESS accept
//		icmpv6 type { nd-router-solicit … nd-redirect } drop
//		ether saddr MAC meta protocol ip6 ip6 saddr ADDRESS accept
//	}
func (l *Link) bind(c *nftables.Conn) {
	policy := nftables.ChainPolicyDrop
	chain := c.AddChain(&nftables.Chain{
		Table: taps, Name: l.Name, Device: l.Name, Hooknum: nftables.ChainHookIngress, Type: nftables.ChainTypeFilter,
		Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	add := func(r rule) { c.AddRule(&nftables.Rule{Table: taps, Chain: chain, Exprs: r}) }
	add(when(
		protocol(unix.ETH_P_IPV6), meta(expr.MetaKeyL4PROTO, unix.IPPROTO_ICMPV6), rule{
			payload(expr.PayloadBaseTransportHeader, 0, 1),
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{routerSolicit}, ToData: []byte{redirect}},
		}, drop,
	))
	for _, a := range l.Guest {
		kind := protocol(unix.ETH_P_IP)
		if a.Is6() {
			kind = protocol(unix.ETH_P_IPV6)
		}
		ether := rule{payload(expr.PayloadBaseLLHeader, 6, 6), equal(l.MAC...)}
		add(when(ether, kind, rule{source(a), equal(a.AsSlice()...)}, accept))
	}
}

// The first and the last of neighbour discovery's messages (RFC 4861).
const routerSolicit, redirect = 133, 137

func protocol(ethertype uint16) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, equal(binary.BigEndian.AppendUint16(nil, ethertype)...)}
}

func addChain(l *Link) error {
	c := new(nftables.Conn)
	c.AddTable(taps)
	l.bind(c)
	return c.Flush()
}

// dropChain removes a tap's chain. Kernels before 6.16 have done so with the tap.
func dropChain(name string) error {
	c := new(nftables.Conn)
	c.DelChain(&nftables.Chain{Table: taps, Name: name})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
