#!/bin/sh
# A UDP socket that is connected to port 0 has a peer and has none
#
# Guess: port 0 is no destination, so connect() of UDP to it fails, with EINVAL as sendto() does.
# Behaviour: it succeeds. getpeername() returns ENOTCONN, and `ss` shows the socket as ESTAB, with
#   the peer's address and no port. send() without a name works and puts a datagram to port 0 on the
#   wire, which earns ECONNREFUSED. The address filters what the socket receives, and the port does
#   not: it hears every port of that one host, and nobody else. With sendto() it reaches any server.
# Hence: a program that takes "ENOTCONN" for "no peer" misses that the socket hears one host only.
#   One that connects to port 0 just to learn its source address, a common trick, and keeps the
#   socket loses all replies from other hosts. A search for the clients of a backend by its address
#   and port does not find this one; a search by the address does.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   IPv4: sendto port 0 EINVAL, connect to port 0 ok, getpeername ENOTCONN
#   IPv4: ss: ESTAB 127.0.0.1:*
#   IPv4: send ok, then ECONNREFUSED
#   IPv4: from the host, port 5300: 'data', port 5301: 'data'; from another host: nothing
#   IPv4: sendto the other host: it has 'data', its reply: nothing
#   IPv4: selected by dst: 1, by dst and port 5300: 0
#   IPv6: sendto port 0 EINVAL, connect to port 0 ok, getpeername ENOTCONN
#   IPv6: ss: ESTAB [::1]:*
#   IPv6: send ok, then ECONNREFUSED
#   IPv6: from the host, port 5300: 'data', port 5301: 'data'; from another host: nothing
#   IPv6: sendto the other host: it has 'data', its reply: nothing
#   IPv6: selected by dst: 1, by dst and port 5300: 0
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

ip address add fd00::2/128 dev lo nodad
python3 - <<'EOF'
import socket
import subprocess
from clients import LONG, SHORT, outcome, udp, within


def ss(*expression):
    command = ["ss", "-H", "-u", "-n", "-a", *expression]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split() for line in output.splitlines()]


def show(version, family, host, other_host):
    servers = [udp(family, bind=(host, port)) for port in (5300, 5301)]
    other = udp(family, bind=(other_host, 5300))
    client = udp(family, bind=("", 5400))
    print(f"{version}: sendto port 0 {outcome(client.sendto, b'data', (host, 0))}", end=", ")
    print(f"connect to port 0 {outcome(client.connect, (host, 0))}", end=", ")
    print("getpeername", outcome(client.getpeername))
    for state, *_, peer in ss("sport", "=", ":5400"):
        print(f"{version}: ss: {state} {peer}")
    sent = outcome(client.send, b"data")
    print(f"{version}: send {sent}, then {outcome(within(LONG, client).recv, 99)}")

    def reply(server):
        server.sendto(b"data", client.getsockname())
        return outcome(within(SHORT, client).recv, 99)

    first, second = map(reply, servers)
    print(f"{version}: from the host, port 5300: {first}, port 5301: {second}", end="; ")
    print(f"from another host: {reply(other)}")
    client.sendto(b"data", (other_host, 5300))
    data, source = within(LONG, other).recvfrom(99)
    other.sendto(data, source)
    got = outcome(within(SHORT, client).recv, 99)
    print(f"{version}: sendto the other host: it has {data.decode()!r}, its reply: {got}")
    dst = f"[{host}]" if family == socket.AF_INET6 else host
    by_host, by_port = ss("dst", dst), ss("dst", dst, "dport", "=", ":5300")
    print(f"{version}: selected by dst: {len(by_host)}, by dst and port 5300: {len(by_port)}")


show("IPv4", socket.AF_INET, "127.0.0.1", "127.0.0.2")
show("IPv6", socket.AF_INET6, "::1", "fd00::2")
EOF
