#!/bin/sh
# A link on a child cgroup switches off the parent's program there, without an error
#
# Guess: a program that is attached by a link (which always allows several) is added to those that
#   run already: the parent's program goes on running for the sockets of the child.
# Behaviour: that holds if the parent's program allows several too (BPF_F_ALLOW_MULTI, or a link).
#   If it was attached with BPF_F_ALLOW_OVERRIDE, the child's link replaces it for the child: it no
#   longer runs there, nothing is returned to either side, and the query on the parent still lists
#   it. When the link is closed, it runs again.
# Hence: attaching a mere observer to a cgroup can switch off the firewall or accounting program
#   that its parent has. Look at the effective programs of the cgroup before and after, or attach at
#   the root.
# Versions: Linux 6.18.44
# Seen:
#   the parent's program alone: ran: parent 1
#   it allows several, a link on the child: ran: parent 1, child 1
#   it allows override, a link on the child: ran: parent 0, child 1
#   the query on the parent lists: 1 program
#   the link closed: ran: parent 1
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
from cgroup_bpf import BPF_F_ALLOW_MULTI, BPF_F_ALLOW_OVERRIDE, Counter, attach, join, query
from clients import udp

ROOT = os.environ["FINDING_CGROUP"]


def ran(**counters):
    """Connects from the child: whose programs ran, how often."""
    before = {name: counter.read()[0] for name, counter in counters.items()}
    udp(peer=("127.0.0.1", 5300))
    return "ran: " + ", ".join(f"{name} {counter.read()[0] - before[name]}" for name, counter in counters.items())


def family(name, flags):
    """A parent with a counting program, and an empty child that this process joins."""
    child = os.path.join(ROOT, name, "child")
    os.makedirs(child)
    counter = Counter("connect4")
    attach(counter.program, "connect4", os.path.dirname(child), flags)
    join(child)
    return counter, child


parent, child = family("several", BPF_F_ALLOW_MULTI)
print("the parent's program alone:", ran(parent=parent))
print("it allows several, a link on the child:", ran(parent=parent, child=Counter("connect4").link(child)))

parent, child = family("override", BPF_F_ALLOW_OVERRIDE)
link = Counter("connect4").link(child)
print("it allows override, a link on the child:", ran(parent=parent, child=link))
print("the query on the parent lists:", query("connect4", os.path.dirname(child))[0], "program")
os.close(link.link_fd)
print("the link closed:", ran(parent=parent))
EOF
