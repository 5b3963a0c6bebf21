#!/bin/sh
# connect() to 0.0.0.0 connects to this machine, and no hook learns the address
#
# Guess: what the hooks BPF_CGROUP_INET4_CONNECT and BPF_CGROUP_UDP4_SENDMSG see is the address
#   that the socket is connected to, or that the datagram goes to, unless a later program changes
#   it. 0.0.0.0 is an invalid destination, or means 127.0.0.1.
# Behaviour: 0.0.0.0 and :: are valid, and the hooks see them as they are. The kernel replaces them
#   after the hooks have run: by the socket's own address, if bind() named one (whatever it is), or
#   else by 127.0.0.1 or ::1.
# Hence: a program that records or filters by the hook's address has a peer in its table that no
#   socket is connected to, and misses the true one. Clients that read "0.0.0.0:port" from a
#   server's configuration do this. Use the live socket's address.
# Versions: Linux 6.18.44
# Seen:
#   TCP to 0.0.0.0: the hook sees 0.0.0.0, the peer is 127.0.0.1
#   UDP to 0.0.0.0: the hook sees 0.0.0.0, the peer is 127.0.0.1
#   UDP bound to 127.0.0.5, to 0.0.0.0: the hook sees 0.0.0.0, the peer is 127.0.0.5
#   UDP bound to 10.1.0.1, to 0.0.0.0: the hook sees 0.0.0.0, the peer is 10.1.0.1
#   UDP sendto 0.0.0.0: the hook sees 0.0.0.0, it arrives at 127.0.0.1
#   UDP to ::, the hook runs: yes, the peer is ::1
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

ip address add 10.1.0.1/32 dev lo
python3 - <<'EOF'
import os
import socket
from cgroup_bpf import Counter, join
from clients import udp

cgroup = os.environ["FINDING_CGROUP"]
counters = {hook: Counter(hook).link(cgroup) for hook in ("connect4", "connect6", "sendmsg4")}
join(cgroup)
PORT = 5300
IP_PKTINFO = 8  # linux/in.h


def connected(sock, host):
    before = counters["connect4"].read()[0]
    sock.connect((host, PORT))
    count, seen, _ = counters["connect4"].read()
    assert count == before + 1
    return f"the hook sees {seen}, the peer is {sock.getpeername()[0]}"


server = udp(bind=("0.0.0.0", PORT))
server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
listener = socket.create_server(("0.0.0.0", PORT))
print("TCP to 0.0.0.0:", connected(socket.socket(), "0.0.0.0"))
print("UDP to 0.0.0.0:", connected(udp(), "0.0.0.0"))
for own in ("127.0.0.5", "10.1.0.1"):
    print(f"UDP bound to {own}, to 0.0.0.0:", connected(udp(bind=(own, 0)), "0.0.0.0"))
udp().sendto(b"x", ("0.0.0.0", PORT))
_, control, _, _ = server.recvmsg(16, 64)
arrived = socket.inet_ntoa(control[0][2][8:12])  # ipi_addr of struct in_pktinfo
print(f"UDP sendto 0.0.0.0: the hook sees {counters['sendmsg4'].read()[1]}, it arrives at {arrived}")
server6 = udp(socket.AF_INET6, bind=("::1", PORT))
client = udp(socket.AF_INET6, peer=("::", PORT))
ran = "yes" if counters["connect6"].read()[0] else "no"
print(f"UDP to ::, the hook runs: {ran}, the peer is {client.getpeername()[0]}")
EOF
