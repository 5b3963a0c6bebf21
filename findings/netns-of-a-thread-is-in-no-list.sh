#!/bin/sh
# `ip netns pids` and lsns do not see a thread that works in a network namespace
#
# Guess: `ip netns pids NAME` lists every process that has something running in the namespace, and
#   lsns lists all namespaces that something runs in.
# Behaviour: they look at /proc/PID/ns/net, the namespace of the process's *main* thread. A process
#   whose other thread has entered the namespace and listens there is not listed, and neither is the
#   namespace. /proc/PID/task/TID/ns/net shows it. `ss -p` within the namespace shows the process,
#   but for a reason of its own: it looks for the descriptor, not for the namespace.
# Hence: "no process is in it" is no reason to call a namespace unused, or its sockets orphans.
#   Daemons that serve several namespaces from threads (Go programs with setns) look like this.
#   Look at /proc/PID/task.
# Versions: Linux 6.18.44, iproute2 6.1.0-3, util-linux 2.38.1 (Debian 12)
# Seen:
#   a thread in blue: its listener in blue accepts a connection: yes
#   ip netns pids blue: nobody; lsns: not listed
#   /proc/PID/task/TID/ns/net: blue
#   ss -p in blue: the process
#   the main thread in blue: ip netns pids blue: the process; lsns: listed
#   the main thread has left, another stays: ip netns pids blue: nobody; lsns: not listed
set -eu
needs='ss lsns'
. "$(dirname "$0")/lib.sh"

ip netns add blue
ip -n blue link set lo up
python3 - <<'EOF'
import ctypes
import os
import socket
import subprocess
import threading

BLUE = "/run/netns/blue"
libc = ctypes.CDLL(None, use_errno=True)
inode = os.stat(BLUE).st_ino


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def enter(path=BLUE):
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")


def listed():
    pids = run("ip", "netns", "pids", "blue").split()
    namespaces = run("lsns", "-t", "net", "-n", "-o", "NS").split()
    who = "the process" if str(os.getpid()) in pids else "nobody"
    return f"ip netns pids blue: {who}; lsns: {'listed' if str(inode) in namespaces else 'not listed'}"


def work():
    """A thread that stays in blue and serves there."""
    enter()
    listener = socket.create_server(("127.0.0.1", 5300))
    client = socket.create_connection(("127.0.0.1", 5300))
    listener.accept()[0].send(b"x")
    facts["accepts"] = "yes" if client.recv(1) == b"x" else "no"
    tid = threading.get_native_id()
    facts["task"] = os.stat(f"/proc/{os.getpid()}/task/{tid}/ns/net").st_ino
    # ss runs in the namespace of the thread that starts it
    facts["ss"] = f"pid={os.getpid()}," in run("ss", "-Htlnp", "sport", "=", ":5300")
    started.set()
    end.wait()
    listener.close()


facts, started, end = {}, threading.Event(), threading.Event()
home = os.open("/proc/self/ns/net", os.O_RDONLY)
thread = threading.Thread(target=work)
thread.start()
started.wait()
print("a thread in blue: its listener in blue accepts a connection:", facts["accepts"])
print(listed())
print("/proc/PID/task/TID/ns/net:", "blue" if facts["task"] == inode else "another")
print("ss -p in blue:", "the process" if facts["ss"] else "nobody")
enter()
print("the main thread in blue:", listed())
enter(f"/proc/self/fd/{home}")
print("the main thread has left, another stays:", listed())
end.set()
thread.join()
EOF
