#!/bin/sh
# "Host unreachable" does not reach a connected UDP client, and other ICMP errors do
#
# Guess: an ICMP error about its datagram ends the wait of a connected UDP client: recv() returns
#   EHOSTUNREACH for "host unreachable", as connect() of TCP does. If the server's address is in
#   the client's own subnet and nobody answers there, it gets EHOSTUNREACH too.
# Behaviour: only some codes count. Over IPv4 "port unreachable", "protocol unreachable" and the
#   three "prohibited" give an error, "host unreachable" and "net unreachable" give none. Over IPv6
#   "port unreachable" and the three refusals by policy do (EACCES), "no route" and "address
#   unreachable" do not. If nobody answers ARP or neighbour discovery, the client waits on. Its
#   sends go on succeeding. With IP_RECVERR (IPV6_RECVERR) all of them are reported.
# Hence: a connected UDP client does not notice that its backend's machine is gone, and a firewall
#   that rejects on behalf of a dead backend must send "port unreachable" or "prohibited". The
#   errno is another one in IPv6.
# Versions: Linux 6.18.44, nftables 1.0.6-2+deb12u2
# Seen:
#   icmp port-unreachable: recv ECONNREFUSED, with IP_RECVERR ECONNREFUSED
#   icmp prot-unreachable: recv ENOPROTOOPT, with IP_RECVERR ENOPROTOOPT
#   icmp net-unreachable: recv nothing, with IP_RECVERR ENETUNREACH
#   icmp host-unreachable: recv nothing, with IP_RECVERR EHOSTUNREACH
#   icmp net-prohibited: recv ENETUNREACH, with IP_RECVERR ENETUNREACH
#   icmp host-prohibited: recv EHOSTUNREACH, with IP_RECVERR EHOSTUNREACH
#   icmp admin-prohibited: recv EHOSTUNREACH, with IP_RECVERR EHOSTUNREACH
#   no such host, IPv4: recv nothing, with IP_RECVERR EHOSTUNREACH
#   icmpv6 port-unreachable: recv ECONNREFUSED, with IP_RECVERR ECONNREFUSED
#   icmpv6 no-route: recv nothing, with IP_RECVERR ENETUNREACH
#   icmpv6 addr-unreachable: recv nothing, with IP_RECVERR EHOSTUNREACH
#   icmpv6 admin-prohibited: recv EACCES, with IP_RECVERR EACCES
#   icmpv6 policy-fail: recv EACCES, with IP_RECVERR EACCES
#   icmpv6 reject-route: recv EACCES, with IP_RECVERR EACCES
#   no such host, IPv6: recv nothing, with IP_RECVERR EHOSTUNREACH
set -eu
needs_nft=yes
. "$(dirname "$0")/lib.sh"

link_server
ip address add fd01::1/64 dev host nodad
ip -n server address add fd01::2/64 dev inner nodad
# No limit on ICMP errors
ip netns exec server sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
	echo 0 >/proc/sys/net/ipv6/icmp/ratelimit'
python3 - <<'EOF'
import socket
import subprocess
from clients import LONG, SHORT, outcome, udp, within

IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
RULES = """
table inet filter
delete table inet filter
table inet filter {
	chain input {
		type filter hook input priority 0
		udp dport 5300 reject with %s
	}
}
"""
CODES = {
    "icmp": "port-unreachable prot-unreachable net-unreachable host-unreachable "
    "net-prohibited host-prohibited admin-prohibited",
    "icmpv6": "port-unreachable no-route addr-unreachable admin-prohibited policy-fail reject-route",
}


def reject(reason):
    command = ["ip", "netns", "exec", "server", "nft", "-f", "-"]
    subprocess.run(command, input=RULES % reason, text=True, check=True)


def ask(family, host, report, seconds):
    """What a client that sends one datagram gets from recv()."""
    client = udp(family, peer=(host, 5300))
    if report and family == socket.AF_INET:
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    elif report:
        client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    client.send(b"question")
    got = outcome(within(seconds, client).recv, 16)
    if got == "nothing" and outcome(client.send, b"again") != "ok":
        got += ", but send fails"
    return got


def show(what, family, host, wait):
    # The error queue first: its answer shows that the ICMP error has come by then
    with_queue = ask(family, host, True, LONG)
    print(f"{what}: recv {ask(family, host, False, wait)}, with IP_RECVERR {with_queue}")


for kind, family, host in (
    ("icmp", socket.AF_INET, "10.1.0.2"),
    ("icmpv6", socket.AF_INET6, "fd01::2"),
):
    for code in CODES[kind].split():
        reject(f"{kind} {code}")
        show(f"{kind} {code}", family, host, SHORT)
    nobody = host[:-1] + "9"
    # The kernel gives up after 3 s
    show(f"no such host, IPv{6 if ':' in host else 4}", family, nobody, 6)
EOF
