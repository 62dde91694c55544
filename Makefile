# The menu: `make` prints it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GUEST := scripts/guest.sh
LINT  := go tool -modfile=tools/go.mod golangci-lint

help: ## Print this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install and prepare what a fresh machine needs: packages, guest kernel, guest programs
	@scripts/deps.sh
	@$(GUEST)
	@scripts/release.sh

dev: deps ## Run the whole system on this machine, with a stand-in GitHub
	@go build -o bin/millraced ./cmd/millraced
	@exec bin/millraced dev $(ARGS)

test: deps ## Run all tests, with the race detector
	@scripts/test.sh

e2e: deps ## Run the whole-system tests alone: a real VM, a real browser
	go test -count=1 -v ./sim/...

bench: deps ## Print the figures of docs/figures.md; fails when one misses its goal
	@go run ./sim/bench

bench-placement: ## Print what a placement pass over 10,000 jobs and 1,000 hosts takes; fails when it misses its goal
	@go run ./sim/bench -placement

bench-fleet: ## Print what 2,000 hosts cost the server, idle, after restarts and at 100 jobs/s; ARGS="-hosts 200 -for 30s -rate 10"
	@go run ./sim/bench -fleet $(ARGS)

sim: deps ## Simulate days on which everything goes wrong, then the scenarios that have figures; SEED=n for one day
	@go build -o bin/simulate ./sim/simulate
	@$(if $(SEED),GOMAXPROCS=1 $(shell taskset -c 0 true 2>/dev/null && echo taskset -c 0) bin/simulate -seed $(SEED) $(ARGS),bin/simulate $(ARGS) && bin/simulate -scenario lost && bin/simulate -scenario hooks && bin/simulate -scenario 18)

sim-mutants: deps ## Put bugs into the code: the simulator must catch each
	@go run ./sim/mutants $(ARGS)

chaos: deps ## Kill servers, agent and Postgres at work, then balance the books; ARGS="-for 4m -seed 1"
	@go run ./sim/chaos $(ARGS)

generate: ## Make the generated files anew: templ, CSS and JS, OpenAPI, schema
	go tool templ generate
	cd frontend && npm ci --no-audit --no-fund && npm run build
	go test . -run 'Test.*Doc' -update
	go test ./api -run TestOpenAPI -update
	go test ./store -run TestSchema -update

verify: ## Fail when a generated file is stale
	@scripts/verify.sh

lint: ## Run the linters
	go vet ./...
	$(LINT) run --allow-parallel-runners ./...

fmt: ## Format Go and templ
	$(LINT) fmt ./...
	go tool templ fmt web

build: deps ## Build the three programs into bin/, and the agent for hosts of both architectures
	go build -o bin/ ./cmd/millraced ./cmd/millrace-agent ./cmd/millrace
	for arch in amd64 arm64; do CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -ldflags "-s -w" -o bin/millrace-agent-linux-$$arch ./cmd/millrace-agent; done

clean: ## Remove what dev and build left here
	rm -rf bin .data

.PHONY: help deps dev test e2e bench bench-placement bench-fleet sim sim-mutants chaos generate verify lint fmt build clean
