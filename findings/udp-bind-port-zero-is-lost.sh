#!/bin/sh
# A UDP port from bind() to port 0 is lost with the peer
#
# Guess: bind() to port 0 takes a free port, and getsockname() returns it. From then on it is the
#   socket's port until close(), whatever happens to its peer.
# Behaviour: only a port that was named in bind() stays. The socket loses a port that the kernel
#   chose when it loses its peer, by connect() with AF_UNSPEC or by SOCK_DESTROY: getsockname()
#   returns port 0, datagrams to the old port reach nobody, and the next send or connect takes
#   another port. The address given to bind() stays.
# Hence: a program that told others its port becomes unreachable, and no call returns an error. A
#   test that binds to port 0 does not test what happens to a server with a fixed port.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   port 0, connected: same port: yes; a datagram to the port gives 'hello'
#   port 0, connect(AF_UNSPEC): 127.0.0.1 port 0; a datagram to the port gives nothing
#   port 0, destroyed: 127.0.0.1 port 0; a datagram to the port gives nothing
#   port 4777, connect(AF_UNSPEC): 127.0.0.1 port 4777; a datagram to the port gives 'hello'
#   port 4777, destroyed: 127.0.0.1 port 4777; a datagram to the port gives 'hello'
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
from clients import SHORT, destroy, disconnect, outcome, udp, within

peer = udp(bind=("127.0.0.1", 5300))


def hello(sock, port):
    """A datagram from the peer to that port: what the socket has."""
    peer.sendto(b"hello", ("127.0.0.1", port))
    return f"a datagram to the port gives {outcome(within(SHORT, sock).recv, 99)}"


def name(sock):
    return "{} port {}".format(*sock.getsockname())


for port in (0, 4777):
    sock = udp(bind=("127.0.0.1", port))
    bound = sock.getsockname()[1]
    sock.connect(peer.getsockname())
    if port == 0:
        same = "yes" if sock.getsockname()[1] == bound else "no"
        print(f"port 0, connected: same port: {same};", hello(sock, bound))
    disconnect(sock)
    print(f"port {port}, connect(AF_UNSPEC): {name(sock)};", hello(sock, bound))
    sock.close()

    sock = udp(bind=("127.0.0.1", port), peer=peer.getsockname())
    bound = sock.getsockname()[1]
    destroy("-u", "dport", "=", ":5300")
    assert outcome(sock.recv, 99) == "ECONNABORTED"
    print(f"port {port}, destroyed: {name(sock)};", hello(sock, bound))
    sock.close()
EOF
