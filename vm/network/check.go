package network

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Check says why this process can't give VMs networks of their own, nil if nothing speaks against it. It changes
// nothing; [Open] is the proof.
func Check() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("the agent isn't root and has no CAP_NET_ADMIN")
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("the kernel has no taps: %w", err)
	}
	tun.Close()
	if _, err := new(nftables.Conn).ListTables(); err != nil {
		return fmt.Errorf("the kernel has no nftables: %w", err)
	}
	return nil
}

// routed are the families of what a host forwards; in others, hooks of the same number are something else.
var routed = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}

// Rivals are chains of others that drop what no rule of theirs accepts before it is passed on, as Docker's and ufw's do:
// guests have no internet until one accepts what comes from and goes to "mr-*".
func Rivals() ([]string, error) {
	chains, err := new(nftables.Conn).ListChains()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, c := range chains {
		forwards := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && slices.Contains(routed, c.Table.Family)
		if forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			found = append(found, fmt.Sprintf("%s in table %s", c.Name, c.Table.Name))
		}
	}
	return found, nil
}
