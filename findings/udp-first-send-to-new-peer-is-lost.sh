#!/bin/sh
# A UDP socket that connects to a new peer loses the first datagram to it
#
# Guess: the error that SOCK_DESTROY leaves on a UDP socket concerns the old peer. connect() to
#   another one succeeds and starts afresh, so the next send goes to the new peer.
# Behaviour: connect() succeeds and leaves the error in place. The first send() fails with
#   ECONNABORTED and its datagram is lost; the second is sent. ECONNREFUSED, from an ICMP port
#   unreachable of the old peer, stays in the same way. Reading SO_ERROR after connect() clears
#   it.
# Hence: a client that reconnects before it noticed the error takes the new server for dead, or
#   loses one message. Read SO_ERROR between connect() and send().
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   destroyed, connect: ok, send ECONNABORTED, send ok; it has 'second', then nothing
#   refused by ICMP, connect: ok, send ECONNREFUSED, send ok; it has 'second', then nothing
#   destroyed, connect: ok, SO_ERROR ECONNABORTED, send ok, send ok; it has 'first', then 'second'
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import errno
import select
import socket
from clients import LONG, SHORT, destroy, outcome, udp, within

other = udp(bind=("127.0.0.2", 5300))


def reconnect(client, read_error=False):
    said = [outcome(client.connect, other.getsockname())]
    if read_error:
        said.append("SO_ERROR " + errno.errorcode[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    said += [f"send {outcome(client.send, word)}" for word in (b"first", b"second")]
    has = [outcome(within(seconds, other).recv, 9) for seconds in (LONG, SHORT)]
    return f"connect: {', '.join(said)}; it has {has[0]}, then {has[1]}"


def destroyed():
    client = udp(peer=server.getsockname())
    destroy("-u", "dport", "=", ":5300")
    return client


server = udp(bind=("127.0.0.1", 5300))
print("destroyed,", reconnect(destroyed()))

client = udp(peer=("127.0.0.1", 5301))
client.send(b"hello")
poll = select.poll()
poll.register(client, 0)
assert poll.poll(LONG * 1000) == [(client.fileno(), select.POLLERR)]
print("refused by ICMP,", reconnect(client))

print("destroyed,", reconnect(destroyed(), read_error=True))
EOF
