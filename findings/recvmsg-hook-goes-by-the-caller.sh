#!/bin/sh
# The recvmsg hook runs if the caller asks who sent, connected or not; the error queue never runs it
#
# Guess: BPF_CGROUP_UDP4_RECVMSG runs for each datagram that an unconnected socket receives, and not
#   for connected ones, as UDP4_SENDMSG does for sends. An IPv6 socket that talks to an IPv4-mapped
#   address runs the same family of hooks both ways.
# Behaviour: it runs in the calls that ask for the sender's address: recvfrom() and recvmsg() with
#   room for a name, on connected sockets too, and once more for the same datagram after MSG_PEEK.
#   read() and recv() do not run it. Nor does recvmsg() with MSG_ERRQUEUE, which returns the
#   address as it was on the wire. With an IPv4-mapped peer, a send runs UDP4_SENDMSG, while connect
#   and receive run INET6_CONNECT and UDP6_RECVMSG.
# Hence: a program that counts datagrams by this hook counts some of them, some twice. One that
#   translates a backend's address back to that of its service needs it on both families, and a
#   client that reads its error queue (QUIC, traceroute) sees the backend all the same.
# Versions: Linux 6.18.44
# Seen:
#   unconnected, read: no hook
#   unconnected, recv: no hook
#   unconnected, recvfrom: recvmsg4
#   unconnected, recvmsg: recvmsg4
#   unconnected, MSG_PEEK, then recvfrom: recvmsg4 recvmsg4
#   connected, read: no hook
#   connected, recv: no hook
#   connected, recvfrom: recvmsg4
#   connected, recvmsg: recvmsg4
#   connected, MSG_PEEK, then recvfrom: recvmsg4 recvmsg4
#   connected, MSG_ERRQUEUE: no hook, address 127.0.0.1:5301
#   IPv6 socket, mapped address, sendto: sendmsg4
#   IPv6 socket, mapped address, recvfrom: recvmsg6
#   IPv6 socket, mapped address, connect: connect6
set -eu
needs_cgroup=1
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
from cgroup_bpf import ADDRESS_HOOKS, Counter, join
from clients import udp

IP_RECVERR = 11  # include/uapi/linux/in.h
SERVER = ("127.0.0.1", 5300)

join(os.environ["FINDING_CGROUP"])
counters = [Counter(hook).link(os.environ["FINDING_CGROUP"]) for hook in ADDRESS_HOOKS]


def ran(what, call, *arguments):
    """Prints which hooks ran during the call, and returns its result."""
    before = [counter.read()[0] for counter in counters]
    result = call(*arguments)
    words = []
    for counter, count in zip(counters, before):
        words += [counter.hook] * (counter.read()[0] - count)
    print(f"{what}: {' '.join(words) or 'no hook'}", end="")
    return result


def peek_and_receive(client):
    client.recvfrom(99, socket.MSG_PEEK)
    client.recvfrom(99)


def show(title, client):
    calls = {
        "read": lambda: os.read(client.fileno(), 99),
        "recv": lambda: client.recv(99),
        "recvfrom": lambda: client.recvfrom(99),
        "recvmsg": lambda: client.recvmsg(99),
        "MSG_PEEK, then recvfrom": lambda: peek_and_receive(client),
    }
    for name, call in calls.items():
        # Loopback delivers before sendto returns.
        server.sendto(b"data", ("127.0.0.1", client.getsockname()[1]))
        ran(f"{title}, {name}", call)
        print()


server = udp(bind=SERVER)
client = udp(bind=("127.0.0.1", 5400))
show("unconnected", client)
client.connect(SERVER)
show("connected", client)

client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
client.connect(("127.0.0.1", 5301))
client.send(b"data")
# The ICMP error is there before send returns.
*_, address = ran("connected, MSG_ERRQUEUE", client.recvmsg, 99, 999, socket.MSG_ERRQUEUE)
print(", address {}:{}".format(*address))

client = udp(socket.AF_INET6, bind=("::", 5401))
mapped = ("::ffff:127.0.0.1", 5300)
ran("IPv6 socket, mapped address, sendto", client.sendto, b"data", mapped)
print()
server.sendto(b"data", ("127.0.0.1", 5401))
ran("IPv6 socket, mapped address, recvfrom", client.recvfrom, 99)
print()
ran("IPv6 socket, mapped address, connect", client.connect, mapped)
print()
EOF
