package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
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

// What a proxy could read as one request and we as two is read as one, and nothing after it.
func TestOneRequestStaysOne(t *testing.T) {
	t.Parallel()
	const inside = "GET /inside HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, raw := range map[string]string{
		"a length, and chunks":    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: LENGTH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inside,
		"chunks, and a length":    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + inside,
		"a folded encoding":       "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: LENGTH\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + inside,
		"a chunk that ends in LF": "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0;x\n\r\n" + inside,
		"chunks in HTTP/1.0":      "POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inside,
		"a folded header":         "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-A: b\r\n GET /inside HTTP/1.1\r\n\r\n", // RFC 9112 §5.2: a space
		"lines that end in LF":    "GET / HTTP/1.1\nHost: h\nConnection: close\n\n",                                            // §2.2
	} {
		var seen []string
		server := httptest.NewServer(closedAfterChunks(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.URL.Path)
			io.Copy(io.Discard, r.Body) //nolint:errcheck // what can't be read is part of the test
		})))
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, strings.ReplaceAll(raw, "LENGTH", strconv.Itoa(len("0\r\n\r\n"+inside))))
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: the connection stays open: %v", name, err)
		}
		conn.Close()
		server.Close() // waits for the handler
		if !slices.Equal(seen, []string{"/"}) {
			t.Errorf("%s: requests for %v", name, seen)
		}
	}
}
