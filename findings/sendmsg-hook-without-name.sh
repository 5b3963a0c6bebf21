#!/bin/sh
# A connected UDP socket runs the sendmsg hook, with an empty address
#
# Guess: BPF_CGROUP_UDP4_SENDMSG runs for sends that name an address. A connected socket that
#   sends without a name runs no hook: connect4 has seen its peer.
# Behaviour: this holds until a send carries an IP control message, such as the TOS with the ECN
#   bits. Then the hook runs for each send, and user_ip4 and user_port are 0: neither the peer nor
#   anything that the application named. A control message of UDP alone (a GSO size) does not run
#   it. IPv6 is alike. A v4-mapped IPv6 socket runs UDP4_SENDMSG, with the peer's true address.
# Hence: QUIC stacks set the ECN bits on every datagram. A program that records, counts or
#   translates peers by this hook sees a phantom peer 0.0.0.0:0 for each of their sockets. A
#   program that refuses unknown destinations breaks connected sockets.
# Versions: Linux 6.18.44
# Seen:
#   IPv4, connect(): connect4 with 127.0.0.1 port 5300
#   IPv4, send(): no hook
#   IPv4, sendmsg() without control message: no hook
#   IPv4, sendmsg() with ECN bits: sendmsg4 with 0.0.0.0 port 0
#   IPv4, sendmsg() with a GSO size: no hook
#   IPv4, sendto(127.0.0.2): sendmsg4 with 127.0.0.2 port 5300
#   IPv6, connect(): connect6 with port 5300
#   IPv6, sendmsg() with ECN bits: sendmsg6 with port 0
#   v4-mapped, connect(): connect6 with port 5300
#   v4-mapped, sendmsg() with ECN bits: sendmsg4 with 127.0.0.1 port 5300
#   v4-mapped, sendto(::ffff:127.0.0.2): sendmsg4 with 127.0.0.2 port 5300
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
import struct
from cgroup_bpf import ADDRESS_HOOKS, Counter, join
from clients import udp

cgroup = os.environ["FINDING_CGROUP"]
counters = {hook: Counter(hook).link(cgroup) for hook in ADDRESS_HOOKS}
join(cgroup)


def hooks(call, *args):
    """The hooks that ran meanwhile, and what they were shown."""
    before = {hook: counter.read()[0] for hook, counter in counters.items()}
    call(*args)
    ran = []
    for hook, counter in counters.items():
        count, address, port = counter.read()
        if count != before[hook]:
            ran.append(f"{hook} with {address + ' ' if hook.endswith('4') else ''}port {port}")
    return ", ".join(ran) or "no hook"


ECT_0 = struct.pack("=i", 2)  # RFC 3168
ecn4 = [(socket.IPPROTO_IP, socket.IP_TOS, ECT_0)]
# include/uapi/linux/udp.h
UDP_SEGMENT = 103
gso = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1000))]
ecn6 = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, ECT_0)]
servers = [udp(bind=(address, 5300)) for address in ("127.0.0.1", "127.0.0.2")]
servers.append(udp(socket.AF_INET6, bind=("::1", 5300)))

client = udp()
print("IPv4, connect():", hooks(client.connect, ("127.0.0.1", 5300)))
print("IPv4, send():", hooks(client.send, b"hello"))
print("IPv4, sendmsg() without control message:", hooks(client.sendmsg, [b"hello"]))
print("IPv4, sendmsg() with ECN bits:", hooks(client.sendmsg, [b"hello"], ecn4))
print("IPv4, sendmsg() with a GSO size:", hooks(client.sendmsg, [b"hello"], gso))
print("IPv4, sendto(127.0.0.2):", hooks(client.sendto, b"hello", ("127.0.0.2", 5300)))

client = udp(socket.AF_INET6)
print("IPv6, connect():", hooks(client.connect, ("::1", 5300)))
print("IPv6, sendmsg() with ECN bits:", hooks(client.sendmsg, [b"hello"], ecn6))

client = udp(socket.AF_INET6)
print("v4-mapped, connect():", hooks(client.connect, ("::ffff:127.0.0.1", 5300)))
print("v4-mapped, sendmsg() with ECN bits:", hooks(client.sendmsg, [b"hello"], ecn4))
to_other = ("::ffff:127.0.0.2", 5300)
print("v4-mapped, sendto(::ffff:127.0.0.2):", hooks(client.sendto, b"hello", to_other))
EOF
