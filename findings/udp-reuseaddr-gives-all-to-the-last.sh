#!/bin/sh
# With SO_REUSEADDR, a second UDP server takes over the port without an error
#
# Guess: SO_REUSEADDR on a UDP socket is for restarts, as with TCP: while another server has the
#   port, bind() fails with EADDRINUSE. If it does not, the first server keeps what it had, or the
#   two share.
# Behaviour: if both set the option, bind() succeeds and the socket that was bound *last* gets every
#   datagram. The first one hears nothing, gets no error, and looks healthy in `ss`. When the last
#   one closes, the one before it gets all again. A socket bound to the address itself goes before
#   one bound to the wildcard, whichever was last. If one of the two lacks the option, bind() fails.
# Hence: a server that is started twice by mistake works half: the old process holds its state and
#   its sessions, and the new one gets the traffic. Leave the option out for UDP, or use
#   SO_REUSEPORT if sharing is meant.
# Versions: Linux 6.18.44
# Seen:
#   A, B, C at 127.0.0.1: 16 datagrams: A 0, B 0, C 16
#   C closed: 16 datagrams: A 0, B 16
#   D at 0.0.0.0, bound last: 16 datagrams: A 0, B 16, D 0
#   E without the option: bind EADDRINUSE
#   with SO_REUSEPORT instead, A, B, C: each gets some of 64
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import select
import socket
from clients import LONG, outcome, udp

PORT = 5300


def server(host="127.0.0.1", option=socket.SO_REUSEADDR):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind((host, PORT))
    return sock


def counts(servers, number):
    """Sends datagrams from different sockets: how many each server has."""
    clients = [udp(peer=("127.0.0.1", PORT)) for _ in range(number)]
    for client in clients:
        client.send(b"x")
    got = dict.fromkeys(servers, 0)
    while sum(got.values()) < number:
        ready = select.select(list(servers.values()), [], [], LONG)[0]
        assert ready, "datagrams are missing"
        for name, sock in servers.items():
            if sock in ready:
                sock.recv(1)
                got[name] += 1
    return got


def show(what, servers):
    got = counts(servers, 16)
    print(f"{what}: 16 datagrams:", ", ".join(f"{name} {number}" for name, number in got.items()))


servers = {name: server() for name in "ABC"}
show("A, B, C at 127.0.0.1", servers)
servers.pop("C").close()
show("C closed", servers)
servers["D"] = server("0.0.0.0")
show("D at 0.0.0.0, bound last", servers)
print("E without the option: bind", outcome(udp().bind, ("127.0.0.1", PORT)))
for sock in servers.values():
    sock.close()
servers = {name: server(option=socket.SO_REUSEPORT) for name in "ABC"}
each = all(counts(servers, 64).values())
print(f"with SO_REUSEPORT instead, A, B, C: {'each gets some' if each else 'some get none'} of 64")
EOF
