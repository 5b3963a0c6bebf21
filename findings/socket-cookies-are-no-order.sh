#!/bin/sh
# Socket cookies do not say which socket is older
#
# Guess: a socket cookie is the next value of a counter, and a socket gets it when it is made. So
#   a socket with a greater cookie is younger.
# Behaviour: a socket has no cookie until one is asked for (SO_COOKIE, sock_diag, a BPF program).
#   Each CPU takes 4,096 numbers at a time from the counter. So cookies follow the order of the
#   first question on one CPU, and have no order across CPUs: of sockets that are made on two CPUs
#   in turn, every second one has a smaller cookie than the one before it.
# Hence: cookies are unique until the next boot, but they are no clock. "Every socket up to this
#   cookie" does not mean "every socket up to this moment".
# Versions: Linux 6.18.44
# Seen:
#   made first, asked last: the greater cookie
#   one CPU, asked in order: ascending
#   two CPUs in turn: not ascending
#   two CPUs in turn, those of one CPU: ascending
set -eu
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import socket
from clients import skip
from diag import cookie

cpus = sorted(os.sched_getaffinity(0))[:2]
if len(cpus) < 2:
    skip("two CPUs")


def ascending(numbers):
    return "ascending" if numbers == sorted(numbers) else "not ascending"


def made_on(cpu):
    """The cookie of a new socket, made and asked for on that CPU."""
    os.sched_setaffinity(0, {cpu})
    with socket.socket() as sock:
        return cookie(sock)


os.sched_setaffinity(0, {cpus[0]})
first, last = socket.socket(), socket.socket()
last_cookie = cookie(last)
print("made first, asked last:", "the greater cookie" if cookie(first) > last_cookie else "the smaller cookie")
print("one CPU, asked in order:", ascending([made_on(cpus[0]) for _ in range(20)]))
turns = [made_on(cpus[turn % 2]) for turn in range(20)]
print("two CPUs in turn:", ascending(turns))
print("two CPUs in turn, those of one CPU:", ascending(turns[::2]))
EOF
