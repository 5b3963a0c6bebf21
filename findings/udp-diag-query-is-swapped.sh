#!/bin/sh
# A sock_diag query for one UDP socket wants the two ends swapped
#
# Guess: the id that a dump gives for a socket (source: the socket's own end, destination: its
#   peer) names it in every later request, for UDP as for TCP.
# Behaviour: TCP takes the id as dumped, for a query and for SOCK_DESTROY. UDP takes it as dumped
#   for SOCK_DESTROY, but a *query* for one socket (SOCK_DIAG_BY_FAMILY without NLM_F_DUMP) must
#   have source and destination swapped. With the id as dumped, the query finds no socket and
#   returns ENOENT. If the peer is on this machine, the query finds the peer's socket and returns
#   ESTALE, because the cookie is another one.
# Hence: a tool that dumps and then queries each UDP socket by its id concludes that all of them
#   are gone. A test with TCP does not show it.
# Versions: Linux 6.18.44
# Seen:
#   TCP query: as dumped ok, swapped ENOENT
#   TCP SOCK_DESTROY: swapped ENOENT, as dumped ok
#   UDP query: as dumped ENOENT, swapped ok
#   UDP SOCK_DESTROY: swapped ENOENT, as dumped ok
#   UDP query, peer on this machine: as dumped ESTALE, swapped ok
set -eu
. "$(dirname "$0")/lib.sh"

# Packets to 10.0.0.0/8 are accepted and lost.
ip link add pit type veth peer name pit-end || skip "needs veth (CONFIG_VETH)"
ip addr add 10.0.0.1/8 dev pit
ip link set pit up
python3 - <<'EOF'
import errno
import socket
from clients import udp
from diag import SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, cookie, open_diag, packed_id, request

diag = open_diag()
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


def ask(sock, protocol, command, swapped):
    local, peer = sock.getsockname(), sock.getpeername()
    if swapped:
        local, peer = peer, local
    result = request(diag, command, protocol, packed_id(local, peer, cookie(sock)))
    return errno.errorcode.get(result, "ok")


def both(title, sock, protocol):
    print(f"{title} query: as dumped {ask(sock, protocol, SOCK_DIAG_BY_FAMILY, False)},",
          f"swapped {ask(sock, protocol, SOCK_DIAG_BY_FAMILY, True)}")
    print(f"{title} SOCK_DESTROY: swapped {ask(sock, protocol, SOCK_DESTROY, True)},",
          f"as dumped {ask(sock, protocol, SOCK_DESTROY, False)}")


listener = socket.create_server(("127.0.0.1", 5300))
both("TCP", socket.create_connection(listener.getsockname()), TCP)
both("UDP", udp(peer=("10.0.0.2", 5300)), UDP)
server = udp(bind=("127.0.0.1", 5300))
client = udp(peer=server.getsockname())
print(f"UDP query, peer on this machine: as dumped {ask(client, UDP, SOCK_DIAG_BY_FAMILY, False)},",
      f"swapped {ask(client, UDP, SOCK_DIAG_BY_FAMILY, True)}")
EOF
