#!/bin/sh
# An open sock_diag socket keeps a deleted network namespace reachable
#
# Guess: `ip netns del` ends a namespace that no process is in: its interfaces go, and its
#   addresses stop responding. A netlink socket that a tool opened there, to query sockets, does
#   not count.
# Behaviour: every socket keeps its network namespace, a sock_diag one too, wherever the process
#   that holds it is now. Until it is closed, the veth pair stays up, the address in the namespace
#   responds, and the name of the host's end cannot be used again. `ip netns list` does not show
#   the namespace, and no process is in it.
# Hence: a tool that caches a diag socket per container keeps dead containers reachable. Close it
#   after the query.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   before: the address responds, veth exists
#   deleted, diag socket open: the address responds, veth exists
#   listed by name: no
#   processes in it: 0
#   a veth of the same name: refused
#   diag socket closed: the address is silent, veth is gone
set -eu
. "$(dirname "$0")/lib.sh"

ip netns add pod || skip "needs network namespaces with names"
ip link add host0 type veth peer name eth0 netns pod || skip "needs veth (CONFIG_VETH)"
ip addr add 10.1.0.1/24 dev host0
ip link set host0 up
ip -n pod addr add 10.1.0.2/24 dev eth0
ip -n pod link set eth0 up
python3 - <<'EOF'
import ctypes
import os
import subprocess
import time
from clients import LONG, outcome, udp, within
from diag import open_diag

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
libc = ctypes.CDLL(None, use_errno=True)
run = lambda *command: subprocess.run(command, capture_output=True, text=True)


def enter(path):
    fd = os.open(path, os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns to {path}")
    os.close(fd)


def responds():
    """Whether somebody at 10.1.0.2 refuses a datagram (ARP, then ICMP port unreachable)."""
    run("ip", "neigh", "flush", "all")
    sock = udp(peer=("10.1.0.2", 9))
    sock.send(b"hello")
    return outcome(within(LONG, sock).recv, 9) == "ECONNREFUSED"


def veth():
    return run("ip", "link", "show", "host0").returncode == 0


def state():
    there = veth()
    word = "responds" if there and responds() else "is silent"
    return f"the address {word}, veth {'exists' if there else 'is gone'}"


home = f"/proc/{os.getpid()}/ns/net"
home_fd = os.open(home, os.O_RDONLY)
inode = os.stat("/run/netns/pod").st_ino
enter("/run/netns/pod")
diag = open_diag()
enter(f"/proc/self/fd/{home_fd}")

print("before:", state())
assert run("ip", "netns", "del", "pod").returncode == 0
# A namespace that nothing keeps is gone a moment later.
time.sleep(2)
print("deleted, diag socket open:", state())
print("listed by name:", "yes" if "pod" in run("ip", "netns", "list").stdout else "no")
processes = [pid for pid in os.listdir("/proc") if pid.isdigit()]
inside = [pid for pid in processes if os.stat(f"/proc/{pid}/ns/net").st_ino == inode]
print("processes in it:", len(inside))
assert run("ip", "netns", "add", "pod").returncode == 0
again = run("ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", "pod")
print("a veth of the same name:", "refused" if again.returncode else "made")
diag.close()
deadline = time.monotonic() + LONG
while veth() and time.monotonic() < deadline:
    time.sleep(0.1)
print("diag socket closed:", state())
EOF
