#!/bin/sh
# A UDP socket loses SO_BINDTODEVICE with its peer
#
# Guess: SO_BINDTODEVICE is an option of the socket. Like TOS, mark and priority it stays until it
#   is changed, whatever happens to the peer.
# Behaviour: connect() with AF_UNSPEC and SOCK_DESTROY clear it, and keep the other options. The
#   next connect() of the same descriptor may take any interface.
# Hence: a client that this option keeps to one network (a VRF, one of two uplinks) leaves by
#   another one after it reconnects. Set the option again before each connect().
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   new socket: device host1, mark 7, TOS 16; to 10.2.0.2 from 10.1.0.1
#   connect(AF_UNSPEC): device none, mark 7, TOS 16; to 10.2.0.2 from 10.2.0.1
#   new socket: device host1, mark 7, TOS 16; to 10.2.0.2 from 10.1.0.1
#   destroyed: device none, mark 7, TOS 16; to 10.2.0.2 from 10.2.0.1
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

ip link add host1 type veth peer name host2 || skip "needs veth (CONFIG_VETH)"
for network in 1 2; do
	ip addr add "10.$network.0.1/24" dev "host$network"
	ip link set "host$network" up
done
python3 - <<'EOF'
import socket
from clients import destroy, disconnect, outcome, udp


def options(sock):
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0").decode()
    mark = sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
    tos = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
    sock.connect(("10.2.0.2", 5300))
    return f"device {device or 'none'}, mark {mark}, TOS {tos}; to 10.2.0.2 from {sock.getsockname()[0]}"


def destroyed(sock):
    destroy("-u", "dport", "=", ":5300")
    assert outcome(sock.recv, 9) == "ECONNABORTED"


for title, lose_peer in (("connect(AF_UNSPEC)", disconnect), ("destroyed", destroyed)):
    sock = udp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"host1")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)
    print("new socket:", options(sock))
    lose_peer(sock)
    print(f"{title}:", options(sock))
    sock.close()
EOF
