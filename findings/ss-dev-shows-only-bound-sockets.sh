#!/bin/sh
# `ss dev eth0` does not show the sockets whose traffic goes through eth0
#
# Guess: the filter `dev` selects the sockets that use an interface, by their route or their local
#   address, so `ss -K dev vpn0` ends all connections over the VPN.
# Behaviour: it selects sockets that were *bound* to the interface by SO_BINDTODEVICE. A connection
#   that leaves through the interface, from its address, is not shown, and `ss -K` leaves it alone
#   and exits with 0. Link-local IPv6 sockets are shown, because connect() binds them. A UDP socket
#   that was bound to the interface disappears from the list when it loses its peer.
# Hence: select by the interface's addresses (`src`), one by one. "dev" and no output does not mean
#   that nobody uses the interface.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   TCP through host, from its address: dev host shows 0, src 10.1.0.1 shows 1
#   TCP, SO_BINDTODEVICE host: dev host shows 1
#   ss -K dev host: the bound one is destroyed, the other works
#   UDP to a link-local address, not bound by its owner: dev host shows 1
#   connect(AF_UNSPEC): dev host shows 0
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

link_server
ip address add fe80::1/64 dev host nodad
python3 - <<'EOF'
import ctypes
import socket
import subprocess
import threading
from clients import LONG, disconnect, outcome, require_destroy, udp, within

libc = ctypes.CDLL(None, use_errno=True)


def shows(kind, *expression):
    done = subprocess.run(["ss", "-Hna", kind, *expression], check=True, capture_output=True, text=True)
    return f"{' '.join(expression)} shows {len(done.stdout.splitlines())}"


def serve():
    with open("/run/netns/server") as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    listeners.append(socket.create_server(("10.1.0.2", 5300)))


def connect(interface=None):
    sock = within(LONG, socket.socket())
    if interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
    sock.connect(("10.1.0.2", 5300))
    return sock, within(LONG, listeners[0].accept()[0])


def state(sock, peer):
    """Whether the connection works; a destroyed one gives its error to recv()."""
    try:
        peer.send(b"x")
    except OSError:
        pass
    got = outcome(sock.recv, 1)
    return "works" if got == "'x'" else "is destroyed" if got == "ECONNABORTED" else got


require_destroy()
listeners = []
thread = threading.Thread(target=serve)
thread.start()
thread.join()
plain = connect()
print(f"TCP through host, from its address: {shows('-t', 'dev', 'host')}, {shows('-t', 'src', '10.1.0.1')}")
bound = connect(b"host")
print("TCP, SO_BINDTODEVICE host:", shows("-t", "dev", "host"))
subprocess.run(["ss", "-Kt", "dev", "host"], check=True, stdout=subprocess.DEVNULL)
print(f"ss -K dev host: the bound one {state(*bound)}, the other {state(*plain)}")
client = udp(socket.AF_INET6)
client.connect(("fe80::2", 5300, 0, socket.if_nametoindex("host")))
print("UDP to a link-local address, not bound by its owner:", shows("-u", "dev", "host"))
disconnect(client)
print("connect(AF_UNSPEC):", shows("-u", "dev", "host"))
EOF
