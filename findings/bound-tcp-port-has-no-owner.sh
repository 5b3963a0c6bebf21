#!/bin/sh
# A TCP port is in use, and neither `ss -a`, /proc/net/tcp nor lsof shows a socket on it
#
# Guess: after EADDRINUSE, `ss -tanp` or `lsof -i` shows who has the port. `ss -a` shows all
#   sockets.
# Behaviour: a TCP socket that was bound, and neither listens nor is connected, holds its port and
#   is in no list. `ss -tan` and /proc/net/tcp are empty; lsof shows a socket of the process without
#   its port. sock_diag shows it, but only if the request's mask has the state TCP_BOUND_INACTIVE,
#   which the mask of `ss -a` lacks. A bound UDP socket is shown.
# Hence: a client that binds its source port and hangs before connect(), or a server that fails
#   between bind() and listen() in a parent that keeps the socket, blocks the port invisibly. Ask
#   sock_diag with a mask of all ones.
# Versions: Linux 6.18.44, iproute2 6.1.0-3, lsof 4.95.0-1 (Debian 12)
# Seen:
#   bind to port 4444 of another socket: EADDRINUSE
#   ss -tan: 0 sockets, /proc/net/tcp: 0 sockets
#   lsof -i :4444: 0 sockets
#   lsof of the descriptor: protocol: TCP
#   sock_diag, the mask of ss -a: 0 sockets; all ones: 1 socket
#   the same with UDP: EADDRINUSE, ss -uan: 1 socket
set -eu
needs=ss
packages=lsof=4.95.0-1
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
import subprocess
import diag
from clients import outcome, udp

# All states that iproute2 6.1 knows: TCP_ESTABLISHED (1) to TCP_NEW_SYN_RECV (12)
MASK_OF_SS = (1 << 13) - 1


def count(*command):
    return len(subprocess.run(command, capture_output=True, text=True).stdout.splitlines())


def dump(states):
    """How many TCP sockets a dump with this mask shows."""
    with diag.open_diag() as sock:
        body = diag.REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, states) + diag.packed_id(number=0)
        header = diag.HEADER.pack(
            diag.HEADER.size + len(body), diag.SOCK_DIAG_BY_FAMILY, 0x1 | diag.NLM_F_DUMP, 1, 0
        )
        sock.send(header + body)
        found = 0
        while True:
            for kind, _, body in diag.messages(sock.recv(65536)):
                if kind == diag.NLMSG_DONE:
                    return found
                found += 1


def sockets(number):
    return f"{number} socket" + ("" if number == 1 else "s")


holder = socket.socket()
holder.bind(("127.0.0.1", 4444))
print("bind to port 4444 of another socket:", outcome(socket.socket().bind, ("127.0.0.1", 4444)))
with open("/proc/net/tcp") as file:
    lines = len(file.read().splitlines()) - 1
print(f"ss -tan: {sockets(count('ss', '-Htan'))}, /proc/net/tcp: {sockets(lines)}")
print(f"lsof -i :4444: {sockets(count('lsof', '-nP', '-i', ':4444'))}")
lsof = ["lsof", "-nP", "-a", "-p", str(os.getpid()), "-d", str(holder.fileno()), "-F", "n"]
name = subprocess.run(lsof, capture_output=True, text=True).stdout.splitlines()[-1]
print("lsof of the descriptor:", name.removeprefix("n"))
print(f"sock_diag, the mask of ss -a: {sockets(dump(MASK_OF_SS))}; all ones: {sockets(dump(0xFFFFFFFF))}")
other = udp(bind=("127.0.0.1", 4444))
print(f"the same with UDP: {outcome(udp().bind, ('127.0.0.1', 4444))}, ss -uan: {sockets(count('ss', '-Huan'))}")
EOF
