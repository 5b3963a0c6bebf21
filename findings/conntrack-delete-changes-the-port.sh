#!/bin/sh
# After `conntrack -D`, one late reply makes the server see its client at another port
#
# Guess: a UDP client talks to a virtual address, which nftables translates to a server. Deleting
#   the flow's conntrack entry is harmless if the server lives: the client's next datagram makes the
#   same entry again, and the server sees the same address and port as before.
# Behaviour: this holds if the client speaks first. If the server does (a late or repeated reply),
#   its datagram makes an entry of its own, untranslated: the client does not get it, because it
#   comes from the server's own address. The client's next datagram then collides with that entry,
#   and conntrack gives it another source port: the server sees a stranger.
# Hence: deleting all entries of a service when one backend goes can break the sessions with the
#   backends that stay: DTLS, TFTP, all that know a client by its port. Delete only the entries
#   of the backend that went (conntrack --dst-nat, or -r).
# Versions: Linux 6.18.44, nftables 1.0.6-2+deb12u2, conntrack 1.4.7-1+b2 (Debian 12)
# Seen:
#   before: the server sees 10.1.0.1 port 5301, the client gets the reply
#   deleted, the client speaks first: the server sees 10.1.0.1 port 5301, the client gets the reply
#   deleted, the server speaks first: the client gets nothing
#   then the client speaks: the server sees 10.1.0.1 port another, the client gets the reply
#   and a reply to port 5301: the client gets nothing
set -eu
needs_nft=yes
packages='conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 libnfnetlink0=1.0.2-2'
. "$(dirname "$0")/lib.sh"

link_server
ip route add 10.96.0.0/16 via 10.1.0.2
nft -f - <<'NFT'
table ip nat {
	chain output {
		type nat hook output priority -100
		ip daddr 10.96.0.10 udp dport 53 dnat to 10.1.0.2:53
	}
}
NFT
python3 - <<'EOF'
import ctypes
import subprocess
import threading
from clients import LONG, SHORT, outcome, udp, within

libc = ctypes.CDLL(None, use_errno=True)
PORT = 5301


def make_server():
    with open("/run/netns/server") as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    servers.append(udp(bind=("10.1.0.2", 53)))


def delete():
    """Deletes the entries of the virtual address, as a controller does."""
    command = ["conntrack", "-D", "-p", "udp", "--orig-dst", "10.96.0.10"]
    subprocess.run(command, check=True, capture_output=True)


def gets(seconds):
    return "the client gets " + ("the reply" if outcome(within(seconds, client).recv, 16) == "'reply'" else "nothing")


def ask():
    client.send(b"question")
    _, (host, port) = server.recvfrom(16)
    server.sendto(b"reply", (host, port))
    return f"the server sees {host} port {port if port == PORT else 'another'}, {gets(LONG)}"


servers = []
thread = threading.Thread(target=make_server)
thread.start()
thread.join()
server = servers[0]
client = udp(bind=("10.1.0.1", PORT), peer=("10.96.0.10", 53))
print("before:", ask())
delete()
print("deleted, the client speaks first:", ask())
delete()
server.sendto(b"reply", ("10.1.0.1", PORT))
print("deleted, the server speaks first:", gets(SHORT))
print("then the client speaks:", ask())
server.sendto(b"reply", ("10.1.0.1", PORT))
print("and a reply to port 5301:", gets(SHORT))
EOF
