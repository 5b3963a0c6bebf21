#!/bin/sh
# A dual-stack UDP socket that connects from an IPv6 peer to an IPv4 one never hears the new peer
#
# Guess: an IPv6 socket without IPV6_V6ONLY takes IPv6 peers and IPv4-mapped ones. A connected one
#   moves from one to the other by connect(), sends to the new peer and receives its replies. If the
#   kernel could not do that, connect() would fail.
# Behaviour: from IPv6 to IPv4, connect() succeeds, and send() reaches the new peer. The replies are
#   dropped: the client waits without an error, and the server gets an ICMP port unreachable.
#   getsockname() still has the IPv6 address, which the datagrams do not carry.
#   From IPv4 to IPv6, connect() fails with EAFNOSUPPORT, and the old peer stays. A connect() with
#   AF_UNSPEC in between makes both work. So does SOCK_DESTROY, which takes the old address away.
#   A socket that is bound to the wildcard is no better.
# Hence: a client that fails over between servers of both families needs AF_UNSPEC before each
#   connect(), or a socket per family. Else an IPv4 fallback looks like a dead server. A test with
#   destroyed sockets passes, and the same client hangs when it changes servers by itself.
# Versions: Linux 6.18.44
# Seen:
#   IPv6 to IPv4, nothing between: connect ok, own address ::1, the server sees 127.0.0.1
#     client: nothing, server: ECONNREFUSED
#   IPv6 to IPv4, nothing between, bound: connect ok, own address ::1, the server sees 127.0.0.1
#     client: nothing, server: ECONNREFUSED
#   IPv6 to IPv4, AF_UNSPEC: connect ok, own address ::ffff:127.0.0.1, the server sees 127.0.0.1
#     client: 'reply', server: nothing
#   IPv6 to IPv4, SOCK_DESTROY: connect ok, own address ::ffff:127.0.0.1, the server sees 127.0.0.1
#     client: 'reply', server: nothing
#   IPv4 to IPv6, nothing between: connect EAFNOSUPPORT, peer ::ffff:127.0.0.1
#   IPv4 to IPv6, AF_UNSPEC: connect ok, own address ::1, the server sees ::1
#     client: 'reply', server: nothing
#   IPv4 to IPv6, SOCK_DESTROY: connect ok, own address ::1, the server sees ::1
#     client: 'reply', server: nothing
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
from clients import LONG, SHORT, destroy, disconnect, outcome, udp, within

IP_RECVERR = 11  # include/uapi/linux/in.h
SERVERS = {
    "IPv4": ("::ffff:127.0.0.1", udp(bind=("127.0.0.1", 5300))),
    "IPv6": ("::1", udp(socket.AF_INET6, bind=("::1", 5300))),
}
SERVERS["IPv4"][1].setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def move(old, new, between, bind=None):
    client = udp(socket.AF_INET6, bind, peer=(SERVERS[old][0], 5300))
    if between == "AF_UNSPEC":
        disconnect(client)
    elif between == "SOCK_DESTROY":
        destroy("-u", "dport", "=", ":5300")
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    address, server = SERVERS[new]
    connected = outcome(client.connect, (address, 5300))
    print(f"{old} to {new}, {between}{', bound' if bind else ''}: connect {connected}", end=", ")
    if connected != "ok":
        print("peer", client.getpeername()[0])
        return
    client.send(b"request")
    _, source = within(LONG, server).recvfrom(99)
    print(f"own address {client.getsockname()[0]}, the server sees {source[0]}")
    server.sendto(b"reply", source)
    # Loopback delivers before sendto returns, the ICMP error too.
    got = outcome(within(SHORT, client).recv, 99)
    print(f"  client: {got}, server: {outcome(within(SHORT, server).recv, 99)}")
    client.close()


for between, bind in (
    ("nothing between", None),
    ("nothing between", ("::", 5400)),
    ("AF_UNSPEC", None),
    ("SOCK_DESTROY", None),
):
    move("IPv6", "IPv4", between, bind)
for between in ("nothing between", "AF_UNSPEC", "SOCK_DESTROY"):
    move("IPv4", "IPv6", between)
EOF
