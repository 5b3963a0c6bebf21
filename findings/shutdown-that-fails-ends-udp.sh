#!/bin/sh
# shutdown() of a UDP socket without peer fails with ENOTCONN, and closes both ways for good
#
# Guess: shutdown() on a UDP socket that has no peer returns ENOTCONN and does nothing. After
#   connect() the socket works.
# Behaviour: it returns ENOTCONN and shuts the socket down all the same. A blocked recv() returns
#   0 at once. From then on every send fails with EPIPE, and recv() returns 0 when no datagram
#   waits. connect() succeeds and changes nothing. A non-blocking recv() returns EAGAIN while
#   poll() goes on saying "readable", so an event loop spins.
# Hence: "shut down, then reconnect" on a UDP socket that SOCK_DESTROY or connect() with AF_UNSPEC
#   left without peer makes it useless, and the error invites to ignore it. Close such a socket.
#   What ENOTCONN means for TCP does not hold here.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   never connected: shutdown ENOTCONN; a thread that waits in recv: end of file
#   a datagram comes in: poll readable, recv 'hello'
#   nothing waits: poll readable, recv end of file, non-blocking recv EAGAIN, poll readable
#   connect to a server: ok, send EPIPE
#   destroyed: shutdown ENOTCONN; SO_ERROR ECONNABORTED
#   connect to a server: ok, send EPIPE, recv end of file
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import errno
import select
import socket
import struct
import threading
import time
from clients import LONG, SHORT, destroy, outcome, udp


def blocking(sock):
    """Waits in the kernel, not in Python; SO_RCVTIMEO ends the finding if it should wait for ever."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", int(LONG), 0))
    return sock


def poll(sock):
    return "poll readable" if select.select([sock], [], [], SHORT)[0] else "poll silent"


def now(sock):
    return outcome(sock.recv, 16, socket.MSG_DONTWAIT)


server = udp(bind=("127.0.0.1", 5300))
sock = blocking(udp(bind=("127.0.0.1", 5301)))
got = []
reader = threading.Thread(target=lambda: got.append(outcome(sock.recv, 16)))
reader.start()
time.sleep(SHORT)
failed = outcome(sock.shutdown, socket.SHUT_RDWR)
reader.join()
print(f"never connected: shutdown {failed}; a thread that waits in recv: {got[0]}")
udp().sendto(b"hello", ("127.0.0.1", 5301))
print(f"a datagram comes in: {poll(sock)}, recv {outcome(sock.recv, 16)}")
print(f"nothing waits: {poll(sock)}, recv {outcome(sock.recv, 16)}, non-blocking recv {now(sock)}, {poll(sock)}")
print(f"connect to a server: {outcome(sock.connect, ('127.0.0.1', 5300))}, send {outcome(sock.send, b'x')}")

sock = blocking(udp(peer=("127.0.0.1", 5300)))
destroy("-u", "dport", "=", ":5300")
failed = outcome(sock.shutdown, socket.SHUT_RDWR)
pending = errno.errorcode[sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
print(f"destroyed: shutdown {failed}; SO_ERROR {pending}")
connected = outcome(sock.connect, ("127.0.0.1", 5300))
print(f"connect to a server: {connected}, send {outcome(sock.send, b'x')}, recv {outcome(sock.recv, 16)}")
EOF
