#!/bin/sh
# After SOCK_DESTROY, UDP returns the error before the data, TCP after it or never
#
# Guess: a socket with unread data returns the data first, then the error once. TCP and UDP are
#   alike.
# Behaviour: TCP does that, and then returns end of file. If the peer had already closed its end
#   (CLOSE_WAIT), TCP returns the data and end of file, and a reader never sees the error. UDP
#   returns the error first, *then* the datagrams that were already in its queue; the recv after
#   them blocks.
# Hence: a UDP client that ends at the first error throws away replies that it received before the
#   destroy. A UDP client that ignores the error uses data of a server that is gone, and then
#   waits for ever. A TCP reader in CLOSE_WAIT cannot distinguish a destroy from an orderly end.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   UDP: ECONNABORTED, 'one', 'two', nothing
#   TCP: 'one', ECONNABORTED, end of file, end of file
#   TCP, CLOSE_WAIT: 'one', end of file, end of file, end of file
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
import time
from clients import LONG, SHORT, destroy, outcome, udp, within

# include/net/tcp_states.h; the first byte of struct tcp_info (include/uapi/linux/tcp.h)
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8

server = udp(bind=("127.0.0.1", 5300))
client = udp(peer=server.getsockname())
for word in (b"one", b"two"):
    server.sendto(word, client.getsockname())
destroy("-u", "dport", "=", ":5300")
print("UDP:", ", ".join(outcome(within(SHORT, client).recv, 99) for _ in range(4)))

listener = socket.create_server(("127.0.0.1", 5300))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
server.send(b"one")
# It is in the client's queue before the destroy.
within(LONG, client).recv(1, socket.MSG_PEEK)
destroy("-t", "dport", "=", ":5300")
print("TCP:", ", ".join(outcome(within(LONG, client).recv, 99) for _ in range(4)))

client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
server.send(b"one")
server.close()
deadline = time.monotonic() + LONG
while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_CLOSE_WAIT:
    assert time.monotonic() < deadline
    time.sleep(0.01)
destroy("-t", "state", "close-wait", "dport", "=", ":5300")
assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
print("TCP, CLOSE_WAIT:", ", ".join(outcome(within(LONG, client).recv, 99) for _ in range(4)))
EOF
