#!/bin/sh
# connect() of a unix datagram socket throws away what it has not read, and may reset its old peer
#
# Guess: as with UDP: connect() to another peer changes where the socket sends and who may send to
#   it. Messages that wait in its queue stay, and the old peer notices nothing.
# Behaviour: if the socket had a peer, connect() to another one, or with AF_UNSPEC, discards every
#   message in its queue, whoever sent it. send() had returned success for them, and the
#   socket gets no error. If messages were lost and the old peer is connected to the socket, that
#   peer gets ECONNRESET from its next recv(), before its own data. The first connect() of a socket,
#   and one to the same peer again, discard nothing. UDP keeps the queue in all these cases.
# Hence: read until EAGAIN before connect(), and expect a loss all the same: unix sockets are
#   reliable while they stay connected, and no longer. In a request and reply protocol over
#   datagrams, use a new socket for the new server.
# Versions: Linux 6.18.44
# Seen:
#   unix, first connect: two unread messages, then 'one' 'two', sender: nothing
#   unix, to another peer: two unread messages, then nothing nothing, sender: ECONNRESET 'its own'
#   unix, to the same peer: two unread messages, then 'one' 'two', sender: 'its own'
#   unix, AF_UNSPEC: two unread messages, then nothing nothing, sender: ECONNRESET 'its own'
#   UDP, first connect: two unread messages, then 'one' 'two', sender: nothing
#   UDP, to another peer: two unread messages, then 'one' 'two', sender: 'its own'
#   UDP, to the same peer: two unread messages, then 'one' 'two', sender: 'its own'
#   UDP, AF_UNSPEC: two unread messages, then 'one' 'two', sender: 'its own'
set -eu
. "$(dirname "$0")/lib.sh"

cd "$work"
python3 - <<'EOF'
import itertools
import socket
from clients import SHORT, disconnect, outcome, udp, within

numbers = itertools.count(5300)


def bound(family):
    """A datagram socket with an address of its own."""
    number = next(numbers)
    if family == socket.AF_INET:
        return udp(bind=("127.0.0.1", number))
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(str(number))
    return sock


def show(name, family, how):
    client, server, other = (bound(family) for _ in range(3))
    server.connect(client.getsockname())
    if how != "first connect":
        client.connect(server.getsockname())
        client.send(b"its own")
    server.send(b"one")
    server.send(b"two")
    if how == "AF_UNSPEC":
        disconnect(client)
    else:
        client.connect((server if how == "to the same peer" else other).getsockname())
    unread = " ".join(outcome(within(SHORT, client).recv, 99) for _ in range(2))
    told = outcome(within(SHORT, server).recv, 99)
    if told == "ECONNRESET":
        told += " " + outcome(within(SHORT, server).recv, 99)
    print(f"{name}, {how}: two unread messages, then {unread}, sender: {told}")


for name, family in (("unix", socket.AF_UNIX), ("UDP", socket.AF_INET)):
    for how in ("first connect", "to another peer", "to the same peer", "AF_UNSPEC"):
        show(name, family, how)
EOF
