#!/usr/bin/env bash
# All tests with the race detector. One Postgres serves all packages, and packages run two at a time: real VMs and a
# browser want a core each. The simulator's days come last and without the detector: each is one thread.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=1
go vet ./...
go test -race -count=1 -p 2 -timeout 20m -skip '^TestSim' ./...
exec go test -count=1 -timeout 30m -run '^TestSim' ./sim
