#!/bin/sh
# The connect hooks of a cgroup follow the socket, not the process that connects
#
# Guess: BPF_CGROUP_INET4_CONNECT on a cgroup runs when a process in that cgroup calls connect().
# Behaviour: it runs for the sockets that a process in that cgroup *made*, whichever process
#   connects them. A process that moves to another cgroup keeps the old hooks for the sockets that
#   it has, and a socket that is passed over a unix socket keeps the hooks of its maker. Removing
#   the cgroup changes nothing: its hook still runs for the sockets that remain.
# Hence: a policy or a record per cgroup misses sockets that were made before the process was
#   moved (launchers, `systemd-run --scope`, `cgexec`) or handed over (socket activation). It also
#   meets processes that were never in the cgroup.
# Versions: Linux 6.18.44
# Seen:
#   made in A, connected in A: the hook of A
#   made in A, connected in B: the hook of A
#   made in B, connected in B: the hook of B
#   made in B, sent to a process in A, connected there: the hook of B
#   made in A, A removed, connected in B: the hook of A
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
from cgroup_bpf import Counter, join
from clients import udp

paths = {name: os.path.join(os.environ["FINDING_CGROUP"], name) for name in "AB"}
for path in paths.values():
    os.mkdir(path)
counters = {name: Counter("connect4").link(path) for name, path in paths.items()}


def hook(connect):
    """The cgroup whose hook ran."""
    before = {name: counter.read()[0] for name, counter in counters.items()}
    connect()
    ran = [name for name, counter in counters.items() if counter.read()[0] != before[name]]
    return "the hook of " + " and ".join(ran) if ran else "no hook"


def connect_elsewhere(sock, name):
    """Passes the socket to a process in another cgroup, which connects it."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        join(paths[name])
        _, (fd,), _, _ = socket.recv_fds(there, 1, 1)
        socket.socket(fileno=fd).connect(("127.0.0.1", 5300))
        os._exit(0)
    socket.send_fds(here, [b"x"], [sock.fileno()])
    assert os.waitpid(child, 0)[1] == 0


connect = lambda sock: lambda: sock.connect(("127.0.0.1", 5300))
join(paths["A"])
print("made in A, connected in A:", hook(connect(udp())))
old, older = udp(), udp()
join(paths["B"])
print("made in A, connected in B:", hook(connect(old)))
print("made in B, connected in B:", hook(connect(udp())))
made = udp()
print("made in B, sent to a process in A, connected there:", hook(lambda: connect_elsewhere(made, "A")))
os.rmdir(paths["A"])
print("made in A, A removed, connected in B:", hook(connect(older)))
EOF
