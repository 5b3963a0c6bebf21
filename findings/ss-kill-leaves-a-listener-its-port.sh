#!/bin/sh
# A listener that `ss -K` has ended keeps its port, and can listen again: at another port if it never bound one
#
# Guess: after `ss -K` the listening socket is dead: its port is free for others, and the descriptor good for nothing but
#   close().
# Behaviour: nobody is listening, accept() fails with EINVAL, and epoll reports the descriptor at once each time. A port that it
#   had bound stays its own: nobody else can bind it. listen() on the same descriptor works, and clients connect again. If
#   the port was the kernel's choice (listen() without bind()), it is free, and the new listen() succeeds at another one.
# Hence: a server that treats EINVAL of accept() as passing spins; one that calls listen() again recovers, and has to look at its
#   address before it says that it is back. A supervisor that starts a second server gets EADDRINUSE.
# Versions: iproute2 6.1.0-3 (Debian 12), Linux 6.18.44
# Seen:
#   bound: connect: ECONNREFUSED, accept: EINVAL, epoll: 3 of 3, bind by another: EADDRINUSE
#   bound: listen again: ok, the same port: True, connect: ok
#   not bound: connect: ECONNREFUSED, accept: EINVAL, epoll: 3 of 3, bind by another: ok
#   not bound: listen again: ok, the same port: False, connect: ok
set -eu
packages=iproute2=6.1.0-3
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import select
import socket
import subprocess
from clients import outcome


def connect(address):
    with socket.socket() as client:
        return outcome(client.connect, ("127.0.0.1", address[1]))


for title, bound in (("bound", True), ("not bound", False)):
    listener = socket.socket()
    if bound:
        listener.bind(("127.0.0.1", 5300))
    listener.listen()
    address = listener.getsockname()
    subprocess.run(["ss", "-K", "-t", "state", "listening", "sport", "=", f":{address[1]}"], check=True, capture_output=True)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    print(f"{title}: connect: {connect(address)}, accept: {outcome(listener.accept)}", end=", ")
    print(f"epoll: {sum(len(epoll.poll(0.1)) for _ in range(3))} of 3", end=", ")
    with socket.socket() as other:
        print("bind by another:", outcome(other.bind, ("127.0.0.1", address[1])))
    again = outcome(listener.listen)
    print(f"{title}: listen again: {again}, the same port: {listener.getsockname()[1] == address[1]}", end=", ")
    print("connect:", connect(listener.getsockname()))
    listener.close()
EOF
