# make demo    a demonstration on this machine's kernel (root or sudo)
# make test    every required check: format, lints, unit and kernel tests, a stock kernel in QEMU (root or sudo)
# make test-matrix   the tests on all kernels of docs/support-matrix.md in QEMU (root or sudo)
# make test-fleet    the watcher and the service in a cluster with a real control plane (root or sudo)
# make image   the container image, in target/image
# make deb     the Debian package, in target/debian
# make findings   runs the scripts of findings/: behaviour of the kernel and others that surprises (root or sudo)
# make clients   what real programs do after a destroy, a revive and a move (root or sudo)
# make fuzz    looks for input that breaks a property (nightly toolchain); SECONDS=600 TARGET=request
# make bench   a quick run of the benchmark kit (root or sudo)
# make bench-guard   ratios that a change must not make worse (root or sudo, ten minutes)

CARGO ?= cargo
SUDO  ?= $(if $(filter 0,$(shell id -u)),,sudo -E)
BUILD  = target/release

# Packages that the build needs beyond git, make and a Rust toolchain
PACKAGES = clang-19 gcc libc6-dev libelf-dev libprotobuf-dev make pkg-config protobuf-compiler zlib1g-dev

.PHONY: all bench build deb deps deps-debug-kernel deps-vm demo kmod kmod-install kmod-source test test-deb test-debug-kernel test-upstream deps-upstream test-matrix test-vm check-matrix checkpatch shellcheck support-matrix verifier-record fmt clippy unit kernel-tests docs fuzz clean help

all: build

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

# Installs missing packages, and prints their names; does nothing if none is missing.
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

test: deps fmt clippy shellcheck check-matrix unit docs watch-tests kernel-tests model test-deb test-vm

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --package skreap --features fault --test fault -- -D warnings
	$(CARGO) clippy --locked --package skreap --no-default-features --lib -- -D warnings

# Needs no privileges.
unit:
	$(CARGO) test --locked --workspace --lib --bins --examples
	$(CARGO) test --locked --package skreap --features fuzzing --test replay
	$(CARGO) test --locked --package skreap --test house
	$(CARGO) test --locked --workspace --doc

docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --quiet

# The types that packages of skreap-bpf have for docs.rs, where there is no clang. A target directory of its own: what is
# built with another environment is built anew.
.PHONY: types
types: deps
	mkdir -p bpf/types
	SKREAP_TYPES=$(CURDIR)/bpf/types $(CARGO) check --locked --quiet --package skreap-bpf --target-dir target/docs-rs

# The documentation as docs.rs builds it: without clang
.PHONY: docs-rs
docs-rs: types
	DOCS_RS=1 CLANG=/nonexistent/clang RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --quiet \
		--package skreap-core --package skreap-bpf --package skreap --no-default-features --features audit-log,metrics,rules \
		--target-dir target/docs-rs

# The packages of the library, each built from nothing but itself
.PHONY: package
package: types
	$(CARGO) package --locked --allow-dirty --package skreap-core --package skreap-bpf --package skreap-testbed --package skreap

# Beyond PACKAGES, for the files installed with the command: its unit, its manual pages
TEST_PACKAGES = man-db systemd

# Real sockets, processes and namespaces on the running kernel.
kernel-tests:
	@$(MAKE) --no-print-directory deps PACKAGES='$(TEST_PACKAGES)'
	$(CARGO) test --locked --release --package skreap --test kernel --test cli --no-run
	$(SUDO) env SKREAP_TESTS=required $(CARGO) test --locked --release --package skreap --test cli
	$(SUDO) env SKREAP_TESTS=required $(CARGO) test --locked --release --package skreap --test kernel
	$(SUDO) env SKREAP_TESTS=required $(CARGO) test --locked --release --package skreap --features fault --test fault

# `skreap-watch` beside a real etcd, a hand-made API server and a real service; alerts and dashboard in Prometheus
.PHONY: watch-tests
watch-tests:
	@$(MAKE) --no-print-directory deps PACKAGES='etcd-server openssl'
	tests/fleet/unpack.sh prometheus
	$(CARGO) build --locked --release --package skreap --package skreap-watch
	$(CARGO) test --locked --release --package skreap-watch --test watch --no-run
	$(SUDO) env SKREAP_TESTS=required HOME="$$HOME" $(CARGO) test --locked --release --package skreap-watch --test watch

# A cluster with a real control plane. etcd and kubectl are Debian's, the servers are built once from its source (3 GB of disk,
# 5 minutes or more), all of it in ~/.cache/skreap: nothing is installed. SKREAP_FLEET_AWAY: seconds that the API server is
# away (20); SKREAP_FLEET_KILLS: random kills (12); SKREAP_FLEET_LOAD: seconds of a measurement beside curl and
# kubectl (none), SKREAP_FLEET_OUT: where its numbers are written. FILTER=image runs the tests with that in their names.
FLEET_PACKAGES = kubernetes-client umoci runc crun libyajl2 golang-github-containers-common
.PHONY: test-fleet
test-fleet: image
	@$(MAKE) --no-print-directory deps PACKAGES='dpkg-dev etcd-client etcd-server openssl libseccomp2'
	tests/fleet/build.sh
	tests/fleet/unpack.sh $(FLEET_PACKAGES)
	$(CARGO) build --locked --release --package skreap --package skreap-watch
	$(CARGO) test --locked --release --package skreap-watch --test fleet --no-run
	$(SUDO) env SKREAP_TESTS=required HOME="$$HOME" \
		$(CARGO) test --locked --release --package skreap-watch --test fleet -- --nocapture $(FILTER)

# The container image, an OCI layout in an archive: static programs and nothing else. Needs no daemon.
IMAGE        = target/image/skreap.tar
IMAGE_TARGET = x86_64-unknown-linux-gnu
.PHONY: image
image: deps
	LIBBPF_SYS_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu RUSTFLAGS='-C target-feature=+crt-static' \
		$(CARGO) build --locked --release --target $(IMAGE_TARGET) --features libbpf-sys/static \
		--package skreap-bpf --package skreap --package skreap-watch
	runner/dist/image.sh target/$(IMAGE_TARGET)/release $(IMAGE) $(VERSION)

# Behaviour of kernels, libraries and tools that a good engineer guesses wrong: a verdict for each script in findings/. Not
# a part of `test`: the behaviour is not ours, and some scripts download packages from Debian's archive.
.PHONY: findings
findings:
	@$(MAKE) --no-print-directory deps PACKAGES='iproute2 python3 util-linux'
	@$(SUDO) findings/run

# What real programs do after a destroy, a revive and a move: packages of Debian, PyPI and npm, in a temporary folder.
# NAMES="dig node": only these. Not a part of `test`: the programs are not ours.
.PHONY: clients
clients: build
	@$(MAKE) --no-print-directory deps PACKAGES='iproute2 python3 util-linux'
	@$(SUDO) tests/clients/run --skreap $(BUILD)/skreap --out $(if $(NAMES),target,tests/clients)/results.jsonl $(NAMES)

# Which part imports which, and the numbers of the tree
.PHONY: house
house: deps
	$(CARGO) test --locked --quiet --package skreap --test house -- --nocapture --test-threads 1

# Fuzzing: findings of a target are kept in target/fuzz; move the useful ones to tests/fuzz/corpus.
TARGET             = $(basename $(notdir $(wildcard tests/fuzz/targets/*.rs)))
NIGHTLY            = nightly
CARGO_FUZZ_VERSION = 0.13.2
FUZZ               = target/fuzz
FUZZ_BUILD         = $(FUZZ)/$(shell rustc --print host-tuple)/release

target/tools/bin/cargo-fuzz:
	$(CARGO) install --quiet --locked --root target/tools cargo-fuzz@$(CARGO_FUZZ_VERSION)

fuzz: deps target/tools/bin/cargo-fuzz
	@$(MAKE) --no-print-directory deps PACKAGES=g++
	PATH="$(CURDIR)/target/tools/bin:$$PATH" $(CARGO) +$(NIGHTLY) fuzz build --fuzz-dir tests/fuzz --target-dir $(FUZZ)
	@for t in $(TARGET); do \
		mkdir -p $(FUZZ)/corpus/$$t; \
		dictionary=tests/fuzz/dictionaries/$$t.dict; [ -e $$dictionary ] || dictionary=; \
		echo "fuzzing $$t for $(or $(SECONDS),60) s"; \
		$(FUZZ_BUILD)/$$t -max_total_time=$(or $(SECONDS),60) -print_final_stats=1 -timeout=10 -verbosity=0 \
			-artifact_prefix=$(FUZZ)/$$t- $${dictionary:+-dict=$$dictionary} \
			$(FUZZ)/corpus/$$t tests/fuzz/corpus/$$t || exit 1; \
	done

# The JSON Schemas of requests and answers; `make house` fails when they are not those of the types
.PHONY: schema
schema:
	$(CARGO) run --locked --quiet --package skreap -- generate schema docs/schema

CARGO_DEB = 3.8.0
DEB       = target/debian/skreap_$(VERSION)-1_amd64.deb

target/tools/cargo-deb-$(CARGO_DEB):
	$(CARGO) install --locked --quiet --root target/tools/install --version $(CARGO_DEB) cargo-deb
	cp target/tools/install/bin/cargo-deb $@

# Binary, unit, manual pages, completions, documents
deb: build target/tools/cargo-deb-$(CARGO_DEB)
	@$(MAKE) --no-print-directory deps PACKAGES=dpkg-dev
	rm -rf target/deb
	@for program in skreap skreap-watch; do \
		$(BUILD)/$$program generate man target/deb/man && \
		$(BUILD)/$$program generate completions target/deb/completions || exit 1; \
	done
	target/tools/cargo-deb-$(CARGO_DEB) --package skreap --no-build --strip --locked --quiet --output $(DEB)

# Installs the package on a throw-away machine with systemd, uses it, removes it.
test-deb: deb
	@$(MAKE) --no-print-directory deps PACKAGES='iproute2 $(TEST_PACKAGES)'
	$(CARGO) build --locked --release --package skreap-testbed --example hold-lock
	$(SUDO) tests/deb/run.sh $(DEB) $(BUILD)/examples/hold-lock
# Random operations compared with a model, for two minutes or SECONDS
.PHONY: model
model:
	$(CARGO) test --locked --release --package skreap --test model --no-run
	$(SUDO) env SKREAP_TESTS=required $(if $(SECONDS),SKREAP_MODEL_SECONDS=$(SECONDS)) \
		$(CARGO) test --locked --release --package skreap --test model

# Churn at full speed with continuous events and kills: make soak MINUTES=10; totals also in target/soak.json.
# PLAIN=1: sockets are only opened, connected and closed, several times as many. KERNEL=6.12: in a virtual machine with
# that kernel of docs/support-matrix.md and with the module, totals in target/vm/KERNEL/soak.
SOAK = --minutes $(or $(MINUTES),1) $(if $(SEED),--seed $(SEED)) $(if $(PLAIN),--plain)
.PHONY: soak
ifdef KERNEL
soak: deps-vm
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" tests/vm/run.sh --soak $(KERNEL) $(SOAK)
else
soak:
	$(CARGO) test --locked --release --package skreap --test soak --no-run
	$(SUDO) $(CARGO) test --locked --release --package skreap --test soak -- $(SOAK) --json $(CURDIR)/target/soak.json
endif

# A quick run of the benchmark kit; tables and plots in target/bench.
bench: build
	$(SUDO) $(BUILD)/skreap-bench run --preset quick --out target/bench
	@echo "tables and plots: target/bench/results.md, target/bench/report.html"

# Ratios that a change must not make worse, each measured until it is decided; ten minutes at most.
.PHONY: bench-guard
bench-guard: build
	$(SUDO) $(BUILD)/skreap-bench guard

# Beyond PACKAGES, for kmod and test-vm
VM_PACKAGES = $(shell sed '/^\#/d' tests/vm/packages)
VERSION     = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
DKMS_SOURCE = /usr/src/skreap-$(VERSION)

# The kfunc module for the running kernel, or KDIR=/path/to/headers; fails if the module has no BTF. SELFTEST=1 builds
# one for debugging, which tests itself when it is loaded.
kmod:
	$(MAKE) -C bpf/kmod $(if $(KDIR),KDIR=$(KDIR)) $(if $(SELFTEST),SELFTEST=1) OUT=$(CURDIR)/target/kmod

# Installs the module's sources for DKMS, below DESTDIR
kmod-source:
	$(SUDO) install -d $(DESTDIR)$(DKMS_SOURCE)
	$(SUDO) install -m 644 bpf/kmod/Kbuild bpf/kmod/Makefile bpf/kmod/skreap.c bpf/kmod/selftest.c bpf/kmod/compat.h bpf/include/kfunc.h \
		$(DESTDIR)$(DKMS_SOURCE)
	sed 's/#MODULE_VERSION#/$(VERSION)/' bpf/kmod/dkms.conf | $(SUDO) tee $(DESTDIR)$(DKMS_SOURCE)/dkms.conf >/dev/null

# Needs Debian's dkms and the kernel's headers.
kmod-install: kmod-source
	$(SUDO) dkms install --force skreap/$(VERSION)
	$(SUDO) modprobe skreap
	@test -e /sys/kernel/btf/skreap || { echo "skreap is loaded, but the kernel refused its BTF: see dmesg" >&2; exit 1; }

deps-vm: deps
	@$(MAKE) --no-print-directory deps PACKAGES='$(VM_PACKAGES)'

# A stock Debian kernel in QEMU: the command, the module, and the kernel tests that are listed in tests/vm/quick.
test-vm: deps-vm
	tests/vm/run.sh --quick 6.12

# Every kernel of tests/vm/kernels, and all kernel tests; an hour or more without KVM.
test-matrix: deps-vm
	@$(MAKE) --no-print-directory deps PACKAGES=mmdebstrap
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" tests/vm/run.sh

deps-debug-kernel: deps-vm
	@$(MAKE) --no-print-directory deps PACKAGES='$(shell sed '/^\#/d' tests/vm/debug/packages)'

# The tests on a kernel with KASAN, lockdep and the like, built once from Debian's source; hours without KVM.
test-debug-kernel: deps-debug-kernel
	tests/vm/run.sh --debug

deps-upstream: deps-vm
	@$(MAKE) --no-print-directory deps PACKAGES='$(shell sed '/^\#/d' tests/vm/upstream/packages)'

# A kernel of Debian's newest source with the patches of docs/upstream, built once in a Debian of its own: their
# selftests, and the kernel tests with engine kfunc on the kernel's own functions. QUICK=1: those of tests/vm/quick.
test-upstream: deps-upstream
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" tests/vm/run.sh $(if $(QUICK),--quick) --upstream

# Records the verifier's instruction counts for our programs on this kernel, and on those in tests/vm/kernels.
verifier-record: deps-vm
	@mkdir -p target tests/vm/verifier
	$(CARGO) test --locked --release --package skreap --test kernel --no-run
	$(SUDO) env SKREAP_VERIFIER=print $(CARGO) test --locked --release --package skreap --test kernel -- \
		cost_the_verifier 2>target/verifier.log
	tests/vm/verifier.sh "$$(uname -r | cut -d - -f 1)" <target/verifier.log >"tests/vm/verifier/$$(uname -r | cut -d . -f 1,2)"
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" tests/vm/run.sh --record

support-matrix:
	awk -f tests/vm/matrix.awk tests/vm/kernels >docs/support-matrix.md

# Writes docs/client-view.md from the table of tests/kernel/client_view; the tests check that it is that.
.PHONY: client-view
client-view:
	$(CARGO) test --locked --package skreap --test kernel --no-run
	$(SUDO) env SKREAP_CLIENT_VIEW=print $(CARGO) test --locked --package skreap --test kernel -- \
		client_view_is_written_down

check-matrix:
	@awk -f tests/vm/matrix.awk tests/vm/kernels | diff docs/support-matrix.md - || { \
		echo "docs/support-matrix.md differs from tests/vm/kernels: run make support-matrix" >&2; exit 1; }

shellcheck:
	@$(MAKE) --no-print-directory deps PACKAGES=shellcheck
	shellcheck --external-sources --check-sourced --source-path=SCRIPTDIR .ci/run tests/vm/run.sh \
		tests/vm/checkpatch.sh tests/vm/command.sh tests/vm/verifier.sh tests/vm/kfunc-in-order tests/vm/soak.sh \
		tests/deb/run.sh tests/deb/inside.sh tests/fleet/build.sh tests/fleet/unpack.sh runner/dist/image.sh findings/run findings/*.sh
	shellcheck --shell=sh tests/vm/init

# The kernel's own style check, from Debian's package of the kernel's source
checkpatch:
	tests/vm/checkpatch.sh bpf/kmod

clean:
	$(CARGO) clean
