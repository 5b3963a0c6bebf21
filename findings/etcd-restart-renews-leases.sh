#!/bin/sh
# A restart of etcd gives every lease its whole time again
#
# Guess: a lease of 60 s ends at most 60 s after its last keepalive. etcd stores when that is, and
#   after a restart goes on from there; a lease that ended meanwhile is gone.
# Behaviour: the time that is left is not stored. A restart starts the full time again, for the
#   leases of the dead too. A lease that should have ended while etcd was down is alive, and its
#   keys are served. etcd also raises short times: with the default election timeout,
#   `lease grant 1` is granted 2 s.
# Hence: a backend that died is listed longer by up to one whole TTL for each restart. Do not take
#   the TTL as an upper bound.
# Versions: etcd 3.4.23 (Debian 12, etcd-server and etcd-client 3.4.23-4+b4)
# Seen:
#   granted 30 s, 8 s later: at most 22 s are left
#   restarted: more than 22 s are left, the key is there
#   granted 3 s, etcd is down for 6 s: the key is there
#   and then: the key is deleted
#   granted 1 s: TTL(2s)
set -eu
packages='etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4'
. "$(dirname "$0")/lib.sh"

export ETCDCTL_API=3
DATA=$work/etcd python3 - <<'EOF'
import os
import re
import subprocess
import time
from clients import LONG
from etcd import etcdctl, wait_for_etcd


def start():
    command = ["etcd", "--data-dir", os.environ["DATA"], "--logger", "zap", "--log-level", "error"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_etcd()
    return server


def stop(server):
    server.terminate()
    server.wait()


def register(key, seconds):
    lease = etcdctl("lease", "grant", str(seconds)).split()[1]
    etcdctl("put", key, "10.1.0.1", f"--lease={lease}")
    return lease


def left(lease):
    remaining = int(re.search(r"remaining\((\d+)s\)", etcdctl("lease", "timetolive", lease)).group(1))
    return f"{'at most' if remaining <= 22 else 'more than'} 22 s are left"


def there(key):
    return "the key is " + ("there" if etcdctl("get", key) else "deleted")


server = start()
lease = register("long", 30)
time.sleep(8)
print("granted 30 s, 8 s later:", left(lease))
stop(server)
server = start()
print(f"restarted: {left(lease)}, {there('long')}")

register("short", 3)
stop(server)
time.sleep(6)
server = start()
print("granted 3 s, etcd is down for 6 s:", there("short"))
deadline = time.monotonic() + LONG
while there("short") != "the key is deleted" and time.monotonic() < deadline:
    time.sleep(0.2)
print("and then:", there("short"))
print("granted 1 s:", etcdctl("lease", "grant", "1").split()[-1])
stop(server)
EOF
