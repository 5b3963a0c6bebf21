#!/bin/sh
# dnsdist reports a backend as up while it loses every query to it
#
# Guess: a load balancer whose socket to a backend is destroyed notices: it opens a new one, or
#   its health check fails and it marks the backend down.
# Behaviour: dnsdist sends queries to a backend over a connected socket that it keeps, and health
#   checks over another. After a SOCK_DESTROY of the kept socket, the health checks pass, the
#   backend stays up, and every query is lost: the client gets no answer, not even SERVFAIL.
# Hence: "up" describes another path than the one that carries the traffic. Monitor answered
#   queries, not the state.
# Versions: dnsdist 1.7.3-2 (Debian 12), Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   before: answered 5 of 5, the backend is up
#   destroyed: answered 0 of 5, the backend received 0 of them
#   3 health checks later: answered 0 of 5, the backend received 0 of them, the backend is up
set -eu
needs=ss
# dnsdist and the libraries that it loads
packages='
	dnsdist=1.7.3-2
	libcdb1=0.78+b1
	libfstrm0=0.6.1-1
	libh2o-evloop0.13=2.2.5+dfsg2-7
	liblmdb0=0.9.24-1
	libluajit-5.1-2=2.1.0~beta3+git20220320+dfsg-4.1+deb12u1
	libpci3=1:3.9.0-4
	libre2-9=20220601+dfsg-1+b1
	libsnmp40=5.9.3+dfsg-2+deb12u1
	libwrap0=7.6.q-32
	libwslay1=1.1.1-3+b1
'
. "$(dirname "$0")/lib.sh"

cat >"$work/dnsdist.conf" <<'CONF'
setLocal("127.0.0.1:5353")
newServer({address="127.0.0.1:5300", checkName="health.example.", checkInterval=1, checkTimeout=10000})
function maintenance()
	local file = io.open(os.getenv("STATE"), "w")
	file:write(getServer(0):isUp() and "up" or "down")
	file:close()
end
CONF
STATE=$work/state
export STATE
dnsdist --supervised --disable-syslog -C "$work/dnsdist.conf" >"$work/log" 2>&1 &
LOG=$work/log python3 - <<'EOF'
import os
import struct
import threading
import time
from clients import LONG, SHORT, destroy, outcome, udp, within

health, queries = [], []


def backend():
    """Answers every question with no records."""
    server = udp(bind=("127.0.0.1", 5300))
    server.settimeout(None)
    while True:
        question, sender = server.recvfrom(512)
        (health if b"\6health" in question else queries).append(question)
        # QR, RD, RA, NOERROR
        server.sendto(question[:2] + b"\x81\x80" + question[4:12] + question[12:], sender)


def ask(number, seconds):
    client = udp(peer=("127.0.0.1", 5353))
    name = b"\4name\7example\0"
    client.send(struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1))
    answer = outcome(lambda: len(within(seconds, client).recv(512)) > 12)
    client.close()
    return answer == "ok"


def lost(first):
    """Five queries: how many were answered, and how many reached the backend."""
    had = len(queries)
    answered = sum(ask(first + number, SHORT) for number in range(5))
    return f"answered {answered} of 5, the backend received {len(queries) - had} of them"


def state():
    with open(os.environ["STATE"]) as file:
        return file.read()


def wait_for(condition, what):
    deadline = time.monotonic() + LONG
    while not condition():
        log = open(os.environ["LOG"]).read()
        assert time.monotonic() < deadline, f"{what}\n{log}"
        time.sleep(0.1)


threading.Thread(target=backend, daemon=True).start()
wait_for(lambda: os.path.exists(os.environ["STATE"]) and state() == "up", "dnsdist does not come up")
answered = sum(ask(number, LONG) for number in range(5))
print(f"before: answered {answered} of 5, the backend is {state()}")

destroy("-u", "dport", "=", ":5300")
print(f"destroyed: {lost(5)}")
checked = len(health)
wait_for(lambda: len(health) >= checked + 3, "no health checks")
print(f"3 health checks later: {lost(10)}, the backend is {state()}")
EOF
