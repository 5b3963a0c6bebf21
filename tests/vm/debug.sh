# shellcheck shell=sh
# Builds a kernel from Debian's source with all debug checks, see config and debug/config, into the cache.

# The row of the table with its source
DEBUG_OF=6.12

# configure SOURCE BUILD: fails if the result lacks an option of config or debug/config
configure() {
	make -s -C "$1" O="$2" tinyconfig &&
		"$1/scripts/kconfig/merge_config.sh" -O "$2" -m "$2/.config" "$here/config" "$here/debug/config" >/dev/null &&
		make -s -C "$1" O="$2" olddefconfig || return 1
	refused=$(cat "$here/config" "$here/debug/config" | grep '^CONFIG' | grep -vxFf "$2/.config" || :)
	[ -z "$refused" ] || { echo "this kernel's configuration does not take: $refused" >&2; return 1; }
}

# fetch_debug_kernel: sets RELEASE and KERNEL as find_kernel and fetch_kernel do; apt must see its
# suites
fetch_debug_kernel() {
	source=linux-source-$DEBUG_OF
	# Another configuration is another kernel. The path has no "=": the kernel's Makefiles would read
	# it as an assignment.
	config=$(cat "$here/config" "$here/debug/config" | sha256sum | cut -c 1-12)
	KERNEL=$CACHE/debug/${source}_$(candidate_of "$source")-$config
	if [ ! -e "$KERNEL/.ready" ]; then
		echo "building $source for debugging in $KERNEL, which takes a while" >&2
		rm -rf "$KERNEL"
		mkdir -p "$KERNEL/deb" "$KERNEL/source" "$KERNEL/build"
		(cd "$KERNEL/deb" && apt-get -qq download "$source") >&2 || return 1
		dpkg-deb --fsys-tarfile "$KERNEL"/deb/*.deb | tar -x -O --wildcards './usr/src/*.tar.xz' |
			tar -x -J -C "$KERNEL/source" --strip-components 1 || return 1
		rm -r "$KERNEL/deb"
		if ! { configure "$KERNEL/source" "$KERNEL/build" &&
			make -s -C "$KERNEL/source" O="$KERNEL/build" -j "$(nproc)" bzImage modules; } >"$KERNEL/log" 2>&1; then
			tail -n 30 "$KERNEL/log" >&2
			return 1
		fi
		ln -s build/arch/x86/boot/bzImage "$KERNEL/vmlinuz"
		mkdir -p "$KERNEL/usr/src"
		ln -s "$KERNEL/build" "$KERNEL/usr/src/linux-headers-$(cat "$KERNEL/build/include/config/kernel.release")"
		touch "$KERNEL/.ready"
	fi
	RELEASE=$(cat "$KERNEL/build/include/config/kernel.release")
}
