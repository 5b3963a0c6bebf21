#!/bin/sh
# A blackhole route gives UDP an error, and an unreachable route gives a TCP connection none
#
# Guess: `ip route add blackhole SERVER` makes packets vanish without an error. `unreachable` and
#   `prohibit` say no: connections to the server end with EHOSTUNREACH or EACCES at their next send.
#   So an `unreachable` route frees clients from a server that is gone.
# Behaviour: for sockets of this machine all three are errors. A blackhole gives EINVAL to connect()
#   and to a send of connected UDP. An established TCP connection gets no error from any of them:
#   send() succeeds, recv() waits, poll() is silent, and when the route goes the data arrive. Over
#   IPv6, SO_ERROR has the error of the route after a send, and over IPv4 it has 0.
# Hence: a route does not end TCP clients of a dead server; they wait until their own timeout, or
#   for net.ipv4.tcp_retries2. Destroy them. EINVAL of send() or connect() may mean a blackhole, and
#   a check for SO_ERROR != 0 takes a living IPv6 connection for dead.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   IPv4, blackhole: UDP send EINVAL, connect EINVAL
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR 0; route removed: recv 'data'
#   IPv4, unreachable: UDP send EHOSTUNREACH, connect EHOSTUNREACH
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR 0; route removed: recv 'data'
#   IPv4, prohibit: UDP send EACCES, connect EACCES
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR 0; route removed: recv 'data'
#   IPv6, blackhole: UDP send EINVAL, connect EINVAL
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR EINVAL; route removed: recv 'data'
#   IPv6, unreachable: UDP send EHOSTUNREACH, connect EHOSTUNREACH
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR EHOSTUNREACH; route removed: recv 'data'
#   IPv6, prohibit: UDP send EACCES, connect EACCES
#     TCP: send ok, recv nothing, poll nothing, SO_ERROR EACCES; route removed: recv 'data'
set -eu
. "$(dirname "$0")/lib.sh"

link_server
ip address add fd00::1/64 dev host nodad
ip -n server address add fd00::2/64 dev inner nodad

# An echo server for one connection after the other, over both families.
cat >"$work/server.py" <<'EOF'
import socket

listener = socket.create_server(("::", 5300), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(99):
        connection.send(data)
    connection.close()
EOF
mkfifo "$work/ready"
ip netns exec server python3 "$work/server.py" >"$work/ready" &
read -r _ <"$work/ready"

python3 - <<'EOF'
import errno
import select
import socket
import subprocess
from clients import LONG, SHORT, outcome, udp, within


def route(action, kind, server):
    subprocess.run(["ip", "route", action, kind, server], check=True)


def show(version, family, server, kind):
    address = (server, 5300)
    datagrams = udp(family, peer=address)
    stream = socket.create_connection(address, LONG)
    with socket.socket(family) as late:
        route("add", kind, server)
        sent = outcome(datagrams.send, b"data")
        print(f"{version}, {kind}: UDP send {sent}, connect {outcome(late.connect, address)}")
    poll = select.poll()
    poll.register(stream, select.POLLIN | select.POLLRDHUP)
    print(f"  TCP: send {outcome(stream.send, b'data')}", end=", ")
    print(f"recv {outcome(within(SHORT, stream).recv, 99)}", end=", ")
    print(f"poll {poll.poll(0) or 'nothing'}", end=", ")
    error = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(f"SO_ERROR {errno.errorcode.get(error, error)}", end="; ")
    route("del", kind, server)
    print(f"route removed: recv {outcome(within(LONG, stream).recv, 99)}")
    stream.close()


for version, family, server in (
    ("IPv4", socket.AF_INET, "10.1.0.2"),
    ("IPv6", socket.AF_INET6, "fd00::2"),
):
    for kind in ("blackhole", "unreachable", "prohibit"):
        show(version, family, server, kind)
EOF
