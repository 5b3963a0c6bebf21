#!/bin/sh
# A UDP socket that connects again keeps the source address of its first route
#
# Guess: connect() on a connected UDP socket takes the source address from the route to the new
#   peer, as on a new socket.
# Behaviour: the first connect() gives the socket the source address that fits the first peer, and
#   later ones keep it, even if the new peer is behind another interface. Datagrams then leave
#   that interface with the address of the other network. From 127.0.0.1 to another machine,
#   connect() fails with EINVAL. After connect() with AF_UNSPEC, the route chooses again.
# Hence: connecting the old socket to a living server is not the same as opening a new one.
#   Replies may not find the way back, or a filter for foreign sources drops the request.
# Versions: Linux 6.18.44
# Seen:
#   new socket to 10.1.0.2: from 10.1.0.1
#   new socket to 10.2.0.2: from 10.2.0.1
#   10.1.0.2, then 10.2.0.2: from 10.1.0.1; the server at 10.2.0.2 sees 10.1.0.1
#   10.1.0.2, AF_UNSPEC, then 10.2.0.2: from 10.2.0.1; the server at 10.2.0.2 sees 10.2.0.1
#   fd01::2, then fd02::2: from fd01::1
#   127.0.0.1, then 10.2.0.2: connect EINVAL
set -eu
. "$(dirname "$0")/lib.sh"

ip netns add servers || skip "ip netns add"
for network in 1 2; do
	ip link add "client$network" type veth peer name "server$network" netns servers ||
		skip "needs veth (CONFIG_VETH)"
	ip addr add "10.$network.0.1/24" dev "client$network"
	ip addr add "fd0$network::1/64" dev "client$network" nodad
	ip link set "client$network" up
	ip -n servers addr add "10.$network.0.2/24" dev "server$network"
	ip -n servers link set "server$network" up
done
# The server's route to 10.1.0.1 is the other interface; it only has to accept the datagram.
# shellcheck disable=SC2016 # expanded in the other namespace
ip netns exec servers sh -c 'for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file"; done'

ip netns exec servers python3 - >"$work/server" <<'EOF' &
from clients import udp

server = udp(bind=("10.2.0.2", 5300))
open("/run/netns/ready", "w").close()
for _ in range(2):
    _, sender = server.recvfrom(99)
    print(sender[0], flush=True)
EOF
server=$!

SERVER_SAW=$work/server python3 - <<'EOF'
import os
import socket
import time
from clients import LONG, disconnect, outcome, udp

deadline = time.monotonic() + LONG
while not os.path.exists("/run/netns/ready"):
    assert time.monotonic() < deadline, "the server does not start"
    time.sleep(0.01)


def source(sock):
    return "from " + sock.getsockname()[0]


def server_saw(count):
    """The sender of the server's latest datagram, when it has had `count`."""
    while True:
        lines = open(os.environ["SERVER_SAW"]).read().splitlines()
        if len(lines) >= count:
            return f"the server at 10.2.0.2 sees {lines[count - 1]}"
        assert time.monotonic() < deadline, "the datagram does not arrive"
        time.sleep(0.01)


for network in (1, 2):
    peer = f"10.{network}.0.2"
    print(f"new socket to {peer}:", source(udp(peer=(peer, 5300))))

again = udp(peer=("10.1.0.2", 5300))
again.connect(("10.2.0.2", 5300))
again.send(b"question")
print(f"10.1.0.2, then 10.2.0.2: {source(again)};", server_saw(1))

again = udp(peer=("10.1.0.2", 5300))
disconnect(again)
again.connect(("10.2.0.2", 5300))
again.send(b"question")
print(f"10.1.0.2, AF_UNSPEC, then 10.2.0.2: {source(again)};", server_saw(2))

again = udp(socket.AF_INET6, peer=("fd01::2", 5300))
again.connect(("fd02::2", 5300))
print("fd01::2, then fd02::2:", source(again))

again = udp(peer=("127.0.0.1", 5300))
print("127.0.0.1, then 10.2.0.2: connect", outcome(again.connect, ("10.2.0.2", 5300)))
EOF
wait "$server"
