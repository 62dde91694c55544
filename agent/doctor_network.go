package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

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
	skew := at.Add(time.Second / 2).Sub(m.Now()).Round(time.Second) // a Date says the second, not when in it
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

// networks says whether each VM gets a network that is closed but for the internet.
func (m Machine) networks() millrace.Finding {
	const check = "vm networks"
	if err := m.Networks(); err != nil {
		return warn(check, "VMs get QEMU's user-mode network, from which they reach what this host reaches, its own services included: "+err.Error()+".",
			"Run the agent (and doctor) as root, on a kernel with taps and nftables. Until then, run no job here that you don't trust.", "modprobe -a tun nf_tables")
	}
	switch rivals, err := m.Rivals(); {
	case err != nil:
		return warn(check, "The rules of nftables cannot be read: "+err.Error()+".", "Run doctor as root.", "sudo millrace-agent doctor")
	case len(rivals) > 0:
		return warn(check, "Each VM gets a tap, but other rules may keep it from the internet: "+strings.Join(rivals, ", ")+" drops what no rule of its own accepts.",
			"Have that accept what comes from and goes to interfaces mr-*; for Docker, as here.", "iptables -I DOCKER-USER -i mr-+ -j ACCEPT; iptables -I DOCKER-USER -o mr-+ -j ACCEPT")
	}
	return fine(check, "each VM gets a tap, from which it reaches the internet and what --allow says")
}
