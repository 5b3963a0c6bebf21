#!/bin/sh
# A thread in another network namespace reads the main thread's sockets in /proc/net
#
# Guess: after setns() in a thread, everything that this thread reads shows the new namespace:
#   netlink, /proc/net, /proc/sys/net and /sys/class/net alike.
# Behaviour: they show three different namespaces. Sockets, netlink and /proc/sys/net are those of
#   the thread. /proc/net leads to /proc/self/net, which is the namespace of the process's *main*
#   thread; the thread's own is /proc/thread-self/net. /sys/class/net shows the namespace in which
#   sysfs was mounted, whoever reads it. No read fails.
# Hence: a daemon that visits namespaces in a thread (Go, Rust, Java) and reads /proc/net/tcp there
#   reports the host's sockets for every container. Read /proc/thread-self/net, or use netlink.
# Versions: Linux 6.18.44
# Seen:
#   the thread's namespace: a listener on port 7002, ttl 22, interfaces lo, other0, other1
#   the main thread's: a listener on port 7001, ttl 11, interfaces lo, main0, main1
#   in the thread, sock_diag (ss): port 7002
#   in the thread, /proc/net/tcp: port 7001
#   in the thread, /proc/self/net/tcp: port 7001
#   in the thread, /proc/thread-self/net/tcp: port 7002
#   in the thread, /proc/sys/net/ipv4/ip_default_ttl: 22
#   in the thread, if_nameindex(): lo, other0, other1
#   in the thread, /sys/class/net: lo, main0, main1
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

mkdir "$work/sys"
mount -t sysfs sysfs "$work/sys"
ip link add main0 type veth peer name main1
ip netns add other
ip -n other link set lo up
ip -n other link add other0 type veth peer name other1
SYS=$work/sys python3 - <<'EOF'
import ctypes
import os
import socket
import subprocess
import threading

TTL = "/proc/sys/net/ipv4/ip_default_ttl"
libc = ctypes.CDLL(None, use_errno=True)


def listen(port, ttl):
    with open(TTL, "w") as file:
        file.write(ttl)
    return socket.create_server(("127.0.0.1", port))


def interfaces():
    return ", ".join(sorted(name for _, name in socket.if_nameindex()))


def describe(port):
    with open(TTL) as file:
        ttl = file.read().strip()
    return f"a listener on port {port}, ttl {ttl}, interfaces {interfaces()}"


def ports(path):
    """The ports of the sockets in a file such as /proc/net/tcp."""
    with open(path) as file:
        lines = file.read().splitlines()[1:]
    return "port " + ", ".join(str(int(line.split()[1].split(":")[1], 16)) for line in lines)


def visit():
    with open("/run/netns/other") as other:
        if libc.setns(other.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    listeners.append(listen(7002, "22"))
    seen.append("the thread's namespace: " + describe(7002))
    ss = subprocess.run(["ss", "-Hltn"], check=True, capture_output=True, text=True).stdout
    found.append("sock_diag (ss): port " + ", ".join(row.split()[3][-4:] for row in ss.splitlines()))
    for path in ("/proc/net/tcp", "/proc/self/net/tcp", "/proc/thread-self/net/tcp"):
        found.append(f"{path}: {ports(path)}")
    with open(TTL) as file:
        found.append(f"{TTL}: {file.read().strip()}")
    found.append(f"if_nameindex(): {interfaces()}")
    entries = sorted(os.listdir(os.environ["SYS"] + "/class/net"))
    found.append(f"/sys/class/net: {', '.join(entries)}")


seen, found = [], []
listeners = [listen(7001, "11")]
thread = threading.Thread(target=visit)
thread.start()
thread.join()
print(*seen, "the main thread's: " + describe(7001), sep="\n")
for line in found:
    print("in the thread,", line)
EOF
