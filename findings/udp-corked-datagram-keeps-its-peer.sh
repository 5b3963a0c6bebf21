#!/bin/sh
# A corked UDP datagram goes to its first peer, even after the socket lost that peer
#
# Guess: send() with MSG_MORE starts a datagram, and the next send() completes it. If the socket
#   is destroyed or disconnected in between, the first part is dropped and the next send fails
#   with EDESTADDRREQ. If that send names an address, the datagram goes there.
# Behaviour: SOCK_DESTROY and connect() with AF_UNSPEC leave the open datagram in place, and the
#   next send() completes it: it returns success on a socket without peer, and the datagram goes
#   to the old peer. sendto() with another address completes it too, ignores that address, and
#   returns success. Only connect() to another peer redirects it, first part included.
# Hence: a destroyed socket can send one more datagram to the peer that is gone for it, and
#   sendto() may reach another server than the one it names.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   send 'one ' with MSG_MORE, destroy, recv: ECONNABORTED
#   send 'two': ok; the old peer has 'one two', the other has nothing
#   send 'three': EDESTADDRREQ; the old peer has nothing, the other has nothing
#   send 'one ' with MSG_MORE, connect(AF_UNSPEC)
#   send 'two': ok; the old peer has 'one two', the other has nothing
#   send 'one ' with MSG_MORE
#   sendto the other 'two': ok; the old peer has 'one two', the other has nothing
#   send 'one ' with MSG_MORE, connect to the other
#   send 'two': ok; the old peer has nothing, the other has 'one two'
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
from clients import LONG, SHORT, destroy, disconnect, outcome, udp, within

old, other = (udp(bind=(address, 5300)) for address in ("127.0.0.1", "127.0.0.2"))


def corked():
    client = udp(peer=old.getsockname())
    client.send(b"one ", socket.MSG_MORE)
    return client


def has(sock):
    # Loopback delivers before send returns.
    return outcome(within(SHORT, sock).recv, 99)


def show(what, call, *args):
    print(f"{what}: {outcome(call, *args)}; the old peer has {has(old)}, the other has {has(other)}")


client = corked()
destroy("-u", "dport", "=", ":5300")
print("send 'one ' with MSG_MORE, destroy, recv:", outcome(within(LONG, client).recv, 99))
show("send 'two'", client.send, b"two")
show("send 'three'", client.send, b"three")

client = corked()
disconnect(client)
print("send 'one ' with MSG_MORE, connect(AF_UNSPEC)")
show("send 'two'", client.send, b"two")

client = corked()
print("send 'one ' with MSG_MORE")
show("sendto the other 'two'", client.sendto, b"two", other.getsockname())

client = corked()
client.connect(other.getsockname())
print("send 'one ' with MSG_MORE, connect to the other")
show("send 'two'", client.send, b"two")
EOF
