#!/bin/sh
# An IPv6 socket becomes an IPv4 socket in its lifetime, with the same cookie
#
# Guess: the family of a socket is fixed when it is made. A table by cookie may keep it, and a
#   socket that is gone from the IPv6 dump is closed.
# Behaviour: setsockopt(IPV6_ADDRFORM, AF_INET) turns an IPv6 socket with an IPv4-mapped peer into
#   an IPv4 socket: SO_DOMAIN, getsockname() and the lists of the kernel change, cookie, inode,
#   descriptor and connection stay. UDP and TCP alike, for every process that shares it.
# Hence: what was recorded by an IPv6 hook is found in the IPv4 dump later. Take family and address
#   from the live socket each time, and compare IPv4-mapped addresses as IPv4.
# Versions: Linux 6.18.44
# Seen:
#   UDP to ::ffff:127.0.0.1: SO_DOMAIN AF_INET6; in the IPv6 list 1, in the IPv4 list 0
#   IPV6_ADDRFORM: ok; SO_DOMAIN AF_INET; in the IPv6 list 0, in the IPv4 list 1
#   the same cookie: yes, the same inode: yes, a datagram arrives: yes
#   TCP to ::ffff:127.0.0.1: SO_DOMAIN AF_INET6; in the IPv6 list 1, in the IPv4 list 0
#   IPV6_ADDRFORM: ok; SO_DOMAIN AF_INET; in the IPv6 list 0, in the IPv4 list 1
#   the same cookie: yes, the same inode: yes, data arrive: yes
#   UDP without a peer: IPV6_ADDRFORM: ENOTCONN
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
from clients import LONG, outcome, udp, within
from diag import cookie

IPV6_ADDRFORM = 1  # linux/in6.h
NAMES = {socket.AF_INET: "AF_INET", socket.AF_INET6: "AF_INET6"}


def listed(name, port):
    """How many sockets /proc/net/NAME has with this peer port."""
    with open(f"/proc/net/{name}") as file:
        return sum(row.split()[2].endswith(f":{port:04X}") for row in file.read().splitlines()[1:])


def show(protocol, sock):
    domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    lists = f"in the IPv6 list {listed(protocol + '6', 5300)}, in the IPv4 list {listed(protocol, 5300)}"
    return f"SO_DOMAIN {NAMES[domain]}; {lists}"


def change(sock):
    return outcome(sock.setsockopt, socket.IPPROTO_IPV6, IPV6_ADDRFORM, socket.AF_INET)


listener = socket.create_server(("127.0.0.1", 5300))
for protocol, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
    sock = socket.socket(socket.AF_INET6, kind)
    server = udp(bind=("127.0.0.1", 5300)) if kind == socket.SOCK_DGRAM else listener
    sock.connect(("::ffff:127.0.0.1", 5300))
    receiver = server if kind == socket.SOCK_DGRAM else listener.accept()[0]
    before = cookie(sock), os.fstat(sock.fileno()).st_ino
    print(f"{protocol.upper()} to ::ffff:127.0.0.1:", show(protocol, sock))
    print(f"IPV6_ADDRFORM: {change(sock)};", show(protocol, sock))
    after = cookie(sock), os.fstat(sock.fileno()).st_ino
    same = ["yes" if old == new else "no" for old, new in zip(before, after)]
    sock.send(b"x")
    arrives = "yes" if within(LONG, receiver).recv(16) == b"x" else "no"
    what = "a datagram arrives" if kind == socket.SOCK_DGRAM else "data arrive"
    print(f"the same cookie: {same[0]}, the same inode: {same[1]}, {what}: {arrives}")
print("UDP without a peer: IPV6_ADDRFORM:", change(udp(socket.AF_INET6)))
EOF
