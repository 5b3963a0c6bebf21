# shellcheck shell=sh
# Builds the static programs that run in the machine, and the module for its kernel.

TRIPLE=x86_64-unknown-linux-gnu
PROFILE=${SKREAP_VM_PROFILE:-release}
# Where cargo puts what it builds with it
BUILT=$TRIPLE/$(echo "$PROFILE" | sed 's/^dev$/debug/')

# cargo_static ARGUMENTS...: links libelf and zlib from Debian, as archives; --target keeps the flags
# away from build scripts.
cargo_static() {
	LIBBPF_SYS_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu RUSTFLAGS='-C target-feature=+crt-static' \
		CARGO_TARGET_DIR="$target" "${CARGO:-cargo}" "$@" --locked --profile "$PROFILE" --target $TRIPLE \
		--features libbpf-sys/static --manifest-path "$top/Cargo.toml" 2>"$target/vm/cargo.log" || {
		cat "$target/vm/cargo.log" >&2
		die "the static programs do not build"
	}
}

# test_program NAME: path of an integration test from the last call of cargo
test_program() {
	program=$(sed -n "s|^ *Executable .*$1/main.rs (\(.*\))\$|\1|p" "$target/vm/cargo.log")
	[ -f "$program" ] || die "cargo did not say where the tests $1 are, see $target/vm/cargo.log"
	echo "$program"
}

# The integration tests, the command and the tests of the kfuncs; sets FAULT_TESTS, KERNEL_TESTS,
# MODEL_TESTS, SOAK and COMMAND
build_tests() {
	# First, because it leaves behind a command with fault injection.
	case ,${SKREAP_VM_TESTS:-fault}, in *,fault,*)
		cargo_static test --package skreap --package skreap-bpf --features skreap/fault --test fault --no-run
		FAULT_TESTS=$(test_program fault) ;;
	esac
	# Building an integration test also builds the programs of its package.
	cargo_static test --package skreap --package skreap-bpf --test kernel --test model --test soak --no-run
	KERNEL_TESTS=$(test_program kernel)
	MODEL_TESTS=$(test_program model)
	SOAK=$(test_program soak)
	COMMAND=$target/$BUILT/skreap
	libbpf=$(newest_libbpf)
	make --silent -C "$here/kfunc" LIBBPF="${libbpf%/*}" OUT="$target/vm/kfunc"
}

# newest_libbpf: the libbpf.a of what has just been built; the newest if there are several
newest_libbpf() {
	# shellcheck disable=SC2012 # names made by cargo
	ls -td "$target/$BUILT"/build/libbpf-sys-*/out/libbpf.a | head -n 1
}

# Sets KERNEL_TESTS
build_kernel_tests() {
	cargo_static test --package skreap --package skreap-bpf --test kernel --no-run
	KERNEL_TESTS=$(test_program kernel)
}

# Sets SOAK and COMMAND
build_soak() {
	cargo_static test --package skreap --package skreap-bpf --test soak --no-run
	SOAK=$(test_program soak)
	COMMAND=$target/$BUILT/skreap
}

# Sets BENCH
build_bench() {
	cargo_static build --package skreap-bench --package skreap-bpf
	BENCH=$target/$BUILT/skreap-bench
}

# build_module make|dkms|none SUITE...: sets MODULE (a file in $out, empty if there is none), SELFTEST
# (one that tests itself) and INSTALLED (its path, if it was installed)
build_module() {
	how=$1
	shift
	MODULE= SELFTEST= INSTALLED=
	case $how in
	none) return 0 ;;
	make)
		{ make_module "$out/kmod" && make_module "$out/selftest" SELFTEST=1; } >"$out/kmod.log" 2>&1 || {
			cat "$out/kmod.log" >&2
			die "the module does not build"
		} ;;
	dkms)
		make_root "$@" || return 1
		mkdir -p "$out/kmod" "$out/selftest"
		dkms_module >"$out/kmod.log" 2>&1 || { cat "$out/kmod.log" >&2; die "DKMS does not build the module"; } ;;
	*) die "no way $how to build the module: make, dkms or none" ;;
	esac
	MODULE=$out/kmod/skreap.ko
	SELFTEST=$out/selftest/skreap.ko
}

# make_module DIRECTORY VARIABLE...: with the tools of this machine
make_module() {
	directory=$1
	shift
	make --silent -C "$top/bpf/kmod" KDIR="$KERNEL/usr/src/linux-headers-$RELEASE" OUT="$directory" "$@"
}

# As `make kmod-install` does, in $ROOT and without loading it
dkms_module() {
	rm -rf "$ROOT"/usr/src/skreap-* "$ROOT/var/lib/dkms/skreap" "$ROOT/lib/modules/$RELEASE/updates/dkms"
	make -C "$top" kmod-source SUDO= DESTDIR="$ROOT"
	version=$(cd "$ROOT/usr/src" && echo skreap-*)
	in_root dkms install --force -k "$RELEASE" "skreap/${version#skreap-}" || {
		cat "$ROOT"/var/lib/dkms/skreap/*/build/make.log
		return 1
	}
	in_root depmod "$RELEASE"
	INSTALLED=$(in_root modinfo -k "$RELEASE" -n skreap)
	case $INSTALLED in
	*.xz) xz -dc "$ROOT$INSTALLED" >"$out/kmod/skreap.ko" ;;
	*) cp "$ROOT$INSTALLED" "$out/kmod/skreap.ko" ;;
	esac
	INSTALLED=${INSTALLED%.xz} INSTALLED=${INSTALLED#/usr}
	rm -rf "$ROOT/tmp/selftest"
	in_root make --silent -C "/usr/src/$version" KDIR="/lib/modules/$RELEASE/build" OUT=/tmp/selftest SELFTEST=1
	cp "$ROOT/tmp/selftest/skreap.ko" "$out/selftest/skreap.ko"
}
