#!/bin/sh
# After SOCK_DESTROY, UDP gives the error before the data, TCP the data before the error
#
# Guess: what has arrived is read first, then comes the error, once; after that the socket is
#   dead. Both protocols alike.
# Behaviour: TCP does that, and ends with end of file. UDP gives the error first, *then* the
#   datagrams that were already in its queue, then nothing: the recv after the error blocks.
# Hence: a UDP client that ends at the first error throws away replies that it had received before
#   the destroy. One that ignores the error and reads on works with data from a server that is
#   gone, and then waits for ever.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   UDP: ECONNABORTED, 'one', 'two', nothing
#   TCP: 'one', ECONNABORTED, end of file, end of file
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
from clients import LONG, SHORT, destroy, outcome, udp, within

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
EOF
