package main

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// behindProxies has requests say where they come from when a proxy of ours passes them on: the last address in
// X-Forwarded-For that isn't one of ours. Whoever else sends the header is not believed.
func behindProxies(proxies []netip.Prefix, next http.Handler) http.Handler {
	if len(proxies) == 0 {
		return next
	}
	ours := func(text string) (address netip.Addr, is bool) {
		address, err := netip.ParseAddr(strings.TrimSpace(text))
		address = address.Unmap()
		if err != nil {
			return address, false
		}
		for _, p := range proxies {
			if p.Contains(address) {
				return address, true
			}
		}
		return address, false
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, port, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			next.ServeHTTP(w, r)
			return
		}
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0; i-- {
			if _, is := ours(host); !is {
				break
			}
			hop, _ := ours(hops[i])
			if !hop.IsValid() {
				break
			}
			host = hop.String()
		}
		r = r.Clone(r.Context())
		r.RemoteAddr = net.JoinHostPort(host, port)
		next.ServeHTTP(w, r)
	})
}

// closedAfterChunks ends a connection after a request whose body came in chunks. It may have given a length besides, which
// net/http drops without a word: a proxy that went by the length took for the rest of the body what would be the next request
// here (RFC 9112 §6.1 has the server close).
func closedAfterChunks(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
