#!/bin/sh
# A SO_REUSEPORT member that lost its peer takes every datagram, or none
#
# Guess: UDP sockets of one SO_REUSEPORT group share the incoming datagrams. A connected member
#   takes no part. Once its peer is gone, by connect() with AF_UNSPEC or SOCK_DESTROY, it gets its
#   share like the others.
# Behaviour: the socket does not rejoin its group. If it was bound to the wildcard address, it
#   takes *all* datagrams of the port and the other members get none. If it was bound to an
#   address, it gets none itself.
# Hence: this happens to a server that connects a socket to a client and later puts it back into
#   its pool, and to one whose socket is destroyed. One worker then does all the work, or idles.
#   No call returns an error, and `ss` shows all members alike.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Also: by hand, a member bound to an address got its share on Linux 6.1 and 6.12.
# Seen:
#   64 datagrams for three members at 0.0.0.0: the second gets some, the others get some
#   second connected, AF_UNSPEC: the second gets all, the others get none
#   second connected, destroyed: the second gets all, the others get none
#   64 datagrams for three members at 127.0.0.1: the second gets some, the others get some
#   second connected, AF_UNSPEC: the second gets none, the others get all
#   second connected, destroyed: the second gets none, the others get all
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
from clients import destroy, disconnect, outcome, udp

DATAGRAMS = 64
peer = udp(bind=("127.0.0.1", 5300))


def member(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, 5400))
    sock.setblocking(False)
    return sock


def received(sock):
    count = 0
    while outcome(sock.recv, 9) == "'hello'":
        count += 1
    return count


def share(group):
    """The parts of DATAGRAMS datagrams, each from another port, that the members get."""
    for sender in [udp() for _ in range(DATAGRAMS)]:
        # Loopback delivers before send returns: nothing is on its way afterwards.
        sender.sendto(b"hello", ("127.0.0.1", 5400))
    second = received(group[1])
    others = received(group[0]) + received(group[2])
    assert second + others == DATAGRAMS, (second, others)
    word = lambda count: {0: "none", DATAGRAMS: "all"}.get(count, "some")
    return f"the second gets {word(second)}, the others get {word(others)}"


for address in ("0.0.0.0", "127.0.0.1"):
    group = [member(address) for _ in range(3)]
    print(f"{DATAGRAMS} datagrams for three members at {address}:", share(group))
    group[1].connect(peer.getsockname())
    disconnect(group[1])
    print("second connected, AF_UNSPEC:", share(group))
    for sock in group:
        sock.close()

    group = [member(address) for _ in range(3)]
    group[1].connect(peer.getsockname())
    destroy("-u", "dport", "=", ":5300")
    assert outcome(group[1].recv, 9) == "ECONNABORTED"
    print("second connected, destroyed:", share(group))
    for sock in group:
        sock.close()
EOF
