#!/bin/sh
# A connect() that one program denies still runs all programs after it
#
# Guess: the first program on BPF_CGROUP_INET4_CONNECT that returns 0 ends the matter: connect()
#   fails with EPERM, and the programs behind it, and those of the parent cgroups, do not run.
# Behaviour: all programs run, in the same cgroup and in its parents, and see the address as usual.
#   Then connect() fails. No later program sees in its context that the call is denied.
# Hence: a program that records connections, counts them, or chooses a backend and holds a reference
#   on it, does so for connections that never come to be. It needs a way to undo that, for example
#   when the socket is closed.
# Versions: Linux 6.18.44
# Seen:
#   allowed: connect ok; ran: first 1, second 1, parent 1
#   denied between first and second: connect EPERM; ran: first 1, second 1, parent 1
#   the second and the parent saw: 127.0.0.1, 127.0.0.1
#   the socket has a peer: ENOTCONN
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
from cgroup_bpf import Counter, join, link, load, verdict_program
from clients import outcome, udp

parent = os.environ["FINDING_CGROUP"]
child = os.path.join(parent, "child")
os.mkdir(child)


def connect():
    before = {name: counter.read()[0] for name, counter in counters.items()}
    sock = udp()
    result = outcome(sock.connect, ("127.0.0.1", 5300))
    ran = [f"{name} {counter.read()[0] - before[name]}" for name, counter in counters.items()]
    return sock, f"connect {result}; ran: {', '.join(ran)}"


counters = {"first": Counter("connect4").link(child)}
verdict = link(load("connect4", verdict_program(True)), "connect4", child)
counters["second"] = Counter("connect4").link(child)
counters["parent"] = Counter("connect4").link(parent)
join(child)
print("allowed:", connect()[1])

for fd in (verdict, counters["second"].link_fd):
    os.close(fd)
verdict = link(load("connect4", verdict_program(False)), "connect4", child)
counters["second"] = Counter("connect4").link(child)
sock, seen = connect()
print("denied between first and second:", seen)
print("the second and the parent saw:", ", ".join(counters[name].read()[1] for name in ("second", "parent")))
print("the socket has a peer:", outcome(sock.getpeername))
EOF
