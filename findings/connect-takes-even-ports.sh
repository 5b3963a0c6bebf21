#!/bin/sh
# TCP clients get even ports and bind() to port 0 gets odd ones
#
# Guess: the kernel takes the port of a client at random from ip_local_port_range, so with 32768 to
#   60999 there are 28,232 for connections to one server, and each half of them is used alike.
# Behaviour: connect() of TCP takes ports of the parity of the range's first port, even ones by
#   default, and the others only when it found none of these; bind() to port 0 does the opposite. So
#   the first half of connections to one server all have even ports. UDP takes both.
# Hence: what spreads by the client's port (a hash over few bits, `port % 2`, an ECMP of two paths,
#   a selector of SO_REUSEPORT) may see one half only. Use more of the port, or the addresses too.
# Versions: Linux 6.18.44
# Seen:
#   range 40000 to 40999, 300 TCP connections to one server: even 300, odd 0
#   300 times bind() of TCP to port 0: even 0, odd 300
#   range 40001 to 41000, 300 TCP connections to one server: even 0, odd 300
#   range 40000 to 40999, 700 TCP connections to one server: even 500, odd 200
#   300 UDP clients: both
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
from clients import udp

RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


def use(first, last):
    with open(RANGE, "w") as file:
        file.write(f"{first} {last}")
    return f"range {first} to {last}"


def connections(server, number):
    return [socket.create_connection(server) for _ in range(number)]


def bound():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def show(what, socks):
    odd = sum(sock.getsockname()[1] % 2 for sock in socks)
    print(f"{what}: even {len(socks) - odd}, odd {odd}")
    for sock in socks:
        sock.close()


listeners = [socket.create_server(("127.0.0.1", port), backlog=1000) for port in (5300, 5301, 5302)]
what = use(40000, 40999)
show(f"{what}, 300 TCP connections to one server", connections(("127.0.0.1", 5300), 300))
show("300 times bind() of TCP to port 0", [bound() for _ in range(300)])
what = use(40001, 41000)
show(f"{what}, 300 TCP connections to one server", connections(("127.0.0.1", 5301), 300))
what = use(40000, 40999)
show(f"{what}, 700 TCP connections to one server", connections(("127.0.0.1", 5302), 700))
clients = [udp(peer=("127.0.0.1", 5300)) for _ in range(300)]
parities = {client.getsockname()[1] % 2 for client in clients}
print("300 UDP clients:", "both" if len(parities) == 2 else parities)
EOF
