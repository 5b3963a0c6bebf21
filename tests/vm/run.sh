#!/bin/sh
# tests/vm/run.sh [KERNEL...]   boots Debian kernels in QEMU and runs the tests in them
#
# KERNEL is a name from the table `kernels`; without any, all of it. Needs the packages listed in `packages`, apt
# sources that have the kernels, and no privileges; uses KVM where it works. Results are left in target/vm/KERNEL:
#   console   what the kernel said          verdicts   what the test programs said
#   stderr    what else they said           result     a verdict for each test
#
# SKREAP_VM_TIMEOUT   seconds until the machine is killed (default 900)
# SKREAP_VM_APPEND    more words for the kernel's command line
# SKREAP_VM_FILTER    run only the tests of the suite `kernel` whose names contain this
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
timeout=${SKREAP_VM_TIMEOUT:-900}
triple=x86_64-unknown-linux-gnu

# Debian has the diag interfaces as modules.
modules="tcp_diag udp_diag"

# What no kernel may say. Taint alone ("loading out-of-tree module") is no complaint.
complaints='WARNING:|BUG:|BUG |Oops|Kernel panic|Call Trace|general protection|refcount_t:|rcu:.*(stall|detected)'
complaints="$complaints|INFO: .*(lock|RCU|rcu|hung|blocked|suspicious)|possible (circular|recursive)|soft lockup"
complaints="$complaints|unregister_netdevice|missing module BTF|Attempt to release alive"

. "$here/kernel.sh"

die() {
	echo "$*" >&2
	exit 1
}

require_packages() {
	missing=$(sed '/^#/d' "$here/packages" | while read -r package; do
		dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
	done | tr '\n' ' ')
	[ -z "$missing" ] || die "missing Debian packages: $missing"
}

# build_kernel_tests: the integration tests as one static program; sets KERNEL_TESTS
build_kernel_tests() {
	log=$target/vm/cargo.log
	# libelf and zlib come from Debian, as archives; --target keeps the flags away from build scripts.
	LIBBPF_SYS_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu RUSTFLAGS='-C target-feature=+crt-static' \
		CARGO_TARGET_DIR="$target" "${CARGO:-cargo}" test --locked --release --target $triple \
		--package skreap --package skreap-bpf --features libbpf-sys/static --test kernel --no-run \
		--manifest-path "$top/Cargo.toml" 2>"$log" || { cat "$log" >&2; die "the kernel tests do not build"; }
	KERNEL_TESTS=$(sed -n 's|^ *Executable .*kernel/main.rs (\(.*\))$|\1|p' "$log")
	[ -f "$KERNEL_TESTS" ] || die "cargo did not say where the kernel tests are, see $log"
}

# make_initramfs SUITES: everything the machine has
make_initramfs() {
	root=$out/initramfs
	rm -rf "$root"
	mkdir -p "$root/bin" "$root/modules" "$root/tests"
	cp "$(command -v busybox)" "$root/bin/busybox"
	cp "$here/init" "$root/init"
	chmod +x "$root/init"
	# shellcheck disable=SC2086 # a list
	module_files $modules | while read -r file; do
		name=${file##*/}
		name=${name%.xz}
		case $file in
		*.xz) xz -dc "$file" >"$root/modules/$name" ;;
		*) cp "$file" "$root/modules/$name" ;;
		esac
		echo "$name" >>"$root/modules/order"
	done
	touch "$root/modules/order" "$root/suites"
	case ,$1, in *,kernel,*)
		strip -o "$root/tests/kernel" "$KERNEL_TESTS"
		echo "suite kernel $((timeout - 60)) /tests/kernel $(printf '%s' "${SKREAP_VM_FILTER:-}")" >>"$root/suites" ;;
	esac
	case ,$1, in *,kfunc,*)
		cp "$out/kmod/skreap.ko" "$target/vm/kfunc/kfunc" "$target/vm/kfunc/kfunc.bpf.o" "$root/tests"
		echo "suite kfunc 120 /tests/kfunc-in-order" >>"$root/suites"
		cat >"$root/tests/kfunc-in-order" <<-'END'
			#!/bin/sh
			exec /tests/kfunc "$@" /tests/skreap.ko /tests/kfunc.bpf.o /sys/fs/cgroup
		END
		chmod +x "$root/tests/kfunc-in-order" ;;
	esac
	(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$out/initramfs.gz"
	rm -r "$root"
}

# emulate SECONDS ACCELERATOR OPTION...: QEMU with what all machines have in common
emulate() {
	seconds=$1 accel=$2
	shift 2
	# Inside another virtual machine KVM may be there and still refuse to set the register of that feature.
	timeout -k 5 "$seconds" qemu-system-x86_64 -accel "$accel" -cpu max,arch-capabilities=off -m 1G -smp 2 \
		-nodefaults -no-user-config -display none -nic none -no-reboot \
		-kernel "$KERNEL/boot/vmlinuz-$RELEASE" "$@" 2>>"$out/qemu"
}

# Found by trying: /dev/kvm may be there and the machine crash or hang. The kernel panics without an initramfs.
kvm_works() {
	[ -w /dev/kvm ] && emulate 15 kvm -append "console=ttyS0 panic=-1" -serial "file:$out/kvm" &&
		grep -q 'Kernel panic' "$out/kvm"
}

boot() {
	rm -f "$out/qemu" "$out/console" "$out/verdicts" "$out/stderr"
	accelerator=tcg,thread=multi
	kvm_works && accelerator=kvm
	emulate "$timeout" $accelerator -initrd "$out/initramfs.gz" \
		-serial "file:$out/console" -serial "file:$out/verdicts" -serial "file:$out/stderr" \
		-append "console=ttyS0 loglevel=7 panic=-1 oops=panic ${SKREAP_VM_APPEND:-}" ||
		echo "QEMU ended with $? (124: killed after $timeout s), see $out/qemu" >&2
}

# judge NAME: prints what is to be said; false if anything is wrong
judge() {
	awk -f "$here/verdicts.awk" "$out/verdicts" >"$out/result"
	for verdict in pass fail skip lost; do
		eval "$verdict=\$(grep -c '^$verdict ' '$out/result' || :)"
	done
	# shellcheck disable=SC2154 # set by eval
	echo "$1 ($RELEASE, $accelerator): $pass passed, $fail failed, $skip skipped, $lost lost, ${seconds} s"
	grep -v '^pass ' "$out/result" || :
	good=true
	if [ "$fail" -gt 0 ] || [ "$lost" -gt 0 ] || [ "$pass" -eq 0 ]; then
		good=false
		echo "see $out/verdicts, stderr and console"
	fi
	if grep -nE "$complaints" "$out/console"; then
		good=false
		echo "the kernel complained, see $out/console"
	fi
	$good
}

# test_kernel NAME IMAGE HEADERS SUITES
test_kernel() {
	out=$target/vm/$1
	mkdir -p "$out"
	fetch_kernel "$2" "$3"
	case ,$4, in *,kfunc,*)
		make --silent -C "$top/bpf/kmod" KDIR="$(echo "$KERNEL"/usr/src/linux-headers-"$RELEASE")" OUT="$out/kmod" \
			>"$out/kmod.log" 2>&1 || { cat "$out/kmod.log" >&2; die "the module does not build"; } ;;
	esac
	make_initramfs "$4"
	begin=$(date +%s)
	boot
	seconds=$(($(date +%s) - begin))
	judge "$1"
}

require_packages
mkdir -p "$target/vm"
table=$(sed '/^#/d' "$here/kernels")
[ $# -gt 0 ] || set -- $(echo "$table" | cut -d ' ' -f 1)
build_kernel_tests
# The libbpf of the kernel tests, which have just been built; the newest if there were several.
libbpf=$(ls -td "$target/$triple"/release/build/libbpf-sys-*/out/libbpf.a | head -n 1)
make --silent -C "$here/kfunc" LIBBPF="${libbpf%/*}" OUT="$target/vm/kfunc"
status=0
for name; do
	row=$(echo "$table" | grep "^$name ") || die "no kernel $name in $here/kernels"
	# shellcheck disable=SC2086 # columns
	test_kernel $row || status=1
done
exit $status
