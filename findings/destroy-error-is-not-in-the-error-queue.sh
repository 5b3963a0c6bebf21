#!/bin/sh
# A client that reads errors from the error queue never finds the one of SOCK_DESTROY
#
# Guess: with IP_RECVERR, the errors of a UDP socket are in its error queue, and recvmsg() with
#   MSG_ERRQUEUE takes them out. ECONNABORTED of a SOCK_DESTROY is there like ECONNREFUSED of an
#   ICMP error. Once the error is taken, by either way, poll() is silent.
# Behaviour: the error of SOCK_DESTROY is on the socket alone. poll() reports POLLERR, MSG_ERRQUEUE
#   returns EAGAIN, and POLLERR stays. With the ICMP error it is the other way round: SO_ERROR
#   returns and clears it, and POLLERR stays until the error queue is empty.
# Hence: after POLLERR read both, the error queue until EAGAIN and SO_ERROR. A client that drains
#   only the queue (QUIC and DNS libraries that ask for path MTU or ICMP errors) spins at a destroy;
#   one that reads only SO_ERROR spins at an ICMP error.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   destroyed: POLLERR
#   MSG_ERRQUEUE: EAGAIN, then POLLERR
#   SO_ERROR: ECONNABORTED, then silent
#   refused by ICMP: POLLERR
#   SO_ERROR: ECONNREFUSED, then POLLERR
#   recv: EAGAIN, then POLLERR
#   MSG_ERRQUEUE: ECONNREFUSED, then silent
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import errno
import select
import socket
import struct
from clients import LONG, SHORT, destroy, outcome, udp

IP_RECVERR = 11  # linux/in.h


def poll(sock, seconds):
    poller = select.poll()
    poller.register(sock, select.POLLERR)
    return "POLLERR" if poller.poll(seconds * 1000) else "silent"


def queued(sock):
    """The errno in the next struct sock_extended_err (linux/errqueue.h)."""
    try:
        _, control, _, _ = sock.recvmsg(64, 256, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return "EAGAIN"
    return errno.errorcode[struct.unpack_from("=I", control[0][2])[0]]


def pending(sock):
    return errno.errorcode[sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]


def client(port):
    sock = udp(peer=("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.settimeout(0)
    return sock


server = udp(bind=("127.0.0.1", 5300))
sock = client(5300)
destroy("-u", "dport", "=", ":5300")
print("destroyed:", poll(sock, LONG))
print(f"MSG_ERRQUEUE: {queued(sock)}, then {poll(sock, SHORT)}")
print(f"SO_ERROR: {pending(sock)}, then {poll(sock, SHORT)}")

sock = client(5301)
sock.send(b"x")
print("refused by ICMP:", poll(sock, LONG))
print(f"SO_ERROR: {pending(sock)}, then {poll(sock, SHORT)}")
print(f"recv: {outcome(sock.recv, 16)}, then {poll(sock, SHORT)}")
print(f"MSG_ERRQUEUE: {queued(sock)}, then {poll(sock, SHORT)}")
EOF
