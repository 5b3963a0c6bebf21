#!/bin/sh
# An address is removed from the machine, and IPv6 sockets go on sending from it
#
# Guess: when a local address is removed, sockets that are connected from it fail: a send returns
#   an error (EADDRNOTAVAIL), and a waiting recv() too. IPv4 and IPv6 are alike.
# Behaviour: no socket gets an error at the removal, and a waiting recv() waits on. An IPv4 UDP send
#   fails from then on, with ENETUNREACH. An IPv6 UDP send succeeds, and the datagram arrives at the
#   server, from an address that the machine no longer has; the reply finds nobody. TCP send()
#   succeeds over both: over IPv4 nothing leaves, over IPv6 the data reach the server and the
#   acknowledgement gets lost, so the server acts on a request whose client only knows a timeout.
# Hence: withdrawing an address (a virtual address that moves on, renumbering, a VPN that ends)
#   tells clients nothing. Destroy the sockets bound to it, as Android does; a server may still hear
#   IPv6 clients that it can no longer reply to.
# Versions: Linux 6.18.44
# Seen:
#   IPv4 UDP, removed: recv nothing, send ENETUNREACH; server has nothing
#   IPv4 TCP, removed: recv nothing, send ok; server has nothing, reply arrives: no
#   IPv4, a new socket: bind EADDRNOTAVAIL
#   IPv6 UDP, removed: recv nothing, send ok; server has 'after' from fd01::3, reply arrives: no
#   IPv6 TCP, removed: recv nothing, send ok; server has 'after', reply arrives: no
#   IPv6, a new socket: bind EADDRNOTAVAIL
set -eu
. "$(dirname "$0")/lib.sh"

link_server
ip address add 10.1.0.3/24 dev host
for number in 1 3; do
	ip address add fd01::$number/64 dev host nodad
done
ip -n server address add fd01::2/64 dev inner nodad
python3 - <<'EOF'
import ctypes
import socket
import subprocess
import threading
from clients import LONG, SHORT, outcome, udp, within

libc = ctypes.CDLL(None, use_errno=True)


def in_server(make):
    """Runs make() on a thread in the server's namespace."""
    made = []

    def run():
        with open("/run/netns/server") as server:
            if libc.setns(server.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return made[0]


def listener(family, host):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((host, 5301))
    sock.listen()
    return within(LONG, sock)


def show(version, family, own, length, host):
    server = in_server(lambda: udp(family, bind=(host, 5300)))
    accepting = in_server(lambda: listener(family, host))
    client = udp(family, bind=(own, 0), peer=(host, 5300))
    client.send(b"before")
    server.recvfrom(16)
    stream = within(LONG, socket.socket(family, socket.SOCK_STREAM))
    stream.bind((own, 0))
    stream.connect((host, 5301))
    accepted = within(LONG, accepting.accept()[0])
    stream.send(b"before")
    accepted.recv(16)

    subprocess.run(["ip", "address", "delete", f"{own}/{length}", "dev", "host"], check=True)
    received = outcome(within(SHORT, client).recv, 16)
    print(f"{version} UDP, removed: recv {received}, send {outcome(client.send, b'after')}; server has", end=" ")
    try:
        data, sender = within(SHORT, server).recvfrom(16)
        server.sendto(b"reply", sender)
        reached = "no" if outcome(within(SHORT, client).recv, 16) == "nothing" else "yes"
        print(f"{data.decode()!r} from {sender[0]}, reply arrives: {reached}")
    except socket.timeout:
        print("nothing")
    received = outcome(within(SHORT, stream).recv, 16)
    print(f"{version} TCP, removed: recv {received}, send {outcome(stream.send, b'after')}; server has", end=" ")
    print(outcome(within(SHORT, accepted).recv, 16), end=", ")
    accepted.send(b"reply")
    reached = "no" if outcome(within(SHORT, stream).recv, 16) == "nothing" else "yes"
    print("reply arrives:", reached)
    print(f"{version}, a new socket: bind", outcome(udp(family).bind, (own, 0)))


show("IPv4", socket.AF_INET, "10.1.0.3", 24, "10.1.0.2")
show("IPv6", socket.AF_INET6, "fd01::3", 64, "fd01::2")
EOF
