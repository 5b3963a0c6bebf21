#!/bin/sh
# `ss -K` prints sockets that it did not close, is silent about others, and exits 0
#
# Guess: `ss -K` prints the sockets that it closed (its manual page says so), and exits with an
#   error if it may not close one. With -4 it closes all that talk IPv4.
# Behaviour: matching unix sockets are printed and go on working. Without the privilege, one line
#   goes to standard error, nothing is closed, and the exit status is 0. With -4, a dual-stack
#   client that is connected to ::ffff:127.0.0.1, like a Java client, is passed over; without -4
#   the same IPv4 address finds it.
# Hence: neither the output nor the exit status of `ss -K` proves that a socket was closed. Look
#   again afterwards, and leave out -4.
# Versions: iproute2 6.1.0-3 (Debian 12), Linux 6.18.44
# Seen:
#   -x, a pair of unix sockets: exit 0, printed 2, still works: yes
#   -t, without CAP_NET_ADMIN: exit 0, printed 0, still works: yes
#   -t -4 dst 127.0.0.1, v4-mapped client: exit 0, printed 0, still works: yes
#   -t dst 127.0.0.1, v4-mapped client: exit 0, printed 1, still works: no
#   -t dst 127.0.0.1, no such socket: exit 0, printed 0
set -eu
needs=setpriv
packages=iproute2=6.1.0-3
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import socket
import subprocess
from clients import LONG, outcome, within


def kill(*arguments, prefix=()):
    done = subprocess.run([*prefix, "ss", "-K", "-H", "-n", *arguments], capture_output=True, text=True)
    return f"exit {done.returncode}, printed {len(done.stdout.splitlines())}"


def works(here, there):
    """Whether data still passes."""
    passed = outcome(here.send, b"hello") == "ok" and outcome(within(LONG, there).recv, 9) == "'hello'"
    return f"still works: {'yes' if passed else 'no'}"


here, there = socket.socketpair()
print("-x, a pair of unix sockets:", kill("-x"), end=", ")
print(works(here, there))

listener = socket.create_server(("127.0.0.1", 5300))
here = socket.create_connection(listener.getsockname())
there, _ = listener.accept()
nobody = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all")
print("-t, without CAP_NET_ADMIN:", kill("-t", "dport", "=", ":5300", prefix=nobody), end=", ")
print(works(here, there))

here = socket.socket(socket.AF_INET6)
here.connect(("::ffff:127.0.0.1", 5300))
there, _ = listener.accept()
expression = ("dst", "127.0.0.1", "dport", "=", ":5300", "and", "sport", "=", f":{here.getsockname()[1]}")
for arguments in (("-t", "-4"), ("-t",)):
    title = " ".join(arguments) + " dst 127.0.0.1, v4-mapped client:"
    print(title, kill(*arguments, *expression), end=", ")
    print(works(here, there))
print("-t dst 127.0.0.1, no such socket:", kill("-t", *expression))
EOF
