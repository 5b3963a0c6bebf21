# shellcheck shell=sh
# Gets a Debian kernel: image, modules and headers, unpacked into the cache and not installed.

# The kernel package behind a metapackage
newest_of() {
	apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-\(image\|headers\)-.*\)$/\1/p' | head -n 1
}

candidate_of() {
	apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'
}

# The other packages of a kernel or its headers: Debian splits them differently in each release.
parts_of() {
	apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-\(headers\|kbuild\|binary\|modules\)-.*\)$/\1/p'
}

# find_kernel FLAVOUR: sets RELEASE (as of uname -r), IMAGE and HEADERS (packages); apt must see its
# suites
find_kernel() {
	IMAGE=$(newest_of "linux-image-$1")
	HEADERS=$(newest_of "linux-headers-$1")
	if [ -z "$IMAGE" ] || [ -z "$HEADERS" ]; then
		echo "apt knows no linux-image-$1 or no linux-headers-$1: look for the suite on the mirror" >&2
		return 1
	fi
	RELEASE=${IMAGE#linux-image-}
}

# fetch_kernel: unpacks the kernel of find_kernel, with at least $MODULES; sets KERNEL (directory)
fetch_kernel() {
	KERNEL=$CACHE/kernels/$IMAGE=$(candidate_of "$IMAGE")
	# One that was unpacked with fewer modules is unpacked again.
	# shellcheck disable=SC2086 # a list
	[ -e "$KERNEL/.ready" ] && has_modules $MODULES && return 0

	echo "fetching $IMAGE and its headers into $CACHE/kernels" >&2
	rm -rf "$KERNEL"
	mkdir -p "$KERNEL/deb"
	# shellcheck disable=SC2046 # a list of packages
	(cd "$KERNEL/deb" && apt-get -qq download "$IMAGE" $(parts_of "$IMAGE") "$HEADERS" $(parts_of "$HEADERS")) >&2 || {
		echo "cannot download $IMAGE: if it is gone from the mirror, remove $CACHE/apt and try again" >&2
		return 1
	}
	for deb in "$KERNEL"/deb/*.deb; do
		case ${deb##*/} in
		linux-headers-* | linux-kbuild-*) dpkg-deb -x "$deb" "$KERNEL" ;;
		*) # half a gigabyte of drivers is not needed; no package has all of these
			dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$KERNEL" --wildcards --no-anchored \
				'boot/*' 'vmlinuz' 'modules.*' 'kernel/net/*' 'kernel/drivers/net/veth*' \
				'kernel/fs/9p/*' 'kernel/fs/netfs/*' 'kernel/fs/fscache/*' 2>/dev/null || : ;;
		esac
	done
	rm -r "$KERNEL/deb"
	# Newer packages have all in /usr/lib.
	[ -e "$KERNEL/lib/modules" ] || ln -s usr/lib "$KERNEL/lib"
	# It includes its other half by the installed path.
	sed -i "s|^include /usr/src/|include $KERNEL/usr/src/|" "$KERNEL/usr/src/$HEADERS/Makefile"
	# Newer packages have it with the modules.
	for vmlinuz in "$KERNEL/boot/vmlinuz-$RELEASE" "$KERNEL/lib/modules/$RELEASE/vmlinuz"; do
		[ ! -e "$vmlinuz" ] || ln -s "$vmlinuz" "$KERNEL/vmlinuz"
	done
	depmod -b "$KERNEL" "$RELEASE"
	# shellcheck disable=SC2086 # a list
	if [ ! -e "$KERNEL/vmlinuz" ] || [ -z "$(module_files $MODULES)" ]; then
		echo "no kernel in $IMAGE and its parts: look at what they depend on, and at what is in them" >&2
		return 1
	fi
	touch "$KERNEL/.ready"
}

# has_modules MODULE...: true if all of them and their dependencies are known
has_modules() {
	for module; do
		modprobe -d "$KERNEL" -S "$RELEASE" --show-depends "$module" >/dev/null 2>&1 || return 1
	done
}

# module_files MODULE...: their files and their dependencies, in the order of loading
module_files() {
	for module; do
		modprobe -d "$KERNEL" -S "$RELEASE" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*$/\1/p'
	done | awk '!seen[$0]++'
}
