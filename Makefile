# Everything a developer does, by name. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

DEMO_DIR   ?= /var/lib/basalt/demo
IMAGE_DIR  ?= /var/lib/basalt/images/first-light
TARGET     := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
GUEST_DIR  ?= $(TARGET)/guest
KUBECTLS   ?= kubectl
CASES      ?= 20000

.PHONY: help setup build release demo demo-down test lint manifests compatibility fuzz bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

setup: ## Install what building, testing and the demo need (root)
	@scripts/setup build test demo

build: ## Build all programs for development
	@scripts/setup build
	cargo build --workspace --bins

release: ## Build all programs as they are shipped
	@scripts/setup build
	cargo build --release --bins -p basalt-gateway -p basalt-agent -p basaltctl

demo: ## Run the main job: a gateway, three hosts, three VMs that answer HTTP (root)
	@scripts/setup build demo
	cargo build --release --bins -p basalt-gateway -p basalt-agent -p basaltctl
	@TARGET=$(TARGET) DEMO_DIR=$(DEMO_DIR) IMAGE_DIR=$(IMAGE_DIR) scripts/demo up

demo-down: ## Remove every trace of the demo
	@TARGET=$(TARGET) DEMO_DIR=$(DEMO_DIR) IMAGE_DIR=$(IMAGE_DIR) scripts/demo down

test: ## Run all tests, on real QEMU guests, etcd and kubectl (root); BASALT_TEST_KILLS=200 kills the gateway that often
	@scripts/setup build test demo
	@scripts/guest-image $(GUEST_DIR) --disk
	cargo build --workspace --bins
	@scripts/manifests --check
	BASALT_GUEST_DIR=$(GUEST_DIR) cargo nextest run --workspace --no-fail-fast

lint: ## Formatting, clippy without warnings, licences and bans of dependencies
	@scripts/setup build lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny check bans licenses sources

manifests: ## Write manifests/crds from the types in api/
	@scripts/setup build
	@scripts/manifests

compatibility: ## Write docs/compatibility.md from what each kubectl of KUBECTLS prints
	@scripts/setup build test
	@scripts/compatibility $(KUBECTLS)

fuzz: ## Send manifests, patches and intents with random faults, CASES of each kind
	@scripts/setup build test
	PROPTEST_CASES=$(CASES) cargo nextest run -p basalt-apiserver --test fuzz --no-fail-fast

bench: ## Measure, each figure as a ratio against a named reference in the same run (root)
	@scripts/setup build test demo
	@scripts/guest-image $(GUEST_DIR)
	cargo build --release --bins -p basalt-gateway -p basalt-agent -p basaltctl -p basalt-e2e
	BASALT_GUEST_DIR=$(GUEST_DIR) $(TARGET)/release/basalt-bench

clean: ## Remove what was built
	cargo clean
