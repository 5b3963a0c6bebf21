#!/bin/sh
# A client that retries to a closed port on its own machine ends up connected to itself
#
# Guess: connect() to a port on this machine that nobody listens on returns ECONNREFUSED, however
#   often it is tried, until the server is back.
# Behaviour: if the port is in the range of ephemeral ports, the kernel may give the client that
#   very port as its own. TCP then connects the socket to itself (a simultaneous open): connect()
#   succeeds, the client reads what it sends, and the server cannot bind its port (EADDRINUSE). UDP
#   alike. Here the range has one port, so the first try hits; else it is one of some 28,000.
# Hence: a retry loop to a backend with a port above 32767 finds a "server" sooner or later, which
#   blocks the true one. Backends need ports outside of ip_local_port_range (or in
#   ip_local_reserved_ports), and a client that compares getsockname() with getpeername() notices.
#   A destroy ends it like any other connection.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   nobody listens on port 5300: connect ok, from 127.0.0.1:5300 to 127.0.0.1:5300
#   send 'hello': ok, recv 'hello'
#   ss: 1 socket, ESTAB
#   the server comes back: bind EADDRINUSE
#   destroyed: recv ECONNABORTED; the server: bind ok
#   UDP: connect ok, send 'hello': ok, recv 'hello'; the server: bind EADDRINUSE
#   5300 is reserved: TCP connect EADDRNOTAVAIL
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

echo 5300 5300 >/proc/sys/net/ipv4/ip_local_port_range
python3 - <<'EOF'
import socket
import subprocess
from clients import LONG, outcome, udp, within

SERVER = ("127.0.0.1", 5300)


def name(address):
    return f"{address[0]}:{address[1]}"


def bind(kind):
    """What a server gets that wants its port."""
    with socket.socket(socket.AF_INET, kind) as server:
        if kind == socket.SOCK_STREAM:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return outcome(server.bind, SERVER)


def echo(sock):
    return f"send 'hello': {outcome(sock.send, b'hello')}, recv {outcome(sock.recv, 16)}"


client = within(LONG, socket.socket())
result = outcome(client.connect, SERVER)
print(f"nobody listens on port 5300: connect {result},", end=" ")
print(f"from {name(client.getsockname())} to {name(client.getpeername())}")
print(echo(client))
rows = subprocess.run(["ss", "-Htan"], check=True, capture_output=True, text=True).stdout.splitlines()
print(f"ss: {len(rows)} socket, {rows[0].split()[0]}")
print("the server comes back: bind", bind(socket.SOCK_STREAM))
subprocess.run(["ss", "-Ktn", "dport", "=", ":5300"], check=True, stdout=subprocess.DEVNULL)
print(f"destroyed: recv {outcome(client.recv, 16)}; the server: bind {bind(socket.SOCK_STREAM)}")
client.close()

client = udp()
print(f"UDP: connect {outcome(client.connect, SERVER)}, {echo(client)};", end=" ")
print("the server: bind", bind(socket.SOCK_DGRAM))
client.close()
with open("/proc/sys/net/ipv4/ip_local_reserved_ports", "w") as file:
    file.write("5300")
print("5300 is reserved: TCP connect", outcome(socket.socket().connect, SERVER))
EOF
