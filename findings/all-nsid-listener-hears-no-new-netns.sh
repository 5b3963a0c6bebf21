#!/bin/sh
# NETLINK_LISTEN_ALL_NSID does not hear of a network namespace that is new
#
# Guess: a netlink socket with this option gets the events of all network namespaces, a new one from
#   its first change on.
# Behaviour: it gets those of the namespaces that have an id (nsid) in the listener's own. A new
#   namespace has none: `ip netns add` gives none, nor does listing them. The first veth pair
#   between the two gives it one, as does `ip netns set`; it keeps it when the pair is gone. Events
#   before that are lost without a sign.
# Hence: a monitor of all containers misses addresses and routes that were set before the
#   namespace got its first interface, and whole namespaces without a pair to the host's (host-local
#   ones, those behind another namespace). Give each an id (RTM_NEWNSID) and list it then.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   ip netns add blue: nsid none; an address added in it: no event
#   ip netns list: nsid none; an address added in it: no event
#   a veth pair to it: nsid yes; an address added in it: 1 event
#   the pair is gone: nsid yes; an address added in it: 1 event
#   ip netns add green, set to 77: nsid 77; an address added in it: 1 event, from nsid 77
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import re
import select
import socket
import struct
import subprocess
from clients import LONG, SHORT

# linux/netlink.h, linux/rtnetlink.h
NETLINK_ROUTE, SOL_NETLINK, NETLINK_LISTEN_ALL_NSID = 0, 270, 8
RTMGRP_IPV4_IFADDR = 0x10


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def nsid(name):
    found = re.search(rf"^{name} \(id: (\d+)\)", ip("netns", "list"), re.M)
    return found.group(1) if found else "none"


def change(name):
    """Adds an address in the namespace: how many events come, and from which ids."""
    global added
    added += 1
    expected = nsid(name) != "none"
    ip("-n", name, "address", "add", f"10.1.0.{added}/32", "dev", "lo")
    senders = []
    while select.select([monitor], [], [], LONG if expected and not senders else SHORT)[0]:
        _, control, _, _ = monitor.recvmsg(65536, 64)
        senders += [struct.unpack("=i", data)[0] for _, _, data in control]
    return senders


def show(what, name, number=None):
    senders = change(name)
    got = nsid(name)
    events = f"{len(senders)} event" if senders else "no event"
    if number:
        events += f", from nsid {senders[0]}"
    elif got != "none":
        got = "yes"
    print(f"{what}: nsid {got}; an address added in it: {events}")


added = 0
monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
monitor.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
monitor.bind((0, RTMGRP_IPV4_IFADDR))
ip("netns", "add", "blue")
show("ip netns add blue", "blue")
ip("netns", "list")
show("ip netns list", "blue")
ip("link", "add", "host", "type", "veth", "peer", "name", "inner", "netns", "blue")
show("a veth pair to it", "blue")
ip("link", "delete", "host")
show("the pair is gone", "blue")
ip("netns", "add", "green")
ip("netns", "set", "green", "77")
show("ip netns add green, set to 77", "green", 77)
EOF
