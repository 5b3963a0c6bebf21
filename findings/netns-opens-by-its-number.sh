#!/bin/sh
# A network namespace without name, process or descriptor can be entered by its number
#
# Guess: entering a network namespace takes its name, a process in it, or a descriptor of it. If
#   only a socket keeps the namespace, and the socket's owner lives elsewhere, no other process
#   can get in.
# Behaviour: nsfs supports file handles. The handle of a network namespace consists of its cookie,
#   the constant CLONE_NEWNET and its inode number, and open_by_handle_at() turns it into a
#   descriptor for setns(). The cookie is the one that SO_NETNS_COOKIE returns. Once the namespace
#   is gone, the same handle gives ESTALE.
# Hence: two numbers are enough to reach a socket's namespace later. Nothing has to be kept open
#   for that, so nothing keeps a dead namespace alive.
# Versions: Linux 6.18.44
# Seen:
#   handle: 16 bytes, made of cookie, CLONE_NEWNET and inode: yes
#   name deleted, a socket in it: opened by the handle, the same inode: yes
#   setns: ok, interfaces: lo, inner1, inner0
#   the same handle with another inode: ESTALE
#   socket closed: ESTALE
set -eu
. "$(dirname "$0")/lib.sh"

ip netns add pod || skip "needs network namespaces with names"
ip -n pod link add inner0 type veth peer name inner1 || skip "needs veth (CONFIG_VETH)"
python3 - <<'EOF'
import ctypes
import errno
import os
import socket
import struct
import subprocess
import time
from clients import LONG, skip

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
AT_EMPTY_PATH, FD_NSFS_ROOT = 0x1000, -10003  # include/uapi/linux/fcntl.h
# struct file_handle, with struct nsfs_file_handle (include/uapi/linux/nsfs.h) as its content
HANDLE = struct.Struct("=IiQII")
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def setns(fd):
    checked(libc.setns(fd, CLONE_NEWNET))


def handle_of(fd):
    buffer = ctypes.create_string_buffer(HANDLE.pack(16, 0, 0, 0, 0), HANDLE.size)
    mount = ctypes.c_int()
    checked(libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH))
    return HANDLE.unpack(buffer.raw)


def open_handle(*handle):
    buffer = ctypes.create_string_buffer(HANDLE.pack(*handle), HANDLE.size)
    return checked(libc.open_by_handle_at(FD_NSFS_ROOT, buffer, os.O_RDONLY))


def refused(*handle):
    """The errno's name of an open that fails."""
    try:
        os.close(open_handle(*handle))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"


yes = lambda condition: "yes" if condition else "no"
home = os.open("/proc/self/ns/net", os.O_RDONLY)
pod = os.open("/run/netns/pod", os.O_RDONLY)
try:
    handle = handle_of(pod)
except OSError:
    skip("file handles of namespaces (Linux 6.18)")
inode = os.fstat(pod).st_ino
setns(pod)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
setns(home)
os.close(pod)
subprocess.run(["ip", "netns", "del", "pod"], check=True)

size, kind, number, ns_type, inum = handle
cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
as_expected = (number, ns_type, inum) == (cookie, CLONE_NEWNET, inode)
print(f"handle: {size} bytes, made of cookie, CLONE_NEWNET and inode: {yes(as_expected)}")
again = open_handle(*handle)
same = os.fstat(again).st_ino == inode
print(f"name deleted, a socket in it: opened by the handle, the same inode: {yes(same)}")
setns(again)
names = [name for _, name in socket.if_nameindex()]
setns(home)
os.close(again)
print("setns: ok, interfaces:", ", ".join(names))
print("the same handle with another inode:", refused(size, kind, number, ns_type, inum + 1))
sock.close()
deadline = time.monotonic() + LONG
while refused(*handle) == "opened" and time.monotonic() < deadline:
    time.sleep(0.05)
print("socket closed:", refused(*handle))
EOF
