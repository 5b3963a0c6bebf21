#!/bin/sh
# After one "port unreachable", an nginx UDP session carries requests and no replies
#
# Guess: nginx (stream module, UDP) ends a client's session at an error of its upstream socket,
#   and the client's next datagram opens a new one. Or the session goes on, both ways. The client
#   sees nothing of the error.
# Behaviour: nginx gets ECONNREFUSED when the upstream returns an ICMP port unreachable, for
#   example while its server restarts. nginx sends the client an *empty datagram*, keeps the
#   session, and stops reading that upstream socket. When the server is back, each request reaches
#   it and no reply reaches the client. A new client works at once. A request that is sent while
#   the port is still closed ends the session instead, so a test with a longer outage confirms the
#   guess.
# Hence: a short restart of a backend leaves some clients with a proxy that looks healthy from
#   both sides. A tool that sends ICMP errors on behalf of a dead backend, to wake its clients,
#   makes this common.
# Versions: nginx 1.22.1 (Debian 12, nginx and libnginx-mod-stream 1.22.1-9+deb12u11), Linux
#   6.18.44
# Seen:
#   before: the server receives 5 of 5, the client receives 5 of 5
#   server closed, one request: the client receives an empty datagram
#   server back: the server receives 5 of 5, the client receives 0 of 5
#   server back, new client: the server receives 5 of 5, the client receives 5 of 5
set -eu
packages='nginx=1.22.1-9+deb12u11 libnginx-mod-stream=1.22.1-9+deb12u11'
. "$(dirname "$0")/lib.sh"

cat >"$work/nginx.conf" <<CONF
load_module $work/root/usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid $work/pid;
error_log $work/log info;
events {}
stream {
	server {
		listen 127.0.0.1:5353 udp;
		proxy_pass 127.0.0.1:5300;
	}
}
CONF
nginx -p "$work" -e "$work/log" -c "$work/nginx.conf" &
LOG=$work/log python3 - <<'EOF'
import os
import time
from clients import LONG, SHORT, outcome, udp, within


def wait_for(word, what):
    deadline = time.monotonic() + LONG
    while not (os.path.exists(os.environ["LOG"]) and word in open(os.environ["LOG"]).read()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def exchange(seconds):
    """Five requests, each with its reply, waiting that long for the reply."""
    at_server = at_client = 0
    for _ in range(5):
        client.send(b"request")
        _, proxy = within(LONG, server).recvfrom(99)
        at_server += 1
        server.sendto(b"reply", proxy)
        at_client += outcome(within(seconds, client).recv, 99) == "'reply'"
    return f"the server receives {at_server} of 5, the client receives {at_client} of 5"


def open_server():
    return udp(bind=("127.0.0.1", 5300))


wait_for('using the "epoll"', "nginx does not start")
time.sleep(0.5)
server, client = open_server(), udp(peer=("127.0.0.1", 5353))
print("before:", exchange(LONG))
server.close()
client.send(b"request")
got = within(LONG, client).recv(99)
print("server closed, one request: the client receives", "an empty datagram" if got == b"" else got)
wait_for("recv() failed (111: Connection refused)", "nginx saw no error")
server = open_server()
print("server back:", exchange(SHORT))
client = udp(peer=("127.0.0.1", 5353))
print("server back, new client:", exchange(LONG))
EOF
