#!/bin/sh
# A closed socket lives on while an io_uring request waits on it
#
# Guess: close() of the only descriptor closes the socket: the peer reads end of file, the port is
#   free, and a request that waits on it in io_uring is cancelled.
# Behaviour: the request keeps the socket. It stays ESTABLISHED, the peer sees nothing, and what the
#   peer sends is received by the request. Only when that has completed does the peer read end of
#   file. A UDP socket keeps its port in the same way: bind() returns EADDRINUSE. `ss -p` shows no
#   owner.
# Hence: with io_uring, cancel the requests of a descriptor before close(), or use shutdown(). For a
#   connected UDP client whose backend is gone the wait has no end: SOCK_DESTROY completes the
#   request with ECONNABORTED, and frees the port.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   TCP, a request waits, closed: the peer reads nothing
#   ss: ESTAB, owner none
#   the peer sends 'hello': the request gets 5 bytes, 'hello'
#   and then: the peer reads end of file
#   UDP, a request waits, closed: bind to its port EADDRINUSE; ss: ESTAB, owner none
#   the request after 1 s: nothing
#   destroyed: the request gets ECONNABORTED; bind to its port ok
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import socket
import subprocess
import time
from clients import LONG, SHORT, destroy, outcome, require_destroy, udp, within
from io_uring import OP_RECV, Ring

require_destroy()
ring = Ring()
buffer = ctypes.create_string_buffer(64)


def receive(sock):
    """A request that waits on the socket, whose descriptor is then closed."""
    ring.submit(OP_RECV, sock.fileno(), ctypes.addressof(buffer), len(buffer))
    assert ring.wait(SHORT) == "nothing"
    sock.close()


def ss(*expression):
    row = subprocess.run(["ss", "-Hnap", *expression], check=True, capture_output=True, text=True).stdout
    return f"{row.split()[0]}, owner {'shown' if 'users:' in row else 'none'}"


def bind():
    """bind() to the UDP client's port; the port is freed a moment after the request completes."""
    deadline = time.monotonic() + LONG
    while (result := outcome(udp().bind, ("127.0.0.1", 5302))) != "ok" and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


listener = socket.create_server(("127.0.0.1", 5300))
client = socket.create_connection(("127.0.0.1", 5300))
peer = listener.accept()[0]
receive(client)
print("TCP, a request waits, closed: the peer reads", outcome(within(SHORT, peer).recv, 16))
print("ss:", ss("-t", "dport", "=", ":5300"))
peer.send(b"hello")
print(f"the peer sends 'hello': the request gets {ring.wait()} bytes, {buffer.value.decode()!r}")
print("and then: the peer reads", outcome(within(LONG, peer).recv, 16))

server = udp(bind=("127.0.0.1", 5301))
client = udp(bind=("127.0.0.1", 5302), peer=("127.0.0.1", 5301))
receive(client)
print("UDP, a request waits, closed: bind to its port", outcome(udp().bind, ("127.0.0.1", 5302)), end="; ")
print("ss:", ss("-u", "dport", "=", ":5301"))
print("the request after 1 s:", ring.wait(1))
destroy("-u", "dport", "=", ":5301")
print(f"destroyed: the request gets {ring.wait()}; bind to its port {bind()}")
EOF
