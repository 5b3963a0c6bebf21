#!/bin/bash
# The package on a machine: installed, started by systemd as its unit says, used, updated, removed; nothing is left.
#
#   tests/deb/run.sh FILE.deb HOLD-LOCK
#
# HOLD-LOCK is the example hold-lock of tests/testbed: an owner that does not let go of its socket's lock.
#
# The machine is a throw-away one: a copy-on-write view of this one's file system, with namespaces of its own (mount, PID,
# network, UTS, IPC, cgroup) and systemd as its first process. What is installed there is installed nowhere else, and its root
# cgroup is one cgroup here. Needs root, overlayfs, cgroup2, and systemd installed on a Debian.
set -eu

if [ "${1-}" != --inside ]; then
	deb=$(realpath "$1")
	here=$(realpath "$(dirname "$0")")
	[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }
	work=$(mktemp -d)
	cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/skreap-deb-$$
	mkdir "$cgroup"
	# shellcheck disable=SC2317 # called by the trap
	end() {
		# Whatever has not ended with its PID namespace
		if [ -e "$cgroup/cgroup.kill" ]; then echo 1 >"$cgroup/cgroup.kill"; fi
		for _ in $(seq 100); do
			# Those of services go first; a cgroup is free a moment after its last process.
			find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || :
			[ -e "$cgroup" ] || break
			sleep 0.1
		done
		rm -rf --one-file-system "$work"
		[ ! -e "$cgroup" ] || { echo "cannot remove $cgroup" >&2; exit 1; }
	}
	trap end EXIT
	mkdir "$work/shared"
	cp "$deb" "$work/shared/skreap.deb"
	cp "$2" "$work/shared/hold-lock"
	cp "$here/inside.sh" "$work/shared/"
	status=0
	# The shell that goes into the cgroup is the one that becomes systemd's parent.
	sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
		timeout --kill-after=5 200 unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child \
		"$here/run.sh" --inside "$work" >"$work/console" 2>&1 || status=$?
	cat "$work/shared/output" 2>/dev/null || :
	if [ "$(cat "$work/shared/verdict" 2>/dev/null)" != passed ]; then
		echo "--- console (status $status)" >&2
		tail -40 "$work/console" >&2
		echo "the package does not do what it should" >&2
		exit 1
	fi
	exit 0
fi

# The first process of the new namespaces: makes the machine, and becomes systemd.
work=$2
mount --make-rprivate /
mkdir "$work/data"
mount -t tmpfs tmpfs "$work/data"
mkdir -p "$work/data/upper" "$work/data/work" "$work/root"
root=$work/root
mount -t overlay -o "lowerdir=/,upperdir=$work/data/upper,workdir=$work/data/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
	mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/mnt/shared"
mount --bind "$work/shared" "$root/mnt/shared"

# Nothing of this machine's own services; and packages may start theirs, which images for containers often forbid.
etc=$root/etc/systemd/system
rm -rf "$etc" "$root/usr/sbin/policy-rc.d"
mkdir -p "$etc"
cat >"$etc/check.service" <<'UNIT'
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/shared/inside.sh
ExecStopPost=/bin/systemctl --no-block exit
StandardOutput=file:/mnt/shared/output
StandardError=file:/mnt/shared/output
TimeoutStartSec=180
UNIT
cat >"$etc/check.target" <<'UNIT'
[Unit]
Requires=basic.target check.service
UNIT
# Not chroot: the sandbox of a unit is made of mounts below the real root of the namespace.
mkdir "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
exec chroot . /usr/bin/env -i container=skreap-test PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c '
	umount -l /mnt/old
	exec /lib/systemd/systemd --system --unit=check.target --show-status=no --log-target=journal-or-kmsg'
