#!/bin/sh
# connect() while a UDP datagram is open: IPv4 sends it to the new peer, IPv6 to the old one
#
# Guess: IPv4 and IPv6 are alike. A datagram that was begun with MSG_MORE goes to the peer that the
#   socket has when it is completed. If the connect() fails, the old peer stays, and gets it.
# Behaviour: over IPv4 the new peer gets it, first part included; over IPv6 the old one, although
#   getpeername() says the new one. After a connect() that fails, IPv6 sends it to the old peer. IPv4
#   loses it: send() returns success, nobody gets it, and the next datagram reaches the old peer again.
# Hence: a client that fails over with connect() while it has a datagram open leaves half a request at
#   the old server over IPv6, and over IPv4 a failed attempt costs a datagram without any error. End
#   the datagram before connect().
# Versions: Linux 6.18.44
# Seen:
#   IPv4, connect to the new peer: ok; send: ok; old has nothing, new has 'one two'
#   IPv4, connect to nowhere: ENETUNREACH, peer is old; send: ok; old has nothing, new has nothing
#   IPv4, the next send: ok; old has 'three', new has nothing
#   IPv6, connect to the new peer: ok; send: ok; old has 'one two', new has nothing
#   IPv6, connect to nowhere: ENETUNREACH, peer is old; send: ok; old has 'one two', new has nothing
#   IPv6, the next send: ok; old has 'three', new has nothing
set -eu
. "$(dirname "$0")/lib.sh"

ip address add ::2/128 dev lo nodad
python3 - <<'EOF'
import socket
from clients import SHORT, outcome, udp, within


def show(version, family, hosts, nowhere):
    old, new = (udp(family, bind=(host, 5300)) for host in hosts)

    def corked():
        client = udp(family, peer=old.getsockname()[:2])
        client.send(b"one ", socket.MSG_MORE)
        return client

    def sent(what, call, data):
        result = outcome(call, data)
        # Loopback delivers before send returns.
        has = [outcome(within(SHORT, server).recv, 99) for server in (old, new)]
        print(f"{version}, {what}: {result}; old has {has[0]}, new has {has[1]}")

    client = corked()
    connected = outcome(client.connect, new.getsockname()[:2])
    sent(f"connect to the new peer: {connected}; send", client.send, b"two")
    client = corked()
    connected = outcome(client.connect, (nowhere, 5300))
    peer = "old" if client.getpeername() == old.getsockname() else "another"
    sent(f"connect to nowhere: {connected}, peer is {peer}; send", client.send, b"two")
    sent("the next send", client.send, b"three")


show("IPv4", socket.AF_INET, ("127.0.0.1", "127.0.0.2"), "203.0.113.9")
show("IPv6", socket.AF_INET6, ("::1", "::2"), "2001:db8::9")
EOF
