//go:build linux

package pid1

import (
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QEMU's user-mode network has the same addresses for every guest, each on a network of its own
// (https://wiki.qemu.org/Documentation/Networking, "User Networking").
var (
	address = netip.MustParseAddr("10.0.2.15")
	mask    = netip.MustParseAddr("255.255.255.0")
	gateway = netip.MustParseAddr("10.0.2.2")
)

const resolvConf = "nameserver 10.0.2.3\n"

const nic = "eth0"

// configureNetwork brings up the loopback and the one network card.
func configureNetwork() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := up(fd, "lo"); err != nil {
		return err
	}
	if err := wait("the network card", func() bool { _, err := os.Stat("/sys/class/net/" + nic); return err == nil }); err != nil {
		return err
	}
	if err := setAddr(fd, unix.SIOCSIFADDR, address); err != nil {
		return err
	}
	if err := setAddr(fd, unix.SIOCSIFNETMASK, mask); err != nil {
		return err
	}
	if err := up(fd, nic); err != nil {
		return err
	}
	if err := addDefaultRoute(fd); err != nil {
		return err
	}
	return os.WriteFile("/etc/resolv.conf", []byte(resolvConf), 0o644)
}

func setAddr(fd int, request uint, addr netip.Addr) error {
	ifr, err := unix.NewIfreq(nic)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(addr.AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, request, ifr); err != nil {
		return fmt.Errorf("setting %s of %s: %w", addr, nic, err)
	}
	return nil
}

func up(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing up %s: %w", name, err)
	}
	return nil
}

// rtentry is struct rtentry of linux/route.h on 64-bit machines.
type rtentry struct {
	pad1               uint64
	dst, gateway, mask unix.RawSockaddrInet4
	flags              uint16
	pad2               int16
	pad3               uint64
	pad4               uintptr
	metric             int16
	dev                uintptr
	mtu, window        uint64
	irtt               uint16
}

func addDefaultRoute(fd int) error {
	route := rtentry{
		dst: unix.RawSockaddrInet4{Family: unix.AF_INET}, mask: unix.RawSockaddrInet4{Family: unix.AF_INET},
		gateway: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: gateway.As4()}, flags: unix.RTF_UP | unix.RTF_GATEWAY,
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&route))); errno != 0 { //nolint:gosec // the ioctl takes a pointer
		return fmt.Errorf("adding the default route: %w", errno)
	}
	return nil
}
