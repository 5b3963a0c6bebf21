#!/bin/sh
# A socket that io_uring made has no owner in `ss -p`, lsof or /proc/PID/fd
#
# Guess: every socket of a living process is one of its descriptors, so `ss -p`, `lsof -i` and
#   /proc/PID/fd find the process. Only orphans and sockets of the kernel have no owner.
# Behaviour: io_uring can make a socket in a table of its own (direct descriptors), with all later
#   calls on the index in that table. The process has no descriptor of it: `ss -tp` shows the
#   connection without a process, lsof does not show it, and pidfd_getfd() has no number to ask for.
#   Only /proc/PID/fdinfo/RING shows the inode of the socket, among UserFiles. After close() of the
#   ring, the memory that is still mapped keeps it connected.
# Hence: a tool that finds the owner of a socket through descriptors calls a busy server's sockets
#   orphans. Read the fdinfo of io_uring descriptors as well.
# Versions: Linux 6.18.44, iproute2 6.1.0-3, lsof 4.95.0-1 (Debian 12)
# Seen:
#   connected by io_uring: the peer reads 'hello'
#   descriptors of the process before and after: the same
#   ss -tp: ESTAB, process none
#   lsof: no such connection
#   fdinfo of the ring: the socket's inode
#   the ring's descriptor is closed: the peer reads nothing
#   its memory is unmapped: the peer reads end of file
set -eu
needs=ss
packages=lsof=4.95.0-1
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import os
import re
import socket
import struct
import subprocess
from clients import LONG, SHORT, outcome, within
from io_uring import OP_CONNECT, OP_SEND, OP_SOCKET, SQE_FIXED_FILE, Ring


def run(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


listener = socket.create_server(("127.0.0.1", 5300))
ring = Ring()
ring.register_files(1)
before = sorted(os.listdir("/proc/self/fd"))
# A stream socket; file_index counts from 1
ring.submit(OP_SOCKET, socket.AF_INET, offset=socket.SOCK_STREAM, file_index=1)
assert ring.wait() == 0
host = socket.inet_aton("127.0.0.1")
address = ctypes.create_string_buffer(struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 5300, host), 16)
ring.submit(OP_CONNECT, 0, ctypes.addressof(address), offset=16, flags=SQE_FIXED_FILE)
assert ring.wait() == 0
hello = ctypes.create_string_buffer(b"hello")
ring.submit(OP_SEND, 0, ctypes.addressof(hello), 5, flags=SQE_FIXED_FILE)
assert ring.wait() == 5
after = sorted(os.listdir("/proc/self/fd"))
peer = within(LONG, listener.accept()[0])
print("connected by io_uring: the peer reads", outcome(peer.recv, 16))
print("descriptors of the process before and after:", "the same" if before == after else (before, after))
row = run("ss", "-Htnpe", "dport", "=", ":5300")
print(f"ss -tp: {row.split()[0]}, process {'shown' if 'users:' in row else 'none'}")
client = f":{peer.getpeername()[1]}->127.0.0.1:5300"
print("lsof:", "the connection" if client in run("lsof", "-nP", "-iTCP:5300") else "no such connection")
inode = re.search(r"ino:(\d+)", row).group(1)
with open(f"/proc/self/fdinfo/{ring.fd}") as file:
    found = f"socket:[{inode}]" in file.read()
print("fdinfo of the ring:", "the socket's inode" if found else "nothing")
os.close(ring.fd)
print("the ring's descriptor is closed: the peer reads", outcome(within(SHORT, peer).recv, 16))
ring.ring.close()
ring.sqes.close()
print("its memory is unmapped: the peer reads", outcome(within(LONG, peer).recv, 16))
EOF
