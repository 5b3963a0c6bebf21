#!/bin/sh
# sock_diag returns ENOENT for living sockets of a SO_REUSEPORT group
#
# Guess: the id of a socket in sock_diag contains its cookie, which is unique. A request with the
#   id from a dump finds this very socket while it lives; ENOENT means that it is gone.
# Behaviour: the kernel first looks for a socket by addresses and ports, as for a packet, and then
#   compares the cookie. Of eight listeners, or eight unconnected UDP sockets, that share a port
#   by SO_REUSEPORT, it finds one. For the other seven, a TCP query and a UDP SOCK_DESTROY return
#   ENOENT.
# Hence: `ss -K` passes over most workers of such a server and reports nothing. After ENOENT for
#   an exact id, look for the cookie in a dump before you call the socket gone.
# Versions: Linux 6.18.44
# Seen:
#   8 TCP listeners on 8 ports: in the dump 8, found by exact id 8
#   8 TCP listeners on one port: in the dump 8, found by exact id 1, ENOENT 7
#   8 UDP sockets on one port: in the dump 8, destroyed by exact id 1, ENOENT 7
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import errno
import socket
from diag import (NLM_F_DUMP, NLMSG_DONE, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, cookie, cookie_of, messages,
                  open_diag, packed_id, request, send)

diag = open_diag()


def server(kind, port):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def dumped(protocol):
    """The cookies in a dump. Nothing opens or closes meanwhile, so one pass is enough."""
    send(diag, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, protocol, packed_id())
    cookies = set()
    while True:
        for kind, _, body in messages(diag.recv(65536)):
            if kind == NLMSG_DONE:
                return cookies
            cookies.add(cookie_of(body))


def look(what, socks, protocol, command, verb):
    in_dump = len({cookie(sock) for sock in socks} & dumped(protocol))
    results = []
    for sock in socks:
        exact = packed_id(local=sock.getsockname(), number=cookie(sock))
        results.append(request(diag, command, protocol, exact))
    missing = results.count(errno.ENOENT)
    tail = f", ENOENT {missing}" if missing else ""
    print(f"8 {what}: in the dump {in_dump}, {verb} by exact id {results.count(0)}{tail}")
    for sock in socks:
        sock.close()


TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
listeners = [server(socket.SOCK_STREAM, 5300 + n) for n in range(8)]
look("TCP listeners on 8 ports", listeners, TCP, SOCK_DIAG_BY_FAMILY, "found")
listeners = [server(socket.SOCK_STREAM, 5300) for _ in range(8)]
look("TCP listeners on one port", listeners, TCP, SOCK_DIAG_BY_FAMILY, "found")
sockets = [server(socket.SOCK_DGRAM, 5300) for _ in range(8)]
look("UDP sockets on one port", sockets, UDP, SOCK_DESTROY, "destroyed")
EOF
