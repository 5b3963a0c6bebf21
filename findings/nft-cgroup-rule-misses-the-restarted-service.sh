#!/bin/sh
# An nftables rule for a cgroup ends with the cgroup, and then the saved ruleset cannot be loaded
#
# Guess: `socket cgroupv2 level 2 "system.slice/x.service"` matches by path: it holds for a service
#   after its restart too, and may stand in a file before the service has started. What `nft list
#   ruleset` prints can be loaded again.
# Behaviour: nft turns the path into the number of the cgroup when it loads the rule, and refuses a
#   path that is not there. When the cgroup is removed, as at the stop of a service, and made again
#   with the same name, it has another number: the rule stays, matches nothing, and nothing tells.
#   `nft list` then prints a bare number, which nft does not read: it refuses the whole file, with
#   every table in it.
# Hence: such a rule has to be made again at every start of the service (NFTSet= of systemd does
#   that, with a set). Do not put it into a file that is loaded at boot: one service that has not
#   started leaves the machine without all other rules.
# Versions: Linux 6.18.44, nftables 1.0.6-2+deb12u2 (Debian 12)
# Seen:
#   rule loaded: the service's send EPERM; the rule names "slice/service"
#   service stopped: the rule names a number
#   service started again: its send ok; the rule names a number
#   the saved ruleset, loaded again: exit 1, cgroupv2 path fails: No such file or directory
#   tables that are loaded: none, of 2 in the file
#   rule made anew: the service's send EPERM; the rule names "slice/service"
set -eu
needs_nft=1
needs_cgroup=1
. "$(dirname "$0")/lib.sh"

# nft looks for the path below /sys/fs/cgroup, wherever cgroup2 is mounted.
mount -t cgroup2 none /sys/fs/cgroup
slice=$(basename "$FINDING_CGROUP")
export slice
cd "$work"
python3 - <<'EOF'
import os
import re
import socket
import subprocess
import time
from clients import LONG, outcome, udp

SLICE = os.environ["slice"]
SERVICE = f"/sys/fs/cgroup/{SLICE}/service"
RULE = f'add rule t out udp dport 5300 socket cgroupv2 level 2 "{SLICE}/service" drop'


def nft(*arguments):
    return subprocess.run(["nft", *arguments], capture_output=True, text=True)


def start():
    """A process of the service sends a datagram; returns the result."""
    os.makedirs(SERVICE, exist_ok=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open(f"{SERVICE}/cgroup.procs", "w") as procs:
            procs.write("0")
        result = outcome(udp().sendto, b"data", ("127.0.0.1", 5300))
        os.write(writer, result.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as pipe:
        return pipe.read()


def stop():
    end = time.monotonic() + LONG
    while True:
        try:
            return os.rmdir(SERVICE)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def named():
    (name,) = re.findall(r"level 2 (\S+)", nft("list", "chain", "t", "out").stdout)
    return "a number" if name.isdigit() else name.replace(SLICE, "slice")


server = udp(bind=("127.0.0.1", 5300))
os.makedirs(SERVICE)
with open("rules", "w") as rules:
    chain = "add chain t out { type filter hook output priority 0; }"
    print("add table t", "add table others", chain, RULE, sep="\n", file=rules)
subprocess.run(["nft", "-f", "rules"], check=True)
print(f"rule loaded: the service's send {start()}; the rule names {named()}")
stop()
print(f"service stopped: the rule names {named()}")
print(f"service started again: its send {start()}; the rule names {named()}")
with open("saved", "w") as saved:
    saved.write(nft("list", "ruleset").stdout)
nft("flush", "ruleset")
load = nft("-f", "saved")
said = load.stderr.splitlines()[0].partition("Error: ")[2]
print(f"the saved ruleset, loaded again: exit {load.returncode}, {said}")
print(f"tables that are loaded: {nft('list', 'tables').stdout or 'none'}", end=", ")
print(f"of {open('saved').read().count('table ')} in the file")
subprocess.run(["nft", "-f", "rules"], check=True)
print(f"rule made anew: the service's send {start()}; the rule names {named()}")
stop()
EOF
