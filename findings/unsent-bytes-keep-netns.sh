#!/bin/sh
# Bytes that a killed process had not delivered keep its network namespace alive
#
# Guess: when the last process of a network namespace is killed and the namespace's name is
#   deleted, the namespace goes: the sockets are closed with their process.
# Behaviour: a TCP connection that still has data for a receiver that has stopped reading outlives
#   its process as an orphan, and keeps the namespace with its interfaces. The receiver reads what
#   is left later, sent by a namespace that has no process, no name and no owner. A connection that
#   had delivered everything keeps nothing, whether the receiver has read it or not.
# Hence: a container that is killed in the middle of an upload leaves its interface and its address
#   in use, and nothing on the machine names the cause: `ss` of other namespaces does not show the
#   orphan. Closing the receiver's end lets the namespace go.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   nothing to deliver, killed, deleted: the interface is gone
#   delivered and not read, killed, deleted: the interface is gone
#   more than it takes, killed, deleted, 5 s later: the interface exists, processes there: 0
#   the receiver reads: more than it had, end of file; the interface is gone
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import termios
import time
from clients import LONG

libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments, check=True):
    done = subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def interface(seconds):
    """Whether the host's end of the veth pair is still there after this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and ip("link", "show", "host", check=False) is not None:
        time.sleep(0.1)
    return "the interface " + ("is gone" if ip("link", "show", "host", check=False) is None else "exists")


def fill(sock):
    """Sends until the receiver's window and the send buffer are full."""
    sock.setblocking(False)
    while True:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.5)
            try:
                sock.send(b"x")
            except BlockingIOError:
                return


def client(send, ready):
    """The process in the namespace."""
    with open("/run/netns/blue") as blue:
        if libc.setns(blue.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    sock = socket.create_connection(("10.1.0.1", 5300))
    send(sock)
    os.write(ready, b"x")
    time.sleep(600)


def processes(inode):
    """How many processes are in the network namespace with this inode."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += os.stat(f"/proc/{pid}/ns/net").st_ino == inode
        except FileNotFoundError:
            pass
    return found


def kill(send):
    """A process in a namespace connects, sends and is killed; the namespace loses its name."""
    ip("netns", "add", "blue")
    inode = os.stat("/run/netns/blue").st_ino
    ip("link", "add", "host", "type", "veth", "peer", "name", "inner", "netns", "blue")
    ip("address", "add", "10.1.0.1/24", "dev", "host")
    ip("link", "set", "host", "up")
    ip("-n", "blue", "address", "add", "10.1.0.2/24", "dev", "inner")
    ip("-n", "blue", "link", "set", "inner", "up")
    listener = socket.create_server(("10.1.0.1", 5300))
    listener.settimeout(LONG)
    done, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        client(send, ready)
    receiver = listener.accept()[0]
    listener.close()
    os.read(done, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ip("netns", "delete", "blue")
    return receiver, inode


receiver, _ = kill(lambda sock: None)
print("nothing to deliver, killed, deleted:", interface(LONG))
receiver.close()
receiver, _ = kill(lambda sock: (sock.send(b"data"), time.sleep(0.5)))
print("delivered and not read, killed, deleted:", interface(LONG))
receiver.close()
receiver, inode = kill(fill)
print("more than it takes, killed, deleted, 5 s later:", interface(5), end=", ")
print("processes there:", processes(inode))
receiver.settimeout(LONG)
waiting = int.from_bytes(fcntl.ioctl(receiver, termios.FIONREAD, bytes(4)), "little")
total = 0
while data := receiver.recv(1 << 20):
    total += len(data)
print("the receiver reads:", "more than it had" if total > waiting else "what it had", end=", end of file; ")
print(interface(LONG))
EOF
