#!/bin/sh
# An IPv6 UDP socket is deaf after SOCK_DESTROY, an IPv4 one is not
#
# Guess: SOCK_DESTROY takes the peer from a connected UDP socket. Its owner can go on with
#   sendto() to another server and receives the reply, as with a new socket. IPv4 and IPv6 are
#   alike.
# Behaviour: this holds for IPv4. Over IPv6 the socket keeps the old peer's address as a filter on
#   what it receives, although getpeername() returns ENOTCONN. Requests reach the other server,
#   and its replies are dropped. connect() with AF_UNSPEC does not remove the filter; connect() to
#   an address does.
# Hence: a client that falls back from connect() to sendto() after an error works over IPv4 and
#   times out over IPv6.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   IPv4, destroyed: getpeername ENOTCONN
#   IPv4, destroyed: sendto another server: it has 'question', the client has 'reply'
#   IPv4, connect(AF_UNSPEC): sendto another server: it has 'question', the client has 'reply'
#   IPv4, connect to it: send: it has 'question', the client has 'reply'
#   IPv6, destroyed: getpeername ENOTCONN
#   IPv6, destroyed: sendto another server: it has 'question', the client has nothing
#   IPv6, connect(AF_UNSPEC): sendto another server: it has 'question', the client has nothing
#   IPv6, connect to it: send: it has 'question', the client has 'reply'
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

ip addr add fd00::1/128 dev lo
ip addr add fd00::2/128 dev lo
python3 - <<'EOF'
import socket
from clients import LONG, SHORT, destroy, disconnect, outcome, udp, within


def ask(client, server, send):
    """One question and one reply: what the server had, what the client had."""
    send(b"question")
    question, sender = within(LONG, server).recvfrom(99)
    server.sendto(b"reply", sender)
    return f"it has {question.decode()!r}, the client has {outcome(within(SHORT, client).recv, 99)}"


for name, family, first, second in (
    ("IPv4", socket.AF_INET, "127.0.0.1", "127.0.0.2"),
    ("IPv6", socket.AF_INET6, "fd00::1", "fd00::2"),
):
    old = udp(family, bind=(first, 5300))
    other = udp(family, bind=(second, 5300))
    client = udp(family, peer=(first, 5300))
    destroy("-u", "dport", "=", ":5300")
    assert outcome(client.recv, 99) == "ECONNABORTED"
    to_other = lambda data: client.sendto(data, (second, 5300))
    print(f"{name}, destroyed: getpeername", outcome(client.getpeername))
    print(f"{name}, destroyed: sendto another server:", ask(client, other, to_other))
    disconnect(client)
    print(f"{name}, connect(AF_UNSPEC): sendto another server:", ask(client, other, to_other))
    client.connect((second, 5300))
    print(f"{name}, connect to it: send:", ask(client, other, client.send))
EOF
