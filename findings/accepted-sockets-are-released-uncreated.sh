#!/bin/sh
# The release hook runs for accepted sockets, and the create hook does not
#
# Guess: BPF_CGROUP_INET_SOCK_CREATE runs for every new IPv4 or IPv6 socket of a cgroup, and
#   BPF_CGROUP_INET_SOCK_RELEASE when it is closed. The difference of the two is the number of open
#   sockets.
# Behaviour: accept() makes a socket without running the create hook, and closing that socket runs
#   the release hook. A connection that ends in the listener's queue runs neither, and so does the
#   copy of a descriptor (dup, fork).
# Hence: a count of open sockets by these two hooks falls below zero on a server, and a program that
#   pairs them (quota, leak detection, state per socket) gets releases of sockets that it has never
#   seen. Make the state at connect, or accept that release finds none.
# Versions: Linux 6.18.44
# Seen:
#   a listener: created 1, released 0
#   a client, connected: created 1, released 0
#   accept(): created 0, released 0
#   closing the accepted socket: created 0, released 1
#   closing a copy of the client's descriptor: created 0, released 0
#   closing the client: created 0, released 1
#   a client that nobody accepts, closed: created 1, released 1
#   closing the listener with it in its queue: created 0, released 1
#   in all: created 3, released 4
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
from cgroup_bpf import Counter, join

cgroup = os.environ["FINDING_CGROUP"]
counters = [Counter(hook).link(cgroup) for hook in ("sock_create", "sock_release")]
join(cgroup)


def counts():
    return [counter.read()[0] for counter in counters]


def step(what, call):
    before = counts()
    result = call()
    created, released = (now - then for now, then in zip(counts(), before))
    print(f"{what}: created {created}, released {released}")
    return result


def connected():
    return socket.create_connection(("127.0.0.1", 5300))


listener = step("a listener", lambda: socket.create_server(("127.0.0.1", 5300)))
client = step("a client, connected", connected)
accepted = step("accept()", lambda: listener.accept()[0])
step("closing the accepted socket", accepted.close)
step("closing a copy of the client's descriptor", client.dup().close)
step("closing the client", client.close)
step("a client that nobody accepts, closed", lambda: connected().close())
step("closing the listener with it in its queue", listener.close)
print("in all: created {}, released {}".format(*counts()))
EOF
