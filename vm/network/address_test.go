package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPairs(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"198.18.0.0/16", "192.0.2.0/24", "fdc8:3f1e:6d72::/64"} {
		pool := netip.MustParsePrefix(s)
		count := uint32(1 << 15)
		if pool.Addr().Is4() {
			count = slots(pool)
		}
		seen := map[netip.Addr]bool{}
		for slot := range count {
			gateway, guest := pair(pool, slot)
			if !pool.Contains(gateway) || !pool.Contains(guest) || guest.Prev() != gateway || netip.PrefixFrom(guest, guest.BitLen()-1).Masked().Addr() != gateway {
				t.Fatalf("%s: slot %d is %s and %s", pool, slot, gateway, guest)
			}
			seen[gateway], seen[guest] = true, true
		}
		if len(seen) != int(2*count) {
			t.Errorf("%s: %d addresses for %d slots", pool, len(seen), count)
		}
	}
}

// What the set of intervals holds is what the networks hold, whatever overlaps.
func TestIntervals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		address := rapid.Custom(func(t *rapid.T) netip.Addr {
			// Few different bytes, so that networks meet.
			b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xff}), 4, 4).Draw(t, "bytes")
			return netip.AddrFrom4([4]byte(b))
		})
		networks := rapid.SliceOf(rapid.Custom(func(t *rapid.T) netip.Prefix {
			return netip.PrefixFrom(address.Draw(t, "address"), rapid.IntRange(1, 32).Draw(t, "bits")).Masked()
		})).Draw(t, "networks")
		a := address.Draw(t, "probe")
		want := slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
		begun := 0 // intervals at a: those begun less those ended
		for _, e := range intervals(append(networks, special...), netip.Addr.Is4) {
			key, _ := netip.AddrFromSlice(e.Key)
			switch {
			case key.Compare(a) > 0:
			case e.IntervalEnd:
				begun--
			default:
				begun++
			}
		}
		want = want || slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
		if begun != map[bool]int{true: 1}[want] {
			t.Fatalf("%s is in %d intervals of %v", a, begun, networks)
		}
	})
}

func TestResolvers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ etc, resolved, want string }{
		"none":               {"", "", "1.1.1.1 8.8.8.8"},
		"public":             {"# a comment\nsearch example.org\nnameserver 198.51.100.1\nnameserver 2001:db8::1\n", "", "198.51.100.1 2001:db8::1"},
		"private":            {"nameserver 192.168.1.1\n", "", "1.1.1.1 8.8.8.8"},
		"systemd-resolved's": {"nameserver 127.0.0.53\n", "nameserver 10.0.0.2\nnameserver 198.51.100.1\n", "198.51.100.1"},
		"too many":           {strings.Repeat("nameserver 198.51.100.1\n", 2) + "nameserver 198.51.100.2\nnameserver 198.51.100.3\nnameserver 198.51.100.4\n", "", "198.51.100.1 198.51.100.2 198.51.100.3"},
		"nonsense":           {"nameserver\nnameserver x\nnameserver fe80::1%eth0\n", "", "1.1.1.1 8.8.8.8"},
	} {
		root := t.TempDir()
		for file, text := range map[string]string{"etc/resolv.conf": c.etc, "run/systemd/resolve/resolv.conf": c.resolved} {
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, a := range usable(hostResolvers(root), special) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Config{
		"256 addresses or more": {Pool: netip.MustParsePrefix("10.0.0.0/25")},
		"IPv4":                  {Pool: netip.MustParsePrefix("fd00::/64")},
		"as large as":           {Pool6: netip.MustParsePrefix("fd00::/113")},
		"is not a network":      {Closed: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}},
		"negative":              {ConnectionRate: -1},
	} {
		if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
