# Outrigger: what one does with it. `make` lists the targets.
SHELL := /bin/bash
CARGO ?= cargo
# further words for the command of a target, as in: make test ARGS='-p proxy-core'
ARGS ?=
# what builds images
CONTAINER ?= docker
# whether `make release` is guided by a profile
PROFILE ?= 1

.PHONY: help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

.PHONY: build
build: ## the proxy, unoptimised (target/debug/outrigger)
	@revision=$$(scripts/revision.sh) && eval "$$revision" && $(CARGO) build -p proxy $(ARGS)

.PHONY: release
release: ## the proxy as it is measured and shipped (target/shipped/outrigger); PROFILE=0 is quicker to build and slower to run
	CARGO=$(CARGO) PROFILE=$(PROFILE) scripts/release.sh

.PHONY: image
image: ## a container image of the proxy (CONTAINER=podman)
	@revision=$$(scripts/revision.sh) && eval "$$revision" && $(CONTAINER) build -f Containerfile -t outrigger \
	  --build-arg REVISION=$${OUTRIGGER_REVISION:-unknown} --build-arg STATUS=$${OUTRIGGER_STATUS:-unknown} .

.PHONY: test
test: ## every test; installs the real Envoy to compare with
	@scripts/sidecar.sh || true
	@command -v testssl >/dev/null || scripts/apt.sh testssl.sh || true
	@command -v faketime >/dev/null || scripts/apt.sh faketime || true
	@command -v slowhttptest >/dev/null || scripts/apt.sh slowhttptest || true
	@peers=$$(scripts/peers.sh envoy) && eval "$$peers" && $(CARGO) test --workspace $(ARGS)

# integration tests that make network namespaces and rules in them, which takes root
AS_ROOT := redirect sidecar
# (interop has a target of its own)
TESTS := $(filter-out $(AS_ROOT),$(notdir $(basename $(wildcard tests/tests/*.rs proxy/*/tests/*.rs))) $(patsubst tests/tests/%/main.rs,%,$(wildcard tests/tests/*/main.rs)))

.PHONY: test-rootless
test-rootless: ## every test that does not take root: all but redirection and the mesh of sidecars
	@peers=$$(scripts/peers.sh envoy) && eval "$$peers" && \
	  $(CARGO) test --workspace --lib --bins $(TESTS:%=--test %) $(ARGS)

.PHONY: differential
differential: ## only the comparison with the real Envoy (CASE=word, SHOW=1)
	@peers=$$(scripts/peers.sh envoy) && eval "$$peers" && $(CARGO) test -p integration --test differential $(ARGS)

.PHONY: interop
interop: ## with programs of others: control planes, clients, servers, conformance suites
	@tools=$$(scripts/interop.sh) && eval "$$tools" && $(CARGO) test --workspace --test interop $(ARGS)

.PHONY: faults
faults: ## fault scenarios on a release build (FULL=1: all sizes of the list); the worst amplifications
	@command -v faketime >/dev/null || scripts/apt.sh faketime || true
	@command -v slowhttptest >/dev/null || scripts/apt.sh slowhttptest || true
	$(CARGO) build --release --workspace --bin outrigger
	@rm -f target/debug/amplification.tsv
	FULL=$(FULL) OUTRIGGER=$$PWD/target/release/outrigger $(CARGO) test --workspace --test faults $(ARGS)
	@echo "Worst amplifications (times what the peer sent or spent):"; sort -rn target/debug/amplification.tsv | head -n 5

.PHONY: soak
soak: ## mixed load, changes and kills for MINUTES=20
	$(CARGO) build --release --workspace --bin outrigger
	SOAK_MINUTES=$${MINUTES:-20} OUTRIGGER=$$PWD/target/release/outrigger $(CARGO) test --workspace --test faults s01 -- --nocapture

.PHONY: bench
bench: release ## CPU, latency and memory beside Envoy, HAProxy and nginx (ARGS='--quick --only h1,h2')
	@scripts/sidecar.sh
	@peers=$$(scripts/peers.sh all) && eval "$$peers" && $(CARGO) run --release -p benches --bin load -- $(ARGS)

.PHONY: instructions
instructions: ## instructions per request, counted by callgrind, against benches/instructions.tsv (ARGS='--only h1 --tables')
	CARGO=$(CARGO) scripts/instructions.sh $(ARGS)

.PHONY: demo
demo: ## real traffic while the routes change underneath
	$(CARGO) build --release --workspace --bin outrigger --bin demo
	OUTRIGGER=$(CURDIR)/target/release/outrigger target/release/demo $(ARGS)

.PHONY: sidecar-demo
sidecar-demo: ## a mesh of sidecars in network namespaces: plain programs, mutual TLS, changes under load (as root)
	@scripts/sidecar.sh
	$(CARGO) build --workspace --bin outrigger --bin outrigger-iptables --bin sidecar_demo
	target/debug/sidecar_demo $(ARGS)

.PHONY: ratelimit-demo
ratelimit-demo: ## one limit for three proxies, counted by the public rate limit service and Redis
	@service=$$(scripts/ratelimit.sh) && eval "$$service" && \
	  $(CARGO) build --workspace --bin outrigger --bin ratelimit_demo && target/debug/ratelimit_demo $(ARGS)

.PHONY: fmt
fmt: ## formats the code
	$(CARGO) fmt --all

.PHONY: lint
lint: ## format and lints, as CI wants them
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: doc
doc: ## the documentation of the code
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps $(ARGS)

.PHONY: deny
deny: ## crate layers, licences, sources (needs nothing but cargo)
	$(CARGO) test -p integration --test layers

.PHONY: fuzz
fuzz: ## every fuzz target for a while (SECONDS_EACH=6)
	scripts/fuzz.sh $(ARGS)

.PHONY: sim
sim: ## random schedules of the state machines without sockets; SEED=n repeats one
	$(CARGO) test --workspace --lib simulation $(ARGS)

.PHONY: peers
peers: ## installs Envoy, HAProxy, nginx, wrk, h2load, and prints where they are
	@scripts/peers.sh all

.PHONY: ci
ci: ## all that CI does
	.ci/run
