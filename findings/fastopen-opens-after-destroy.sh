#!/bin/sh
# A destroyed TCP socket opens a connection and delivers the data of a failed send
#
# Guess: with TCP_FASTOPEN_CONNECT and a cookie at hand, connect() returns at once and the SYN
#   waits for the first send. If SOCK_DESTROY ends the socket in between, that send fails and
#   nothing reaches the server.
# Behaviour: the send fails with ECONNABORTED, and still puts a SYN with the data on the wire. The
#   server accepts the connection, reads the data, and then gets ECONNRESET.
# Hence: ECONNABORTED does not mean that the server did not get the request. A client that sends
#   it again over a new connection may have it carried out twice.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   connect with a cookie: ok, SYNs sent: 0
#   destroyed: SYNs sent: 0, sockets left: 0
#   send: ECONNABORTED, SYNs sent: 1
#   client: recv ENOTCONN
#   server: accept, recv 'hello', ECONNRESET
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

# 1: client, 2: server (Documentation/networking/ip-sysctl.rst)
echo 3 >/proc/sys/net/ipv4/tcp_fastopen || skip "needs TCP Fast Open"
python3 - <<'EOF'
import socket
import subprocess
from clients import LONG, destroy, outcome, within

# include/uapi/linux/tcp.h
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 23, 30


def syns_sent():
    """Tcp: ActiveOpens of this network namespace."""
    names, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Tcp:")]
    return int(values[names.index("ActiveOpens")])


def connect():
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    client.settimeout(LONG)
    result = outcome(client.connect, ("127.0.0.1", 5300))
    return client, result


listener = socket.socket()
listener.settimeout(LONG)
listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 5)
listener.bind(("127.0.0.1", 5300))
listener.listen()

# The first connection brings the cookie.
client, _ = connect()
client.send(b"hello")
server, _ = listener.accept()
assert server.recv(9) == b"hello"
client.close()
assert server.recv(9) == b""
server.close()

before = syns_sent()
client, result = connect()
print(f"connect with a cookie: {result}, SYNs sent: {syns_sent() - before}")
destroy("-t", "state", "syn-sent", "dport", "=", ":5300")
left = subprocess.run(["ss", "-tHn", "state", "syn-sent"], check=True, capture_output=True, text=True)
print(f"destroyed: SYNs sent: {syns_sent() - before}, sockets left: {len(left.stdout.splitlines())}")
print(f"send: {outcome(client.send, b'hello')}, SYNs sent: {syns_sent() - before}")
print("client: recv", outcome(within(LONG, client).recv, 9))
server, _ = listener.accept()
print(f"server: accept, recv {outcome(within(LONG, server).recv, 9)}, {outcome(server.recv, 9)}")
EOF
