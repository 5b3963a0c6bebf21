#!/bin/sh
# `ip netns delete` takes the namespace's file out of private mount namespaces, umount does not
#
# Guess: /run/netns/NAME is a mount that keeps the network namespace alive. A container that was
#   started later has a private copy of all mounts, so after `ip netns delete` on the host, the
#   container's copy still keeps the namespace and its interfaces. That is what `umount` does.
# Behaviour: the guess is right for umount. But `ip netns delete` also removes the file under the
#   mount, and removing a file that is a mount point somewhere detaches it in *every* mount
#   namespace, private or not. The namespace is gone, and so is its entry in the container.
# Hence: a copy of /run/netns in another mount namespace (a container, a unit with PrivateMounts=)
#   protects nothing, and tools that keep it "open" there find an empty folder. Keep a descriptor.
#   Vice versa, a leaked copy of a mount is no explanation for a namespace that survived
#   `ip netns delete`.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   umount, no copy: the interface is gone
#   umount, a private copy: the interface exists; the copy: mounted, listed
#   ip netns delete, a private copy: the interface is gone; the copy: not mounted, not listed
#   ip netns delete, a descriptor is open: the interface exists
set -eu
. "$(dirname "$0")/lib.sh"

# blue, with one end of a veth pair outside
add() {
	ip netns add blue
	ip link add host type veth peer name inner netns blue
}

# Prints whether the pair is still there: `gone` waits for its end, which comes a moment later.
gone() {
	for _ in $(seq 200); do
		ip link show host >/dev/null 2>&1 || { echo "the interface is gone"; return; }
		sleep 0.1
	done
	echo "the interface is there after 20 s"
}
exists() {
	sleep 2
	ip link show host >/dev/null 2>&1 && echo "the interface exists" || echo "the interface is gone"
}

# A process with a private copy of all mounts; $copy is its pid.
copy() {
	mkfifo "$work/started" "$work/end"
	unshare --mount --propagation private sh -c "echo >'$work/started'; read -r _ <'$work/end'" &
	copy=$!
	read -r _ <"$work/started"
}
look() {
	grep -q /run/netns/blue "/proc/$copy/mounts" && mounted=mounted || mounted='not mounted'
	[ -e "/proc/$copy/root/run/netns/blue" ] && listed=listed || listed='not listed'
	echo "the copy: $mounted, $listed"
}
end_copy() {
	echo >"$work/end"
	wait "$copy"
	rm "$work/started" "$work/end"
}

add
umount /run/netns/blue
echo "umount, no copy: $(gone)"
rm /run/netns/blue

add
copy
umount /run/netns/blue
echo "umount, a private copy: $(exists); $(look)"
end_copy
gone >/dev/null
rm -f /run/netns/blue

add
copy
ip netns delete blue
echo "ip netns delete, a private copy: $(gone); $(look)"
end_copy

add
exec 9</run/netns/blue
ip netns delete blue
echo "ip netns delete, a descriptor is open: $(exists)"
exec 9<&-
