#!/bin/sh
# Closing one SO_REUSEPORT member gives its index to the last one
#
# Guess: a selector program (SO_ATTACH_REUSEPORT_CBPF or _EBPF) picks a member of the group by its
#   index, the order of bind(). When a member closes, its index becomes empty, or those behind it
#   move up by one. The others keep their order.
# Behaviour: the last member takes the place of the one that left, and only its index changes; a
#   new member comes last. A UDP member that connects leaves in the same way, and does not come
#   back when it disconnects. An index without member falls back to the kernel's hash, without a
#   sign.
# Hence: "worker N reads index N" (QUIC servers, which route by connection id) holds until the first
#   worker restarts: then two workers have wrong indexes, and their packets go to others. Replace
#   members in a map of the program (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY), or restart all.
# Versions: Linux 6.18.44
# Seen:
#   bound in order A B C D E: index 0 to 4 select A B C D E
#   B closed: index 0 to 3 select A E C D
#   F bound: index 0 to 4 select A E C D F
#   E connected: index 0 to 3 select A F C D
#   E disconnected: index 0 to 3 select A F C D
#   TCP listeners A B C D E, B closed: index 0 to 3 select A E C D
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import select
import socket
import struct
from clients import LONG, disconnect, udp

SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
BPF_RET_K = 0x06  # bpf_common.h
PORT = ("127.0.0.1", 5300)


def member(kind):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(PORT)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def use(sock, index):
    """Attaches a classic BPF program to the group that selects this index."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", BPF_RET_K, 0, 0, index))
    program = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def selected(group, kind):
    """The name of the member that gets the next datagram or connection."""
    client = socket.socket(socket.AF_INET, kind)
    client.connect(PORT)
    if kind == socket.SOCK_DGRAM:
        client.send(b"x")
    ready = select.select(list(group.values()), [], [], LONG)[0]
    assert len(ready) == 1, ready
    if kind == socket.SOCK_DGRAM:
        ready[0].recv(16)
    else:
        ready[0].accept()[0].close()
    client.close()
    return next(name for name, sock in group.items() if sock is ready[0])


def show(what, group, kind, indexes):
    names = []
    for index in range(indexes):
        use(group["A"], index)
        names.append(selected(group, kind))
    print(f"{what}: index 0 to {indexes - 1} select {' '.join(names)}")


group = {name: member(socket.SOCK_DGRAM) for name in "ABCDE"}
show("bound in order A B C D E", group, socket.SOCK_DGRAM, 5)
group.pop("B").close()
show("B closed", group, socket.SOCK_DGRAM, 4)
group["F"] = member(socket.SOCK_DGRAM)
show("F bound", group, socket.SOCK_DGRAM, 5)
other = udp(bind=("127.0.0.1", 5301))
group["E"].connect(other.getsockname())
show("E connected", group, socket.SOCK_DGRAM, 4)
disconnect(group["E"])
show("E disconnected", group, socket.SOCK_DGRAM, 4)

group = {name: member(socket.SOCK_STREAM) for name in "ABCDE"}
group.pop("B").close()
show("TCP listeners A B C D E, B closed", group, socket.SOCK_STREAM, 4)
EOF
