# Bowline's commands for people: `make up` for a cluster, `make test` for every check.
# Both share one cargo profile and one build; CARGO_TARGET_DIR may name a cache outside the tree.

NODES ?= 1
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
BIN := $(TARGET)/$(TRIPLE)/debug
BOWLINE := $(BIN)/bowline

.DEFAULT_GOAL := help
.PHONY: help setup build up down test bench deny fmt clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Install what is missing: Debian packages, the eBPF linker, kubectl
	@deploy/setup.sh

# The examples make cargo choose the features that the tests will want: else `make test` builds half of it again.
build: setup ## Build every binary
	@cargo build --workspace --bins --examples

up: build ## Start a cluster (NODES=1), apply the demo, leave ./kubeconfig
	@$(BOWLINE) local up --nodes $(NODES) --kubeconfig $(CURDIR)/kubeconfig --demo deploy/demo.yaml

down: ## Remove the cluster and everything of it
	@if [ -x $(BOWLINE) ]; then $(BOWLINE) local down; else echo "nothing was built, so nothing runs"; fi
	@rm -f $(CURDIR)/kubeconfig

test: setup ## Run every check: format, clippy, tidy, unit, script, kernel and cluster tests
	@tests/run.sh

bench: build ## Print the measured ratios (see docs/bench.md)
	@$(BIN)/bowline-bench

deny: ## Check the licenses, sources and doubles of all dependencies (with cargo-deny)
	@cargo deny check bans licenses sources

fmt: ## Format the code
	@cargo fmt --all

clean: down ## Remove the cluster and what was built
	@cargo clean
