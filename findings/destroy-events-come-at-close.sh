#!/bin/sh
# The kernel's "socket destroyed" events (ss -E) report the close, and no peer after a destroy
#
# Guess: the groups SKNLGRP_INET_TCP_DESTROY and _UDP_DESTROY of sock_diag, which `ss -E` shows,
#   report a socket that SOCK_DESTROY ended, at that moment, with its addresses.
# Behaviour: SOCK_DESTROY sends no event. The event comes when the kernel frees the socket, after
#   its owner's close(), however it ended. A UDP socket that was destroyed is reported without its
#   peer then, so it cannot be told which backend it had. TCP keeps the peer, and a connection that
#   is closed in order is reported at close() too, while its TIME_WAIT goes on; the end of TIME_WAIT
#   is no event. Of a socket that two processes share, the last close counts.
# Hence: these events do not confirm a destroy: a client that never closes never appears. To learn
#   who was connected to what, look before the destroy.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   UDP destroyed: no event
#   UDP, then closed: 127.0.0.1:5301 to 0.0.0.0:0
#   UDP closed: 127.0.0.1:5301 to 127.0.0.1:5300
#   UDP with a copy of its descriptor closed: no event
#   UDP, the copy closed: 127.0.0.1:5301 to 127.0.0.1:5300
#   TCP destroyed: no event
#   TCP, then closed: 127.0.0.1:5301 to 127.0.0.1:5300
#   TCP, the peer closed: 127.0.0.1:5300 to 127.0.0.1:5301
#   TCP closed, in FIN-WAIT-2: 127.0.0.1:5302 to 127.0.0.1:5300
#   TCP, the peer closed, in TIME-WAIT: 127.0.0.1:5300 to 127.0.0.1:5302
#   TIME-WAIT destroyed, left 0: no event
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import select
import socket
import subprocess
import diag
from clients import LONG, SHORT, destroy, require_destroy, udp

# A bit for each group of enum sknetlink_groups but the first, linux/sock_diag.h
TCP_DESTROY, UDP_DESTROY = 1 << 0, 1 << 1


def end(raw):
    return f"{socket.inet_ntoa(raw[1])}:{int.from_bytes(raw[0], 'big')}"


def event(expected=True):
    """The events until now, or until one has come if one is expected."""
    found = []
    while select.select([events], [], [], LONG if expected and not found else SHORT)[0]:
        for _, _, body in diag.messages(events.recv(65536)):
            source_port, port, source, host, _, _ = diag.ID.unpack_from(body, diag.ID_OFFSET)
            found.append(f"{end((source_port, source[:4]))} to {end((port, host[:4]))}")
    return ", ".join(found) or "no event"


def states():
    rows = subprocess.run(["ss", "-Htan", "sport", "=", ":5302"], check=True, capture_output=True, text=True)
    return [row.split()[0] for row in rows.stdout.splitlines()]


def connect(port):
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.connect(("127.0.0.1", 5300))
    return sock, listener.accept()[0]


require_destroy()
events = diag.open_diag()
events.bind((0, TCP_DESTROY | UDP_DESTROY))
server = udp(bind=("127.0.0.1", 5300))
client = udp(bind=("127.0.0.1", 5301), peer=("127.0.0.1", 5300))
destroy("-u", "sport", "=", ":5301")
print("UDP destroyed:", event(False))
client.close()
print("UDP, then closed:", event())
udp(bind=("127.0.0.1", 5301), peer=("127.0.0.1", 5300)).close()
print("UDP closed:", event())
client = udp(bind=("127.0.0.1", 5301), peer=("127.0.0.1", 5300))
copy = client.dup()
client.close()
print("UDP with a copy of its descriptor closed:", event(False))
copy.close()
print("UDP, the copy closed:", event())

listener = socket.create_server(("127.0.0.1", 5300))
client, peer = connect(5301)
destroy("-t", "sport", "=", ":5301")
print("TCP destroyed:", event(False))
client.close()
print("TCP, then closed:", event())
peer.close()
print("TCP, the peer closed:", event())
client, peer = connect(5302)
client.close()
print(f"TCP closed, in {states()[0]}: {event()}")
peer.close()
print(f"TCP, the peer closed, in {states()[0]}: {event()}")
destroy("-t", "state", "time-wait")
print(f"TIME-WAIT destroyed, left {len(states())}: {event(False)}")
EOF
