# shellcheck shell=sh
# A Debian of its own in the cache, to build a module or a kernel in, whose tools need the libraries of their
# release. Needs root, for mmdebstrap and chroot.

# make_root SUITE...: with DKMS and the headers of the kernel that find_kernel found; sets ROOT
make_root() {
	make_root_with "$HEADERS=$(candidate_of "$HEADERS")" "dkms,dwarves,kmod,make,$HEADERS" "$@"
}

# make_root_with NAME PACKAGES SUITE...: with these packages, separated by commas; sets ROOT
make_root_with() {
	ROOT=$CACHE/roots/$1 packages=$2 release=${3%%-*}
	shift 2
	[ -e "$ROOT/.complete" ] && return 0

	[ "$(id -u)" = 0 ] || {
		echo "only root can make a Debian $release to build in: run this with sudo" >&2
		return 1
	}
	echo "installing Debian $release with $packages into $CACHE/roots" >&2
	use_machine
	rm -rf --one-file-system "$ROOT"
	mkdir -p "$ROOT"
	[ "$1" = "$release" ] || set -- "$release" "$@"
	sources=$(sources_of "$@") || return 1
	# The Debian inside needs the machine's settings for its mirrors.
	apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries|Proxy)' >"$ROOT.apt" || :
	echo "$sources" | mmdebstrap --quiet --variant=apt --include="$packages" \
		--aptopt="$ROOT.apt" "$release" "$ROOT" - >&2 || return 1
	rm "$ROOT.apt"
	touch "$ROOT/.complete"
}

# in_root COMMAND...: runs it there as root, with /proc, and with the directory $SHARED, if that is set, on /mnt;
# leaves nothing mounted
in_root() {
	# shellcheck disable=SC2016 # for the shell inside
	unshare --mount --pid --fork --kill-child -- sh -ec '
		root=$1 shared=$2; shift 2
		mount -t proc proc "$root/proc"
		[ -z "$shared" ] || mount --bind "$shared" "$root/mnt"
		exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
	' sh "$ROOT" "${SHARED:-}" "$@"
}
