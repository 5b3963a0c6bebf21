# shellcheck shell=sh
# Sourced by every finding, right after its header. The first time, this file
# - skips (exit 77) without root or without the commands that the script named in `needs`,
# - makes the temporary folder $work, with the packages of Debian, PyPI and npm that are named in
#   `packages`, `pypi` and `npm`, with nft if `needs_nft` is set, and the cgroup $FINDING_CGROUP if
#   `needs_cgroup` is set,
# - runs the script once more, in network, mount and process namespaces of its own,
# - compares the output of that run with the lines below "Seen:" in the header (exit 1 if it
#   differs), and
# - removes the folder and the cgroup. The namespaces end with the run, and with them every process,
#   interface and mount in them.
# The second time it prepares these namespaces and returns, and the script does its work.

# nft and the libraries that it loads
NFT='
	nftables=1.0.6-2+deb12u2
	libnftables1=1.0.6-2+deb12u2
	libnftnl11=1.2.4-2
	libmnl0=1.0.4-3
	libjansson4=2.14-2
	libgmp10=2:6.2.1+dfsg1-1.1
	libedit2=3.1-20221030-2
	libbsd0=0.11.7-2
	libmd0=1.0.4-2
	libxtables12=1.8.9-2
'

# A network namespace `server`, linked to this one: interface `host` here, `inner` there.
link_server() {
	ip netns add server
	ip link add host type veth peer name inner netns server
	ip link set host up
	ip -n server link set inner up
	ip address add 10.1.0.1/24 dev host
	ip -n server address add 10.1.0.2/24 dev inner
}

# skip WHAT IS MISSING: ends a finding that this kernel or machine cannot show.
skip() {
	echo "skipped: $*" >&2
	exit 77
}

# Unpacks the Debian packages named in `packages` (NAME=VERSION) below $FINDING_WORK/root and puts
# their commands on the PATH. Nothing is installed.
unpack() {
	root=$FINDING_WORK/root
	mkdir -p "$root" "$FINDING_WORK/download"
	for package in $packages; do
		( cd "$FINDING_WORK/download" && apt-get download -qq -o APT::Sandbox::User=root "$package" ) \
			>"$FINDING_WORK/apt" 2>&1 ||
			skip "apt-get cannot download $package: $(tail -1 "$FINDING_WORK/apt")"
	done
	for package in "$FINDING_WORK"/download/*.deb; do
		dpkg -x "$package" "$root"
	done
	PATH=$root/usr/sbin:$root/usr/bin:$root/sbin:$root/bin:$PATH
	LD_LIBRARY_PATH=$root/usr/lib/$(uname -m)-linux-gnu
	export LD_LIBRARY_PATH
}

# fetch COMMAND...: runs a package manager; the finding cannot be shown if it fails.
fetch() {
	"$@" >"$FINDING_WORK/fetch" 2>&1 || skip "$1 cannot get the packages: $(tail -1 "$FINDING_WORK/fetch")"
}

# Installs the packages named in `pypi` (NAME==VERSION) and `npm` (NAME@VERSION) in $FINDING_WORK,
# all of them by name: their dependencies are not followed by pip, and pinned by npm only if named.
install() {
	# shellcheck disable=SC2086 # a list of names
	if [ -n "${pypi-}" ]; then
		fetch python3 -m pip install --no-deps --only-binary :all: --target "$FINDING_WORK/python" $pypi
		PYTHONPATH=$PYTHONPATH:$FINDING_WORK/python
	fi
	# shellcheck disable=SC2086 # a list of names
	if [ -n "${npm-}" ]; then
		fetch npm install --prefix "$FINDING_WORK" --ignore-scripts --no-audit --no-fund $npm
		NODE_PATH=$FINDING_WORK/node_modules
		export NODE_PATH
	fi
}

# The inner run: the loopback device is up, and names of network namespaces end with the run.
inside() {
	# shellcheck disable=SC2034 # used by the scripts
	work=$FINDING_WORK
	ip link set lo up
	mkdir -p /run/netns
	mount -t tmpfs tmpfs /run/netns
}

# The outer run: everything around the inner one.
outside() {
	PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
	LC_ALL=C
	PYTHONPATH=$(dirname "$script")
	PYTHONDONTWRITEBYTECODE=1
	export PATH LC_ALL PYTHONPATH PYTHONDONTWRITEBYTECODE
	[ "$(id -u)" = 0 ] || skip "needs root"
	for command in ip python3 unshare ${needs-} ${packages:+apt-get dpkg} ${npm:+node npm}; do
		command -v "$command" >/dev/null || skip "needs the command $command"
	done

	child=
	FINDING_CGROUP=
	if [ -n "${needs_cgroup-}" ]; then
		root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
		[ -n "$root" ] || skip "needs a mounted cgroup2"
		FINDING_CGROUP=$root/finding-$$
	fi
	FINDING_WORK=$(mktemp -d)
	export FINDING_WORK FINDING_CGROUP
	trap end EXIT
	trap 'exit 130' INT TERM
	[ -z "$FINDING_CGROUP" ] || mkdir "$FINDING_CGROUP"
	[ -z "${packages-}" ] || unpack
	install
	timeout --kill-after=5 "${seconds-120}" \
		unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
		"$script" >"$FINDING_WORK/seen" &
	child=$!
	status=0
	wait "$child" || status=$?
	child=
	case $status in
	0) compare ;;
	77) exit 77 ;;
	*)
		cat "$FINDING_WORK/seen"
		echo "$finding: the run failed with status $status" >&2
		exit 1
		;;
	esac
}

# Prints the output of the run; the header has to say the same.
compare() {
	sed -n '/^# Seen:$/,/^[^#]/ s/^#   //p' "$script" >"$FINDING_WORK/header"
	[ -s "$FINDING_WORK/header" ] || { echo "$finding: nothing below \"Seen:\" in its header" >&2; exit 1; }
	cat "$FINDING_WORK/seen"
	diff -u --label "header of $finding" --label "this run" "$FINDING_WORK/header" "$FINDING_WORK/seen" >&2 || {
		echo "$finding: the behaviour is not what the header says" >&2
		exit 1
	}
}

# shellcheck disable=SC2317 # called by the trap
end() {
	if [ -n "$child" ]; then
		kill "$child" 2>/dev/null || :
		wait "$child" || :
	fi
	rm -rf --one-file-system "$FINDING_WORK"
	[ -n "$FINDING_CGROUP" ] || return 0
	# Children first; a cgroup can be removed a moment after its last process ended.
	for _ in $(seq 100); do
		find "$FINDING_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || :
		[ -e "$FINDING_CGROUP" ] || return 0
		sleep 0.1
	done
	echo "$finding: cannot remove $FINDING_CGROUP" >&2
	exit 1
}

[ -z "${needs_nft-}" ] || packages="$NFT ${packages-}"
script=$(realpath "$0")
finding=$(basename "$script" .sh)
if [ -n "${FINDING_WORK-}" ]; then
	inside
else
	outside
	exit
fi
