#!/bin/sh
# A UDP socket that is bound to an interface outlives it, and never notices the next one of that name
#
# Guess: when an interface is deleted, sockets bound to it (SO_BINDTODEVICE, or a connect to a
#   link-local address) are closed or get an error. When an interface of that name is made again,
#   they work again, since they were bound by its name.
# Behaviour: nothing happens to them. They keep their peer, there is no error in SO_ERROR, and only a
#   send says ENETUNREACH. They are bound to the number of the interface: when it is made again with
#   the same name, unbound sockets work at once, and the bound ones fail for ever, with ENODEV over
#   IPv4 and ENETUNREACH over IPv6. getsockopt(SO_BINDTODEVICE) fails too, as it cannot name their
#   interface. Bound once more to that name (CAP_NET_RAW) they work again, without a new connect,
#   the one with a link-local peer too.
# Hence: after a veth or tunnel is made anew, destroy the sockets that were bound to the old one, or
#   they send into nothing. ss shows them as %if2, by a number that may be another interface later.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   IPv4, not bound: peer yes, SO_ERROR 0, interface end of file, send ok
#   IPv4, bound: peer yes, SO_ERROR 0, interface 'host', send ok
#   IPv6, link-local: peer yes, SO_ERROR 0, interface 'host', send ok
#   the interface is deleted
#   IPv4, not bound: peer yes, SO_ERROR 0, interface end of file, send ENETUNREACH
#   IPv4, bound: peer yes, SO_ERROR 0, interface ENODEV, send ENETUNREACH
#   IPv6, link-local: peer yes, SO_ERROR 0, interface ENODEV, send ENETUNREACH
#   an interface of that name is made, with the same addresses
#   IPv4, not bound: peer yes, SO_ERROR 0, interface end of file, send ok
#   IPv4, bound: peer yes, SO_ERROR 0, interface ENODEV, send ENODEV
#   IPv6, link-local: peer yes, SO_ERROR 0, interface ENODEV, send ENETUNREACH
#   they are bound to that name once more
#   IPv4, bound: peer yes, SO_ERROR 0, interface 'host', send ok
#   IPv6, link-local: peer yes, SO_ERROR 0, interface 'host', send ok
set -eu
. "$(dirname "$0")/lib.sh"

ip netns add server
# The link-local addresses are given, so that they are the same again.
export LINK='
	ip link add host type veth peer name inner netns server
	ip link set host up addrgenmode none
	ip -n server link set inner up addrgenmode none
	ip address add 10.1.0.1/24 dev host
	ip -n server address add 10.1.0.2/24 dev inner
	ip address add fe80::1/64 dev host nodad
	ip -n server address add fe80::2/64 dev inner nodad
'
sh -ec "$LINK"
ip netns exec server python3 -c '
import socket, time
kept = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    server = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, 5300))
    kept.append(server)
print("ready", flush=True)
time.sleep(60)
' >"$FINDING_WORK/server" &
until grep -q ready "$FINDING_WORK/server"; do sleep 0.05; done

python3 - <<'EOF'
import os
import socket
import subprocess
from clients import outcome


def connected(family, peer, bound):
    client = socket.socket(family, socket.SOCK_DGRAM)
    if bound:
        bind(client)
    client.connect(peer)
    return client


def bind(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"host")


def interface(client):
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")


index = socket.if_nametoindex("host")
clients = {
    "IPv4, not bound": connected(socket.AF_INET, ("10.1.0.2", 5300), False),
    "IPv4, bound": connected(socket.AF_INET, ("10.1.0.2", 5300), True),
    "IPv6, link-local": connected(socket.AF_INET6, ("fe80::2", 5300, 0, index), False),
}


def show(names):
    for name in names:
        client = clients[name]
        peer = "yes" if client.getpeername() else "no"
        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        print(f"{name}: peer {peer}, SO_ERROR {error}, interface {outcome(interface, client)}, "
              f"send {outcome(client.send, b'hello')}")


show(clients)
subprocess.run(["ip", "link", "delete", "host"], check=True)
print("the interface is deleted")
show(clients)
subprocess.run(["sh", "-ec", os.environ["LINK"]], check=True)
print("an interface of that name is made, with the same addresses")
show(clients)
bound = ["IPv4, bound", "IPv6, link-local"]
for name in bound:
    bind(clients[name])
print("they are bound to that name once more")
show(bound)
EOF
kill $!
