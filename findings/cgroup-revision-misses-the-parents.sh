#!/bin/sh
# The revision of a cgroup's programs stays the same while other programs run there
#
# Guess: BPF_PROG_QUERY returns a revision that changes with the programs of a hook. A watcher that
#   polls it notices every change of what runs for the sockets of this cgroup, also with
#   BPF_F_QUERY_EFFECTIVE, the query for the programs that run.
# Behaviour: the revision counts changes on the cgroup itself. A program that comes or goes on a
#   parent changes what runs in the child, and not the child's revision. Asked with
#   BPF_F_QUERY_EFFECTIVE the revision is always 0.
# Hence: to notice that another program now runs before or after yours, poll the revision of the
#   cgroup and of each of its parents up to the root.
# Versions: Linux 6.18.44
# Seen:
#   empty: parent's revision 1, child's 1; in the child 0 programs run, revision 0
#   a program on the child: parent's revision 1, child's 2; in the child 1 program runs, revision 0
#   one more on the parent: parent's revision 2, child's 2; in the child 2 programs run, revision 0
#   the parent's is gone: parent's revision 3, child's 2; in the child 1 program runs, revision 0
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
from cgroup_bpf import BPF_F_QUERY_EFFECTIVE, Counter, query

parent = os.environ["FINDING_CGROUP"]
child = os.path.join(parent, "child")
os.mkdir(child)


def show(what):
    # Other cgroups above may have programs of their own
    running, revision = query("connect4", child, BPF_F_QUERY_EFFECTIVE)
    running -= above
    print(
        f"{what}: parent's revision {query('connect4', parent)[1]}, child's {query('connect4', child)[1]};",
        f"in the child {running} program{' runs' if running == 1 else 's run'}, revision {revision}",
    )


above = query("connect4", child, BPF_F_QUERY_EFFECTIVE)[0]
show("empty")
first = Counter("connect4").link(child)
show("a program on the child")
second = Counter("connect4").link(parent)
show("one more on the parent")
os.close(second.link_fd)
show("the parent's is gone")
EOF
