# `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOWPATH_TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/towpath/bin
export TOWPATH_TOOLS

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target says; do printf '  %-10s %s\n' "$$target" "$$says"; done

.PHONY: build
build: ## build bin/towpath, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/towpath ./cmd/towpath

.PHONY: demo
demo: ## commit, build, publish, signed bump, for real, on this machine
	@e2e/tools/install sandbox registry shell signatures executor
	@$(MAKE) --no-print-directory build
	@go run ./e2e/demo bin/towpath

.PHONY: tools
tools: ## install what the tests run against
	@e2e/tools/install

.PHONY: test
test: tools ## all unit and integration tests: real executor, git, registry
	go test -race -timeout 30m $$(go list ./... | grep -v '/e2e$$')
	go test -timeout 60m -parallel 3 ./e2e # by itself: it has deadlines that users have, too
	go test -race -timeout 20m -run 'TestTwoDaemons|TestTwentyPushesInARow|TestReloadDuringBuild' ./e2e

.PHONY: e2e
e2e: ## the tests on a real Kubernetes node with Flux, on this machine or where TOWPATH_E2E_KUBECONFIG says
	@e2e/tools/install node flux registry shell bases servers executor
	go test -tags cluster -v -count 1 -timeout 60m ./e2e/cluster # -v: it tells how long each leg takes
	go test -tags cluster -count 1 -run 'TestABuildThatFailsIsSeenOnItsCommit|TestABumpIsAppliedAtOnce' ./e2e

.PHONY: node
node: ## a Kubernetes node with Flux on this machine, until Ctrl-C
	@e2e/tools/install node flux registry shell
	@go run ./e2e/cluster/up

.PHONY: lint
lint: ## gofmt, go vet and golangci-lint
	@e2e/tools/install golangci-lint
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	go vet -tags cluster ./...
	cd e2e/bench && go vet . # a module of its own
	$(TOWPATH_TOOLS)/golangci-lint run ./...

.PHONY: bench
bench: ## measure, on this machine and on a node of our own (BENCH="-only crowd,idle -markdown" and the like: e2e/bench)
	@e2e/tools/install sandbox registry shell executor node flux
	@$(MAKE) --no-print-directory build
	@cd e2e/bench && go run . $(BENCH) ../../bin/towpath

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
