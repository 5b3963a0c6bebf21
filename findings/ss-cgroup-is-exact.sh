#!/bin/sh
# `ss cgroup PATH` leaves out the cgroups below PATH
#
# Guess: `ss cgroup /sys/fs/cgroup/system.slice` shows the sockets of the slice: those of all its
#   services, and at the root all sockets. Like everything of cgroup2, it is hierarchical.
# Behaviour: it compares with that one cgroup. Sockets made in a cgroup below are not shown, and
#   those of the parent neither. Once a cgroup is removed its sockets cannot be named any more: ss
#   prints "unreachable", and no path selects them.
# Hence: `ss -K cgroup SLICE` closes nothing of the services in the slice, and exits with 0. Walk
#   the tree, and know that sockets which were made before a process moved, or after its cgroup
#   went, are in none of its cgroups.
# Versions: Linux 6.18.44, iproute2 6.1.0-3
# Seen:
#   made in slice: cgroup slice shows 1, cgroup slice/service shows 0
#   made in slice/service too: cgroup slice shows 1, cgroup slice/service shows 1
#   ss -K cgroup slice: exit 0, the one in slice/service works: yes
#   the service removed: cgroup slice shows 0, its socket is shown with: unreachable
set -eu
needs=ss
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import re
import subprocess
from cgroup_bpf import join
from clients import outcome, require_destroy, udp

require_destroy()
home = os.environ["FINDING_CGROUP"]
slice = os.path.join(home, "slice")
service = os.path.join(slice, "service")
os.makedirs(service)
server = udp(bind=("127.0.0.1", 5300))


def ss(*arguments):
    return subprocess.run(["ss", "-Hun", *arguments], check=True, capture_output=True, text=True).stdout


def made_in(cgroup):
    join(cgroup)
    sock = udp(peer=("127.0.0.1", 5300))
    join(home)
    return sock


def shows(cgroup):
    return f"cgroup {os.path.relpath(cgroup, home)} shows {len(ss('cgroup', cgroup).splitlines())}"


one = made_in(slice)
print(f"made in slice: {shows(slice)}, {shows(service)}")
two = made_in(service)
print(f"made in slice/service too: {shows(slice)}, {shows(service)}")
done = subprocess.run(["ss", "-Ku", "cgroup", slice], stdout=subprocess.DEVNULL)
works = "yes" if outcome(two.send, b"x") == "ok" and server.recv(1) == b"x" else "no"
print(f"ss -K cgroup slice: exit {done.returncode}, the one in slice/service works: {works}")
os.rmdir(service)
named = re.search(r"cgroup:(\S+)", ss("--cgroup", "dport", "=", ":5300")).group(1)
print(f"the service removed: {shows(slice)}, its socket is shown with: {named.split(':')[0]}")
EOF
