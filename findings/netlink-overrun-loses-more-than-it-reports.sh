#!/bin/sh
# After ENOBUFS, a netlink socket goes on losing events, without another error, until it is empty
#
# Guess: a monitor whose buffer overflows gets ENOBUFS where the events are missing. It lists
#   everything anew, and from then on an event is delivered or ENOBUFS reports its loss.
# Behaviour: ENOBUFS comes first, before the older events that are still in the buffer. From the
#   overflow on, the kernel delivers nothing to the socket until the program has read *every*
#   event in it, however much room there is. What happens meanwhile is lost, and no second ENOBUFS
#   reports it.
# Hence: a program that reacts to ENOBUFS by listing at once, and then reads on, misses the changes
#   made between that list and the moment when the buffer is empty, for ever. Read until EAGAIN
#   first, and list then. This holds for routes, addresses, links and conntrack alike.
# Versions: Linux 6.18.44
# Seen:
#   100 addresses are added, the buffer overflows
#   read 1: ENOBUFS
#   reads 2 to 6: 10.0.0.1 to 10.0.0.5, as they were added
#   a list now has 100 addresses
#   10.0.1.1 is added, there is room for it
#   read on until EAGAIN: some more of the 100, ENOBUFS again: no, 10.0.1.1: no
#   10.0.1.2 is added
#   read on until EAGAIN: 10.0.1.2
#   a socket with a great buffer has had them all: 102
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import errno
import socket
import struct
import subprocess
from diag import messages

NETLINK_ROUTE = 0  # netlink.h
RTMGRP_IPV4_IFADDR = 0x10  # rtnetlink.h
IFADDRMSG = 8  # size of struct ifaddrmsg, if_addr.h
IFA_LOCAL = 2  # if_addr.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def monitor(size):
    """A netlink socket that is told of changes of IPv4 addresses."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    sock.bind((0, RTMGRP_IPV4_IFADDR))
    return sock


def address(body):
    attributes = body[IFADDRMSG:]
    while attributes:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == IFA_LOCAL:
            return socket.inet_ntoa(attributes[4:length])
        attributes = attributes[(length + 3) & ~3 :]


def read(sock, most=None):
    """What the next reads return, until EAGAIN or `most` of them."""
    got = []
    while most is None or len(got) < most:
        try:
            buffer = sock.recv(65536, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                break
            got.append(errno.errorcode[error.errno])
            continue
        got += [address(body) for _, _, body in messages(buffer)]
    return got


def add(*names):
    batch = "".join(f"address add {name}/32 dev lo\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)


def listed():
    command = ["ip", "-o", "-4", "address", "show", "dev", "lo", "to", "10.0.0.0/16"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


small, great = monitor(8192), monitor(4 << 20)
hundred = [f"10.0.0.{number}" for number in range(1, 101)]
add(*hundred)
print("100 addresses are added, the buffer overflows")
print("read 1:", *read(small, 1))
first = read(small, 5)
print(f"reads 2 to 6: {first[0]} to {first[-1]},", "as they were added" if first == hundred[:5] else first)
print("a list now has", listed(), "addresses")
add("10.0.1.1")
print("10.0.1.1 is added, there is room for it")
rest = read(small)
more = [name for name in rest if name in hundred]
print(
    "read on until EAGAIN:",
    "some more of the 100," if 0 < len(more) < 95 else f"{len(more)} of the 100,",
    f"ENOBUFS again: {'yes' if 'ENOBUFS' in rest else 'no'},",
    f"10.0.1.1: {'yes' if '10.0.1.1' in rest else 'no'}",
)
add("10.0.1.2")
print("10.0.1.2 is added")
print("read on until EAGAIN:", *read(small))
print("a socket with a great buffer has had them all:", len(read(great)))
EOF
