package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// reachWithin is how long a server may take to answer.
const reachWithin = 10 * time.Second

// reach asks for an address: what answers, and when by its clock, or what kept the answer away. Whatever answers is there. Where HTTPS_PROXY or HTTP_PROXY
// name a proxy it is asked through that, as everything the agent does.
func (m Machine) reach(ctx context.Context, address string) (status int, date string, err error) {
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	res, err := m.HTTP.Do(r)
	if err != nil {
		return 0, "", err
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header.Get("Date"), nil
}

// through names the proxy that address is asked through: " through proxy.example:3128"; "" when there is none.
func (m Machine) through(address string) string {
	transport, ok := m.HTTP.Transport.(*http.Transport)
	if !ok || transport.Proxy == nil {
		return ""
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	proxy, err := transport.Proxy(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	return " through the proxy " + proxy.Host
}

// server asks the control plane whether it lives, and for its time.
func (m Machine) server(ctx context.Context, url string) []millrace.Finding {
	const check = "control plane"
	const do = "Check the address, DNS, the firewall (only outgoing connections are needed) and HTTPS_PROXY."
	command := "curl -v " + url + "/healthz"
	began := m.Now()
	status, date, err := m.reach(ctx, url+"/healthz")
	switch {
	case err != nil && ctx.Err() != nil:
		return []millrace.Finding{unknown(check)}
	case err != nil:
		return []millrace.Finding{fail(check, err.Error(), do, command)}
	}
	found := []millrace.Finding{fine(check, "%s answers in %s%s", url, m.Now().Sub(began).Round(time.Millisecond), m.through(url))}
	if status != http.StatusOK {
		found[0] = fail(check, fmt.Sprintf("%s answers %d %s%s.", url, status, http.StatusText(status), m.through(url)), do, command)
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return found
	}
	skew := at.Sub(m.Now()).Round(time.Second)
	clock := fine("clock", "%s off the control plane's", skew.Abs())
	if skew.Abs() > client.MaxSkew/2 {
		clock = warn("clock", clock.Found, "Have NTP set it. The agent makes up for a wrong clock; logs and certificates do not.", "timedatectl set-ntp true || apt-get -y install chrony")
	}
	return append(found, clock)
}

// github asks each of GitHub's hosts for anything. It is a warning when one doesn't answer, for the agent needs none of them:
// its VMs do, and their way out need not be the host's.
func (m Machine) github(ctx context.Context) []millrace.Finding {
	const check = "github"
	if len(m.GitHub) == 0 {
		return nil
	}
	errs := make([]error, len(m.GitHub))
	var asked sync.WaitGroup
	for i, host := range m.GitHub {
		asked.Go(func() { _, _, errs[i] = m.reach(ctx, address(host)) })
	}
	asked.Wait()
	var silent []string
	for i, host := range m.GitHub {
		if errs[i] != nil {
			silent = append(silent, host)
		}
	}
	first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	switch {
	case first < 0:
		return []millrace.Finding{fine(check, "%s answer%s", strings.Join(m.GitHub, ", "), m.through(address(m.GitHub[0])))}
	case ctx.Err() != nil:
		return []millrace.Finding{unknown(check)}
	}
	return []millrace.Finding{warn(check, fmt.Sprintf("Jobs need these, which this host can't reach: %s (%s).", strings.Join(silent, ", "), reason(errs[first])),
		"Let outgoing HTTPS to them through the firewall, or set HTTPS_PROXY to the proxy that does.", "curl -v "+address(silent[0]))}
}

// address is a host's by HTTPS, unless it says otherwise.
func address(host string) string {
	if strings.Contains(host, "://") {
		return host
	}
	return "https://" + host + "/"
}

// reason is the inmost of what went wrong: the rest repeats the address.
func reason(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

func (m Machine) nft() millrace.Finding {
	if err := m.NFTables(); err != nil {
		return warn("nftables", "VMs can't be fenced off from this host's network by nftables: "+err.Error()+".", "Run the agent and doctor as root, on a kernel with nf_tables.", "modprobe nf_tables")
	}
	return fine("nftables", "the kernel takes rules")
}

// nftables asks the kernel for the generation of its rules (NFT_MSG_GETGEN of linux/netfilter/nf_tables.h), which changes
// nothing and has the module loaded.
func nftables() error {
	const getGen = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	// struct nlmsghdr and struct nfgenmsg, which has 4 bytes, in the machine's byte order.
	request := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], getGen)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		return unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])))
	}
	return nil
}
