#!/bin/sh
# IPv4 routes that go with their interface or their next hop are no event, IPv6 routes are
#
# Guess: a monitor of routes (`ip monitor route`, RTNLGRP_IPV4_ROUTE) gets a message for each
#   route that goes, whatever the cause. IPv4 and IPv6 are alike. A next hop that routes use cannot
#   be deleted.
# Behaviour: when the interface goes down or is deleted, IPv6 reports each route, and IPv4 removes
#   its routes without an event. `ip nexthop del` is allowed, takes the routes with it, and they are
#   reported for IPv6 alone. When the address goes that a route names as its source, it is the other
#   way round: the IPv4 route goes, with an event, and the IPv6 route stays, loses its source, and
#   nothing reports that.
# Hence: a program that keeps a table of IPv4 routes by their events has dead routes in it. Listen
#   for links, addresses and next hops too, and list the routes again after each of these.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   routes deleted: IPv4 gone, reported; IPv6 gone, reported
#   interface down: IPv4 gone, no event; IPv6 gone, reported
#   interface deleted: IPv4 gone, no event; IPv6 gone, reported
#   next hops deleted: IPv4 gone, no event; IPv6 gone, reported
#   source address deleted: IPv4 gone, reported; IPv6 without source, no event
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
import subprocess
from clients import SHORT, within
from diag import messages

NETLINK_ROUTE = 0  # include/uapi/linux/netlink.h
RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400  # rtnetlink.h
ROUTES = (
    ("IPv4", "-4", socket.AF_INET, "10.2.0.0", 16),
    ("IPv6", "-6", socket.AF_INET6, "fd02::", 64),
)
BY_GATEWAY = ("via 10.1.0.2", "via fd00::2")
BY_NEXT_HOP = ("nhid 1", "nhid 2")
WITH_SOURCE = ("via 10.1.0.2 src 10.9.0.1", "via fd00::2 src fd09::1")


def ip(*commands):
    """Runs commands of ip(8) and returns what the last one prints."""
    for command in commands:
        run = subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
    return run.stdout.strip()


def route_messages(monitor):
    """The messages about routes, new, changed or deleted, up to now."""
    found = []
    while True:
        try:
            received = within(SHORT, monitor).recv(65536)
        except socket.timeout:
            return found
        found += [body for _, _, body in messages(received)]


def show(title, options, *commands):
    ip(
        "link add host type veth peer name inner",
        "link set inner up",
        "link set host up",
        "address add 10.1.0.1/24 dev host",
        "address add 10.9.0.1/32 dev host",
        "address add fd00::1/64 dev host nodad",
        "address add fd09::1/128 dev host nodad",
        "nexthop add id 1 via 10.1.0.2 dev host",
        "nexthop add id 2 via fd00::2 dev host",
        f"route add 10.2.0.0/16 {options[0]}",
        f"route add fd02::/64 {options[1]}",
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as monitor:
        monitor.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))
        ip(*commands)
        events = route_messages(monitor)
    words = []
    for version, option, family, prefix, length in ROUTES:
        left = ip(f"{option} route show {prefix}/{length}")
        state = "gone" if not left else "kept" if "src" in left else "without source"
        reported = any(socket.inet_pton(family, prefix) in body for body in events)
        words.append(f"{version} {state}, {'reported' if reported else 'no event'}")
    print(f"{title}: {'; '.join(words)}")
    if "host" in ip("link"):
        ip("link del host")


show("routes deleted", BY_GATEWAY, "route del 10.2.0.0/16", "route del fd02::/64")
show("interface down", BY_GATEWAY, "link set host down")
show("interface deleted", BY_GATEWAY, "link del host")
show("next hops deleted", BY_NEXT_HOP, "nexthop del id 1", "nexthop del id 2")
source_addresses = [f"address del {address} dev host" for address in ("10.9.0.1/32", "fd09::1/128")]
show("source address deleted", WITH_SOURCE, *source_addresses)
EOF
