package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const sysctls = "/proc/sys/net/"

// forward makes this host a router, as VMs need it, and says whether it is one for IPv6, too.
func forward() (ipv6 bool, err error) {
	if err := set("ipv4/ip_forward", "1"); err != nil {
		return false, err
	}
	switch off, err := get("ipv6/conf/default/disable_ipv6"); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case off == "1":
		return false, nil
	}
	// A router believes no other router's advertisements unless it is told to (2): what the host heard its own addresses
	// and routes from until now it must go on to hear (Documentation/networking/ip-sysctl.rst of the kernel).
	listening, err := filepath.Glob(sysctls + "ipv6/conf/*/accept_ra")
	if err != nil {
		return false, err
	}
	for _, path := range listening {
		name := strings.TrimPrefix(path, sysctls)
		if value, err := get(name); err == nil && value == "1" {
			if err := set(name, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
		}
	}
	return true, set("ipv6/conf/all/forwarding", "1")
}

// restrain keeps a tap from what a guest could talk its host into: redirects, routes in packets, and addresses that it
// advertises; and a source that isn't the guest's from being believed even if no rule of nftables were there.
func restrain(tap string, ipv6 bool) error {
	settings := [][2]string{
		{"ipv4/conf/" + tap + "/rp_filter", "1"},
		{"ipv4/conf/" + tap + "/accept_redirects", "0"},
		{"ipv4/conf/" + tap + "/accept_source_route", "0"},
	}
	if ipv6 {
		settings = append(settings,
			[2]string{"ipv6/conf/" + tap + "/accept_ra", "0"},
			[2]string{"ipv6/conf/" + tap + "/accept_redirects", "0"},
			[2]string{"ipv6/conf/" + tap + "/addr_gen_mode", "1"}, // no link-local address
		)
	}
	for _, s := range settings {
		if err := set(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

func get(name string) (string, error) {
	content, err := os.ReadFile(sysctls + name)
	return strings.TrimSpace(string(content)), err
}

// set leaves alone what is right already: some places have it right and read-only.
func set(name, value string) error {
	if now, err := get(name); err == nil && now == value {
		return nil
	}
	if err := os.WriteFile(sysctls+name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting net/%s to %s: %w", name, value, err)
	}
	return nil
}
