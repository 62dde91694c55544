//go:build profile

package main

import (
	"net/http"
	"net/http/pprof"
)

// The build that is profiled, `go build -tags profile`, serves profiles beside its metrics.
func init() {
	operators = func(metrics http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", metrics)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		return mux
	}
}
