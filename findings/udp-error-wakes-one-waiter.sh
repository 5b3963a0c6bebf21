#!/bin/sh
# The error of a destroyed UDP socket reaches one waiting thread; the others sleep on
#
# Guess: SOCK_DESTROY ends the socket for all: every thread that is blocked in recv() on it
#   returns with ECONNABORTED.
# Behaviour: on UDP, one thread gets the error and thereby clears it. The others sleep on, for
#   ever if they have no timeout. On TCP, one gets ECONNABORTED and the others get end of file.
# Hence: a pool of threads that read one connected UDP socket sees one error, and the other
#   threads hang on a socket without a peer.
# Versions: Linux 6.18.44, iproute2 6.1.0-3 (ss -K)
# Seen:
#   UDP, 4 threads in recv: 1 ECONNABORTED, 3 nothing
#   TCP, 4 threads in recv: 1 ECONNABORTED, 3 end of file
set -eu
needs=ss
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import collections
import os
import socket
import struct
import threading
import time
from clients import LONG, destroy, outcome, udp

THREADS = 4


def blocked():
    """How many threads of this process sleep in a receive."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/syscall") as file:
            # recvfrom of x86-64 and of the generic table
            count += file.read().split()[0] in ("45", "207")
    return count


def wait_for(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waiters(sock, kind):
    # Blocking, with a limit in the kernel: Python's own timeout would wait in poll().
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 5, 0))
    results = []
    threads = [threading.Thread(target=lambda: results.append(outcome(sock.recv, 9))) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    wait_for(lambda: blocked() == THREADS)
    destroy(kind, "dport", "=", ":5300")
    for thread in threads:
        thread.join()
    # EAGAIN is SO_RCVTIMEO's timeout.
    count = collections.Counter("nothing" if result == "EAGAIN" else result for result in results)
    return ", ".join(f"{number} {result}" for result, number in sorted(count.items()))


server = udp(bind=("127.0.0.1", 5300))
print(f"UDP, {THREADS} threads in recv:", waiters(udp(peer=server.getsockname()), "-u"))
listener = socket.create_server(("127.0.0.1", 5300))
print(f"TCP, {THREADS} threads in recv:", waiters(socket.create_connection(listener.getsockname()), "-t"))
EOF
