# shellcheck shell=sh
# Gets a Debian kernel: image, modules and headers, unpacked into the cache and not installed.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/skreap/kernels

# The kernel package that a metapackage stands for
newest_of() {
	apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-\(image\|headers\)-.*\)$/\1/p' | head -n 1
}

candidate_of() {
	apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'
}

# What the headers of a kernel need: their common part and the kbuild tools
parts_of() {
	apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-\(headers\|kbuild\)-.*\)$/\1/p'
}

# fetch_kernel IMAGE HEADERS: sets RELEASE (as of uname -r) and KERNEL (the directory)
fetch_kernel() {
	image=$(newest_of "$1")
	headers=$(newest_of "$2")
	if [ -z "$image" ] || [ -z "$headers" ]; then
		echo "apt knows no $1 or no $2: run apt-get update, and look for the suite in its sources" >&2
		return 1
	fi
	RELEASE=${image#linux-image-}
	KERNEL=$CACHE/$image=$(candidate_of "$image")
	[ -e "$KERNEL/.complete" ] && return 0

	echo "fetching $image and its headers into $CACHE" >&2
	rm -rf "$KERNEL"
	mkdir -p "$KERNEL/deb"
	# One that is gone from the mirror means that apt's lists are old.
	# shellcheck disable=SC2046 # a list of packages
	(cd "$KERNEL/deb" && apt-get -qq download "$image" "$headers" $(parts_of "$headers")) >&2 || {
		echo "cannot download $image: if it is gone from the mirror, run apt-get update" >&2
		return 1
	}
	for deb in "$KERNEL"/deb/*.deb; do
		case ${deb##*/} in
		linux-image-*) # half a gigabyte of drivers is not needed
			dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$KERNEL" --wildcards \
				'./boot/*' '*/modules.*' '*/kernel/net/*' '*/kernel/drivers/net/veth*' ;;
		*) dpkg-deb -x "$deb" "$KERNEL" ;;
		esac
	done
	rm -r "$KERNEL/deb"
	# It includes its other half by the path where that would be installed.
	sed -i "s|^include /usr/src/|include $KERNEL/usr/src/|" "$KERNEL/usr/src/$headers/Makefile"
	depmod -b "$KERNEL" "$RELEASE"
	touch "$KERNEL/.complete"
}

# module_files MODULE...: their files and those they need, in the order of loading
module_files() {
	for module; do
		modprobe -d "$KERNEL" -S "$RELEASE" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*$/\1/p'
	done | awk '!seen[$0]++'
}
