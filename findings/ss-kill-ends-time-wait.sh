#!/bin/sh
# `ss -K` ends a TIME_WAIT, which no process has, and the port is free at once
#
# Guess: a socket in TIME_WAIT has no owner who could be told, so there is nothing to destroy: `ss -K`
#   finds nothing or is refused, and the local port stays taken for a minute.
# Behaviour: SOCK_DESTROY removes it. The same local port can be bound without SO_REUSEADDR and connected to the same
#   peer right after it. Without `state time-wait` the same filter passes it over.
# Hence: a tool that counts what SOCK_DESTROY accepted counts sockets that no application had. Leave TIME_WAIT out of a
#   dump whose sockets are to be destroyed, or the guard against late segments goes too.
# Versions: iproute2 6.1.0-3 (Debian 12), Linux 6.18.44
# Seen:
#   client closed first: in TIME_WAIT: 1, bind to its port: EADDRINUSE
#   ss -K dport = :5300: in TIME_WAIT: 1, bind to its port: EADDRINUSE
#   ss -K state time-wait dport = :5300: in TIME_WAIT: 0, bind to its port: ok
#   connect from that port to the same peer: ok
set -eu
packages=iproute2=6.1.0-3
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
import subprocess
from clients import outcome


def ss(*arguments):
    return subprocess.run(["ss", "-H", "-t", "-n", *arguments], capture_output=True, text=True, check=True).stdout


def show(title, port):
    waiting = len(ss("state", "time-wait", "dport", "=", ":5300").splitlines())
    with socket.socket() as again:
        bound = outcome(again.bind, ("127.0.0.1", port))
    print(f"{title}: in TIME_WAIT: {waiting}, bind to its port: {bound}")


listener = socket.create_server(("127.0.0.1", 5300))
client = socket.create_connection(listener.getsockname())
port = client.getsockname()[1]
server, _ = listener.accept()
client.shutdown(socket.SHUT_RDWR)
server.recv(1)
server.close()
client.recv(1)
client.close()

show("client closed first", port)
for condition in (("dport", "=", ":5300"), ("state", "time-wait", "dport", "=", ":5300")):
    ss("-K", *condition)
    show("ss -K " + " ".join(condition), port)
with socket.socket() as again:
    again.bind(("127.0.0.1", port))
    print("connect from that port to the same peer:", outcome(again.connect, listener.getsockname()))
EOF
