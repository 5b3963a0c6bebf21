# shellcheck shell=sh
# The virtual machine: an initramfs with all its files, and QEMU.

# add_program FILE NAME: without debug information, because the machine unpacks everything into its
# memory
add_program() {
	strip -o "$root/tests/$2" "$1"
}

# Puts a kernel's modules, the init and the table's expectations into $root
start_image() {
	root=$out/initramfs
	rm -rf "$root"
	mkdir -p "$root/bin" "$root/modules" "$root/tests"
	cp "$(command -v busybox)" "$root/bin/busybox"
	cp "$here/init" "$root/init"
	chmod +x "$root/init"
	# shellcheck disable=SC2086 # a list
	module_files $MODULES | while read -r file; do
		name=${file##*/}
		name=${name%.xz}
		case $file in
		*.xz) xz -dc "$file" >"$root/modules/$name" ;;
		*) cp "$file" "$root/modules/$name" ;;
		esac
		echo "$name" >>"$root/modules/order"
	done
	touch "$root/modules/order" "$root/suites"
	[ -z "$MODULE" ] || cp "$MODULE" "$root/tests/skreap.ko"
	[ -z "$SELFTEST" ] || add_self_test
	[ -z "$INSTALLED" ] || install_module
}

# Without its debug information, which would be most of the image and which nothing uses.
add_self_test() {
	strip --strip-debug -o "$root/tests/selftest.ko" "$SELFTEST"
}

# At the path of DKMS, with the indexes of modprobe
install_module() {
	mkdir -p "$root${INSTALLED%/*}"
	cp "$MODULE" "$root$INSTALLED"
	depmod -b "$root" "$RELEASE" 2>>"$out/kmod.log"
}

finish_image() {
	(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$out/initramfs.gz"
	rm -r "$root"
}

# emulate SECONDS ACCELERATOR OPTION...: QEMU with the options common to all machines
emulate() {
	seconds=$1 accel=$2
	shift 2
	# Inside another virtual machine KVM may exist and still refuse to set the register of that
	# feature.
	timeout -k 5 "$seconds" qemu-system-x86_64 -accel "$accel" -cpu max,arch-capabilities=off -m "$MEMORY" -smp 2 \
		-nodefaults -no-user-config -display none -nic none -no-reboot \
		-kernel "$KERNEL/vmlinuz" "$@" 2>>"$out/qemu"
}

# Found by trying: /dev/kvm may exist and the machine still crash or hang. The kernel panics without
# an initramfs.
kvm_works() {
	[ -w /dev/kvm ] && emulate 15 kvm -append "console=ttyS0 panic=-1" -serial "file:$out/kvm" &&
		grep -q 'Kernel panic' "$out/kvm"
}

boot_once() {
	rm -f "$out/qemu" "$out/console" "$out/verdicts" "$out/stderr" "$out/files"
	ACCELERATOR=tcg,thread=multi
	# An emulated CPU takes many times as long for everything, including the verifier: only 120
	# seconds are a lockup there. It may pause between two reads of a clock. Linux 7.x sometimes
	# mistakes that for a wrong TSC: the scheduler then switches its clock, and some task does not run
	# for 20 seconds.
	slow="watchdog_thresh=60 tsc=nowatchdog"
	! kvm_works || { ACCELERATOR=kvm; slow=; }
	emulate "$1" $ACCELERATOR -initrd "$out/initramfs.gz" \
		-serial "file:$out/console" -serial "file:$out/verdicts" -serial "file:$out/stderr" -serial "file:$out/files" \
		-append "console=ttyS0 loglevel=7 panic=-1 oops=panic $slow $ARGUMENTS ${SKREAP_VM_APPEND:-}" && return 0
	echo "QEMU ended with $? (124: killed after $1 s):" >&2
	cat "$out/qemu" >&2
	[ -s "$out/console" ] || echo "the machine did not even begin to boot" >&2
	return 1
}

# emulator_tripped: true if an emulated CPU has executed an instruction that the other was just
# patching: an int3 in place of a jump label. Real CPUs do not do that, and it says nothing about the
# tested code.
emulator_tripped() {
	[ "$ACCELERATOR" != kvm ] && grep -q 'int3: 0000' "$out/console"
}

# boot SECONDS: false if the machine did not shut down by itself; sets ACCELERATOR
boot() {
	for attempt in 1 2 3; do
		status=0
		boot_once "$1" || status=$?
		emulator_tripped || return "$status"
		echo "the emulator tripped over an instruction that was being patched (int3), time $attempt of 3" >&2
	done
	return "$status"
}
