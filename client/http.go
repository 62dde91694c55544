package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout  = 5 * time.Second
	maxRESTBody  = 16 << 20
	maxAgentBody = 1 << 20 // a host's whole list of orders; what is larger is no honest server
	maxHeader    = 64 << 10
)

// NewHTTP is the HTTP client for both clients: it connects within 5 s, keeps connections, and
// follows no redirect, for neither a token nor a signature is meant for another address.
func NewHTTP() *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			TLSHandshakeTimeout: dialTimeout,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     90 * time.Second,

			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// do sends r, reads the answer into out, and returns the answer's header. out may be nil, or a *[]byte for the bytes as they are.
// An answer that isn't 2xx is the server's error.
func do(c *http.Client, r *http.Request, limit int64, out any) (http.Header, error) {
	r.Header.Set("Accept", "application/json, "+ProblemType)
	res, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // no deadline ends what would be read
		return res.Header, errorOf(res.StatusCode, "", nil)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return res.Header, fmt.Errorf("client: reading the answer: %w", err)
	case int64(len(body)) > limit:
		return res.Header, fmt.Errorf("client: the server's answer exceeds %d bytes", limit)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return res.Header, errorOf(res.StatusCode, res.Header.Get("Content-Type"), body)
	case out == nil || res.StatusCode == http.StatusNoContent:
		return res.Header, nil
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = body
		return res.Header, nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return res.Header, fmt.Errorf("client: the server's answer is not what was asked for: %w", err)
	}
	return res.Header, nil
}
