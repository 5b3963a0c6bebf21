# make demo    what skreap does, shown on this machine's kernel (root or sudo)
# make test    everything that must hold: format, lints, unit and kernel tests (root or sudo)
# make bench   a quick run of the benchmark kit (root or sudo)

CARGO ?= cargo
SUDO  ?= $(if $(filter 0,$(shell id -u)),,sudo -E)
BUILD  = target/release

# What the build needs beyond git, make and a Rust toolchain
PACKAGES = clang-19 gcc libc6-dev libelf-dev make pkg-config zlib1g-dev

.PHONY: all build deps demo test fmt clippy unit kernel-tests docs clean help

all: build

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

# Installs what is missing, and says so; does nothing if all is there.
deps:
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}\n' $$p 2>/dev/null | grep -q '^install ok installed$$' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing Debian packages:$$missing"; \
		$(SUDO) apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

build: deps
	$(CARGO) build --release --locked --workspace

demo: build
	$(SUDO) $(BUILD)/skreap demo

test: deps fmt clippy unit docs kernel-tests

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Needs no privileges.
unit:
	$(CARGO) test --locked --workspace --lib --bins --examples
	$(CARGO) test --locked --workspace --doc

docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --quiet

# Real sockets, processes and namespaces on the running kernel.
kernel-tests:
	$(CARGO) test --locked --release --package skreap --test kernel --no-run
	$(CARGO) build --locked --release --package skreap
	$(SUDO) env SKREAP_TESTS=required $(CARGO) test --locked --release --package skreap --test kernel

clean:
	$(CARGO) clean
