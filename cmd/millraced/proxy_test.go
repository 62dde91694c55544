package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestBehindProxies(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"203.0.113.9:1234", nil, "203.0.113.9:1234"},
		{"203.0.113.9:1234", []string{"192.0.2.1"}, "203.0.113.9:1234"}, // not one of ours says so
		{"10.1.2.3:1234", []string{"192.0.2.1"}, "192.0.2.1:1234"},
		{"10.1.2.3:1234", []string{"1.1.1.1, 192.0.2.1"}, "192.0.2.1:1234"}, // the first was the client's own word
		{"10.1.2.3:1234", []string{"1.1.1.1", "192.0.2.1, 10.9.9.9"}, "192.0.2.1:1234"},
		{"10.1.2.3:1234", []string{"10.7.7.7"}, "10.7.7.7:1234"},
		{"10.1.2.3:1234", []string{"unknown"}, "10.1.2.3:1234"},
		{"10.1.2.3:1234", []string{""}, "10.1.2.3:1234"},
		{"10.1.2.3:1234", nil, "10.1.2.3:1234"},
		{"[fd00::1]:1234", []string{"2001:db8::7"}, "[2001:db8::7]:1234"},
		{"[::ffff:10.1.2.3]:1234", []string{"192.0.2.1"}, "192.0.2.1:1234"},
	} {
		got := ""
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = tc.remote
		for _, v := range tc.forwarded {
			r.Header.Add("X-Forwarded-For", v)
		}
		behindProxies(proxies, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr })).ServeHTTP(nil, r)
		if got != tc.want {
			t.Errorf("%s, forwarded for %q: %s, want %s", tc.remote, tc.forwarded, got, tc.want)
		}
	}
}
