# shellcheck shell=sh
# A Debian of its own in the cache, set up to build a module: with DKMS and the headers of the kernel,
# whose tools need the libraries of their release. Needs root, for mmdebstrap and chroot.

# make_root SUITE...: for the kernel that find_kernel found; sets ROOT
make_root() {
	release=${1%%-*}
	ROOT=$CACHE/roots/$HEADERS=$(candidate_of "$HEADERS")
	[ -e "$ROOT/.complete" ] && return 0

	[ "$(id -u)" = 0 ] || {
		echo "only root can make a Debian $release to build the module in: run this with sudo" >&2
		return 1
	}
	echo "installing Debian $release with $HEADERS into $CACHE/roots" >&2
	use_machine
	rm -rf --one-file-system "$ROOT"
	mkdir -p "$ROOT"
	[ "$1" = "$release" ] || set -- "$release" "$@"
	sources=$(sources_of "$@") || return 1
	# The Debian inside needs the machine's settings for its mirrors.
	apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries|Proxy)' >"$ROOT.apt" || :
	echo "$sources" | mmdebstrap --quiet --variant=apt --include="dkms,dwarves,kmod,make,$HEADERS" \
		--aptopt="$ROOT.apt" "$release" "$ROOT" - >&2 || return 1
	rm "$ROOT.apt"
	touch "$ROOT/.complete"
}

# in_root COMMAND...: runs it there as root, with /proc, and leaves nothing mounted
in_root() {
	# shellcheck disable=SC2016 # for the shell inside
	unshare --mount --pid --fork --kill-child -- sh -ec '
		root=$1; shift
		mount -t proc proc "$root/proc"
		exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
	' sh "$ROOT" "$@"
}
