#!/bin/sh
# An MPTCP connection stays established for a minute without any TCP connection
#
# Guess: destroying the only TCP subflow of an MPTCP connection ends the connection: both
#   applications get an error, as with plain TCP, where the peer receives a reset.
# Behaviour: the TCP sockets of both ends are gone, and the MPTCP sockets of both ends stay
#   ESTABLISHED for net.mptcp.close_timeout, 60 s by default. Meanwhile send() accepts data that
#   nothing carries, recv() waits, and neither reports an error. Then recv() returns ENOTCONN on
#   both ends, not ECONNABORTED or ECONNRESET. `ss -K -M` destroys no MPTCP socket and exits 0.
# Hence: "no TCP socket to that peer is left" does not mean that no application is connected to
#   it. Where MPTCP is the default of a runtime (Go listeners since 1.24) or is forced on
#   (mptcpize), look with `ss -M`.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   connected: TCP sockets 2, MPTCP sockets 2
#   ss -K of the client's TCP socket: TCP sockets 0, MPTCP sockets 2
#   client: send ok, server: recv nothing
#   server: send ok, client: recv nothing
#   ss -K -M: exit 0, MPTCP sockets 2
#   close_timeout 3 s instead of 60 s: client: recv ENOTCONN, server: recv ENOTCONN
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

[ "$(cat /proc/sys/net/mptcp/enabled 2>/dev/null)" = 1 ] ||
	skip "needs MPTCP (CONFIG_MPTCP, net.mptcp.enabled)"
[ -e /proc/sys/net/mptcp/close_timeout ] || skip "needs net.mptcp.close_timeout"
python3 - <<'EOF'
import socket
import subprocess
import time
from clients import LONG, destroy, outcome, within

IPPROTO_MPTCP = 262  # include/uapi/linux/in.h


def count():
    """Established sockets of both ends."""
    established = lambda kind: subprocess.run(["ss", kind, "-Hn", "state", "established"], check=True,
                                              capture_output=True, text=True).stdout.splitlines()
    return f"TCP sockets {len(established('-t'))}, MPTCP sockets {len(established('-M'))}"


def settled(wanted):
    """The counts, once they are these or LONG has passed."""
    deadline = time.monotonic() + LONG
    while count() != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return count()


def connect():
    """Both ends of an MPTCP connection that has carried data both ways."""
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    for here, there in ((client, server), (server, client)):
        here.send(b"hello")
        assert within(LONG, there).recv(9) == b"hello"
    return client, server


CLOSE_TIMEOUT = "/proc/sys/net/mptcp/close_timeout"
with open(CLOSE_TIMEOUT) as file:
    default = file.read().strip()
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
listener.bind(("127.0.0.1", 5300))
listener.listen()

client, server = connect()
print("connected:", settled("TCP sockets 2, MPTCP sockets 2"))
destroy("-t", "dport", "=", ":5300")
print("ss -K of the client's TCP socket:", settled("TCP sockets 0, MPTCP sockets 2"))
print(f"client: send {outcome(client.send, b'hello')}, server: recv {outcome(within(2, server).recv, 9)}")
print(f"server: send {outcome(server.send, b'hello')}, client: recv {outcome(within(2, client).recv, 9)}")
kill = subprocess.run(["ss", "-K", "-M", "-Hn", "dport", "=", ":5300"], capture_output=True)
print(f"ss -K -M: exit {kill.returncode}, {count().split(', ')[1]}")
client.close()
server.close()

with open(CLOSE_TIMEOUT, "w") as file:
    file.write("3")
client, server = connect()
destroy("-t", "dport", "=", ":5300")
print(f"close_timeout 3 s instead of {default} s:",
      f"client: recv {outcome(within(LONG, client).recv, 9)},",
      f"server: recv {outcome(within(LONG, server).recv, 9)}")
EOF
