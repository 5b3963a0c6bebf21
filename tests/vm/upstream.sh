# shellcheck shell=sh
# Builds a kernel from Debian's newest source with the patches of docs/upstream, and its selftests of what they add,
# into the cache. The build runs in a Debian of its own: this machine's pahole is too old. Needs root for that.

# Debian's suite with the newest source, and the release that can build it
UPSTREAM_SUITE=trixie-backports
UPSTREAM_TOOLS="bc,bison,bpftool,dwarves,flex,gcc,kmod,libc6-dev,libelf-dev,libssl-dev,lz4,make,patch,perl,python3,xz-utils"

# The patches, in order, without the cover letter; with those of the alternatives if these are to be measured
series() {
	set -- "$top"/docs/upstream/0*.patch
	case ,$TESTS, in *,alternatives,*) set -- "$@" "$top"/docs/upstream/alternatives/0*.patch ;; esac
	[ -e "$1" ] || die "no patches in docs/upstream"
	printf '%s\n' "$@" | grep -v '/0000-cover-letter.patch$'
}

# unpack_source PACKAGE: into $KERNEL/source
unpack_source() {
	echo "fetching $1 into $KERNEL" >&2
	rm -rf "$KERNEL"
	mkdir -p "$KERNEL/deb" "$KERNEL/source"
	(cd "$KERNEL/deb" && apt-get -qq download "$1") >&2 || return 1
	dpkg-deb --fsys-tarfile "$KERNEL"/deb/*.deb | tar -x -O --wildcards './usr/src/*.tar.xz' |
		tar -x -J -C "$KERNEL/source" --strip-components 1 || return 1
	rm -r "$KERNEL/deb"
	touch "$KERNEL/.unpacked"
}

# Applies the patches. What was applied before stays up to the first that differs: what the others change, and only
# that, is built again.
apply_series() {
	applied=$KERNEL/applied
	mkdir -p "$applied"
	set -- "$applied"/*
	for patch in $(series); do
		if [ $# -eq 0 ] || [ "${patch##*/}" != "${1##*/}" ] || ! cmp -s "$patch" "$1"; then
			break
		fi
		shift
	done
	for patch in $(printf '%s\n' "$@" | sort --reverse); do
		[ -e "$patch" ] || continue
		rm -f "$KERNEL/.ready"
		change_source --reverse "$patch" && rm "$patch" || return 1
	done
	for patch in $(series); do
		[ ! -e "$applied/${patch##*/}" ] || continue
		rm -f "$KERNEL/.ready"
		change_source --forward "$patch" && cp "$patch" "$applied" || return 1
	done
}

change_source() {
	patch --quiet --batch "$1" --strip 1 --directory "$KERNEL/source" --input "$2"
}

# What is the same in a configuration that was made before is not built again.
configure_upstream() {
	cat "$here/config" "$here/upstream/config" >"$KERNEL/wanted.config"
	cmp -s "$KERNEL/wanted.config" "$KERNEL/configured" && return 0
	rm -f "$KERNEL/.ready"
	# shellcheck disable=SC2016 # for the shell inside
	in_upstream_root sh -ec '
		cd /mnt
		make -s -C source O=/mnt/build tinyconfig
		source/scripts/kconfig/merge_config.sh -O build -m build/.config wanted.config >/dev/null
		make -s -C source O=/mnt/build olddefconfig
		refused=$(grep "^CONFIG" wanted.config | grep -vxFf build/.config || :)
		[ -z "$refused" ] || { echo "the configuration does not take: $refused" >&2; exit 1; }
	' || return 1
	mv "$KERNEL/wanted.config" "$KERNEL/configured"
}

in_upstream_root() {
	SHARED=$KERNEL in_root "$@"
}

# fetch_upstream_kernel: sets RELEASE and KERNEL as find_kernel and fetch_kernel do; apt must see its suite
fetch_upstream_kernel() {
	source=$(apt-cache depends linux-source | sed -n 's/^ *Depends: \(linux-source-.*\)$/\1/p' | head -n 1)
	[ -n "$source" ] || die "apt knows no linux-source in $UPSTREAM_SUITE"
	KERNEL=$CACHE/upstream/${source}_$(candidate_of "$source")
	[ -e "$KERNEL/.unpacked" ] || unpack_source "$source" || return 1
	make_root_with upstream "$UPSTREAM_TOOLS" "${UPSTREAM_SUITE%%-*}" || return 1
	apply_series || die "the patches of docs/upstream do not apply to $source"
	configure_upstream || return 1
	if [ ! -e "$KERNEL/.ready" ]; then
		echo "building $source with the patches in $KERNEL, which takes a while the first time" >&2
		in_upstream_root sh -ec "make -s -C /mnt/source O=/mnt/build -j $(nproc) bzImage modules
			make -s -C /mnt/source O=/mnt/build INSTALL_MOD_PATH=/mnt modules_install
			bpftool btf dump file /mnt/build/vmlinux format c >/mnt/vmlinux.h" >"$KERNEL/log" 2>&1 || {
			tail -n 30 "$KERNEL/log" >&2
			return 1
		}
		ln -sf build/arch/x86/boot/bzImage "$KERNEL/vmlinuz"
		touch "$KERNEL/.ready"
	fi
	RELEASE=$(cat "$KERNEL/build/include/config/kernel.release")
}

# build_skeleton SOURCE: $KERNEL/selftests/NAME.skel.h, NAME being that of the file
build_skeleton() {
	program=$(basename "$1" .c)
	program=${program%.bpf}
	bpf=$KERNEL/source/tools/testing/selftests/bpf
	"${CLANG:-clang-19}" -std=gnu11 -O2 -g -Wall -Wno-unused-function -Wno-compare-distinct-pointer-types \
		-Wno-missing-declarations -target bpf -mcpu=v3 -D__TARGET_ARCH_x86 -I"$KERNEL" -I"$bpf" -I"$bpf/progs" \
		-I"$KERNEL/selftests/include" -I"$KERNEL/source/tools/include/uapi" \
		-o "$KERNEL/selftests/$program.bpf.o" -c "$1" || return 1
	in_upstream_root sh -ec "cd /mnt/selftests; bpftool gen skeleton $program.bpf.o name $program >$program.skel.h"
}

# build_static OUTPUT ARGUMENT...: with the newest libbpf
build_static() {
	output=$1
	shift
	"${CC:-cc}" -std=gnu11 -O2 -g -D_GNU_SOURCE -static -I"$KERNEL/selftests" -I"$KERNEL/selftests/include" \
		-o "$output" "$@" "$(newest_libbpf)" -lelf -lz -lpthread
}

# build_selftests: sets SELFTESTS, a static program with two tests of the patched tree, and ALTERNATIVES, one that measures
build_selftests() {
	libbpf=$(newest_libbpf)
	bpf=$KERNEL/source/tools/testing/selftests/bpf
	SELFTESTS=$KERNEL/selftests/selftests
	ALTERNATIVES=$KERNEL/selftests/alternatives
	mkdir -p "$KERNEL/selftests"
	cp -r "${libbpf%/*}/include" "$KERNEL/selftests/"
	for program in sock_destroy_prog sock_destroy_prog_fail sock_destroy_might_sleep sock_destroy_might_sleep_fail; do
		build_skeleton "$bpf/progs/$program.c" || return 1
	done
	build_static "$SELFTESTS" -Dsystem=run_command -include "$here/upstream/selftests.h" \
		-Wno-implicit-function-declaration -I"$bpf" -I"$KERNEL/source/tools/include" \
		-I"$KERNEL/source/tools/include/uapi" -I"$KERNEL/source/tools/lib" "$here/upstream/selftests.c" \
		"$bpf/prog_tests/sock_destroy.c" "$bpf/prog_tests/sock_destroy_might_sleep.c" || return 1
	build_skeleton "$here/upstream/alternatives.bpf.c" && build_static "$ALTERNATIVES" -Wall -Wextra "$here/upstream/alternatives.c"
}

# build_module_form: sets MODULE, skreap.ko for this kernel, and MODULE_BTF, the kernel's BTF in which one of the functions
# that skreap looks for first has another name (of its length, and at its place in the order of names)
build_module_form() {
	rm -rf "$KERNEL/kmod"
	mkdir "$KERNEL/kmod"
	cp "$top"/bpf/kmod/Kbuild "$top"/bpf/kmod/Makefile "$top"/bpf/kmod/*.[ch] "$top/bpf/include/kfunc.h" "$KERNEL/kmod"
	# 0001 adds an argument.
	sed -i 's/diag_destroy(sk, ECONNABORTED)/diag_destroy(sk, ECONNABORTED, true)/' "$KERNEL/kmod/skreap.c"
	in_upstream_root make -s -C /mnt/kmod KDIR=/mnt/build OUT=/mnt/kmod >"$KERNEL/kmod.log" 2>&1 || {
		cat "$KERNEL/kmod.log" >&2
		return 1
	}
	MODULE=$KERNEL/kmod/skreap.ko MODULE_BTF=$KERNEL/kmod/vmlinux.btf
	objcopy --dump-section .BTF="$MODULE_BTF" "$KERNEL/build/vmlinux" /dev/null
	LC_ALL=C sed -i 's/\x00bpf_sock_acquire\x00/\x00bpf_sock_acquirf\x00/' "$MODULE_BTF"
}

# make_stand_in: $out/stand-in/skreap_upstream.ko, the functions of docs/upstream for the stock kernel of this run
make_stand_in() {
	mkdir -p "$out/stand-in"
	cp "$here"/upstream/module/* "$top/bpf/kmod/skreap.c" "$top/bpf/kmod/compat.h" "$top/bpf/include/kfunc.h" "$out/stand-in"
	make --silent -C "$KERNEL/usr/src/linux-headers-$RELEASE" M="$out/stand-in" modules >"$out/stand-in.log" 2>&1 || {
		cat "$out/stand-in.log" >&2
		die "the stand-in for the kernel's own functions does not build"
	}
}
