#!/bin/sh
# A SOCKHASH keeps sockets that are destroyed, reset or connected elsewhere
#
# Guess: the kernel takes a socket out of a SOCKHASH or SOCKMAP when its connection ends: sockets in
#   it are established TCP sockets, or UDP sockets with a place in the hash tables. It refuses
#   others at the insertion, after all.
# Behaviour: it checks at the insertion alone. A UDP socket that is not bound is refused. Afterwards
#   the socket stays in the map, under the old key, until close(): after SOCK_DESTROY, connect()
#   with AF_UNSPEC, connect() to another peer, and a reset by the peer. User space reads its cookie
#   there as before.
# Hence: an index of sockets by backend in a SOCKHASH lists sockets that have left the backend long
#   ago. Compare the live socket's peer before you act on an entry, and count entries as an upper
#   bound.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   UDP, new: refused (EOPNOTSUPP)
#   UDP, connect(AF_UNSPEC): in the map, the same cookie; closed: not in the map
#   UDP, connect to another: in the map, the same cookie; closed: not in the map
#   UDP, destroyed: in the map, the same cookie; closed: not in the map
#   TCP, destroyed: in the map, the same cookie; closed: not in the map
#   TCP, reset by the peer: in the map, the same cookie; closed: not in the map
#   a socket that was reset, put again: refused (EOPNOTSUPP)
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import errno
import socket
import struct
from cgroup_bpf import BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, bpf
from clients import destroy, disconnect, outcome, udp
from diag import cookie

BPF_MAP_TYPE_SOCKHASH = 18
BPF_MAP_UPDATE_ELEM = 2
SO_LINGER_RESET = struct.pack("=ii", 1, 0)

hash_map = bpf(BPF_MAP_CREATE, struct.pack("=IIII", BPF_MAP_TYPE_SOCKHASH, 4, 8, 16))
key, value = ctypes.create_string_buffer(struct.pack("=I", 5300), 4), ctypes.create_string_buffer(8)


def call(command):
    bpf(command, struct.pack("=IxxxxQQQ", hash_map, ctypes.addressof(key), ctypes.addressof(value), 0))


def put(sock):
    """Puts the socket in the map, under the port of its backend."""
    value.raw = struct.pack("=Q", sock.fileno())
    try:
        call(BPF_MAP_UPDATE_ELEM)
        return "in the map"
    except OSError as error:
        # ENOTSUP is another name of EOPNOTSUPP
        assert error.errno == errno.EOPNOTSUPP, error
        return "refused (EOPNOTSUPP)"


def look(number):
    try:
        call(BPF_MAP_LOOKUP_ELEM)
    except FileNotFoundError:
        return "not in the map"
    same = struct.unpack("=Q", value.raw)[0] == number
    return "in the map, " + ("the same cookie" if same else "another cookie")


def show(what, sock, change):
    number = cookie(sock)
    assert put(sock) == "in the map"
    change(sock)
    print(f"{what}: {look(number)}", end="; ")
    sock.close()
    print("closed:", look(number))


def reset(sock):
    peer = listener.accept()[0]
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
    peer.close()
    assert outcome(sock.recv, 1) == "ECONNRESET"


servers = [udp(bind=("127.0.0.1", port)) for port in (5300, 5301)]
listener = socket.create_server(("127.0.0.1", 5300))
client = lambda: udp(peer=("127.0.0.1", 5300))
stream = lambda: socket.create_connection(("127.0.0.1", 5300))
kill = lambda kind: lambda _: destroy(kind, "dport", "=", ":5300")
print("UDP, new:", put(udp()))
show("UDP, connect(AF_UNSPEC)", client(), disconnect)
show("UDP, connect to another", client(), lambda sock: sock.connect(("127.0.0.1", 5301)))
show("UDP, destroyed", client(), kill("-u"))
show("TCP, destroyed", stream(), kill("-t"))
listener.accept()[0].close()
show("TCP, reset by the peer", stream(), reset)
sock = stream()
reset(sock)
print("a socket that was reset, put again:", put(sock))
EOF
