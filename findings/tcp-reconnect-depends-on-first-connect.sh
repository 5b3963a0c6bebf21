#!/bin/sh
# A dead TCP socket can connect again if its first connect() did not block, and else never
#
# Guess: after a reset or SOCK_DESTROY a TCP socket is closed, and getpeername() says ENOTCONN. Then
#   connect() on the same descriptor works, as after a refused connection, or it fails as on a
#   connected socket. It does not matter in which mode the socket was connected.
# Behaviour: if the first connect() blocked, all later ones fail with EISCONN, on a socket without a
#   peer. If it returned EINPROGRESS and poll() told that it is connected, the first connect() after
#   the end returns the error, ECONNABORTED if recv() has taken it already, and the second one
#   connects. If a second connect() confirmed the connection (it returns 0), it is EISCONN for ever
#   too. connect() with AF_UNSPEC makes all of them usable.
# Hence: reconnecting on the same descriptor passes a test with an event loop, or with Python's
#   settimeout(), which is non-blocking inside, and fails in a blocking program. The first error of
#   that connect() belongs to the old connection and says nothing about the server. Call connect()
#   with AF_UNSPEC first, or open a new socket.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   blocking, destroyed, not read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   blocking, reset, not read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   blocking, reset, ECONNRESET read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   poll, destroyed, not read: connect ECONNABORTED EINPROGRESS, peer known
#   poll, reset, not read: connect ECONNRESET EINPROGRESS, peer known
#   poll, reset, ECONNRESET read: connect ECONNABORTED EINPROGRESS, peer known
#   poll and connect, destroyed, not read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   poll and connect, reset, not read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   poll and connect, reset, ECONNRESET read: connect EISCONN EISCONN EISCONN, peer ENOTCONN
#   blocking, destroyed, AF_UNSPEC: connect EINPROGRESS, peer known
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import select
import socket
import struct
from clients import LONG, destroy, disconnect, outcome

listener = socket.create_server(("127.0.0.1", 5300))
server_address = listener.getsockname()


def wait(sock, event):
    """poll(), which counts an error as an event."""
    poll = select.poll()
    poll.register(sock, event)
    assert poll.poll(1000 * LONG)


def connected(mode):
    client = socket.socket()
    if mode == "blocking":
        client.connect(server_address)
        client.setblocking(False)
    else:
        client.setblocking(False)
        assert outcome(client.connect, server_address) == "EINPROGRESS"
        wait(client, select.POLLOUT)
        if mode == "poll and connect":
            client.connect(server_address)
    return client, listener.accept()[0]


def show(mode, end, after):
    client, server = connected(mode)
    if end == "destroyed":
        destroy("-t", "dport", "=", ":5300")
    else:
        # Discards the connection: close() sends a reset.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
    wait(client, select.POLLIN)
    if after == "ECONNRESET read":
        assert outcome(client.recv, 1) == "ECONNRESET"
    elif after == "AF_UNSPEC":
        disconnect(client)
    results = []
    while len(results) < 3 and "EINPROGRESS" not in results:
        results.append(outcome(client.connect, server_address))
    if results[-1] == "EINPROGRESS":
        wait(client, select.POLLOUT)
        listener.accept()[0].close()
    peer = outcome(client.getpeername)
    peer = "known" if peer == str(server_address) else peer
    print(f"{mode}, {end}, {after}: connect {' '.join(results)}, peer {peer}")
    client.close()


for mode in ("blocking", "poll", "poll and connect"):
    show(mode, "destroyed", "not read")
    show(mode, "reset", "not read")
    show(mode, "reset", "ECONNRESET read")
show("blocking", "destroyed", "AF_UNSPEC")
EOF
