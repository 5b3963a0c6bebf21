#!/bin/sh
# Each mount of bpffs has pins of its own, and unmounting it detaches the programs
#
# Guess: bpffs is one file system of the machine, as cgroup2 or tracefs: a second mount, in a
#   container for example, shows the same pins. A pinned link stays attached until its pin is
#   removed or the machine boots.
# Behaviour: each `mount -t bpf` makes a new, empty file system. Pins of one are not in another.
#   When the last mount of it goes, by umount or with the mount namespace that it was made in, all
#   of its pins go, and a pinned link is detached without an error. Mounting again shows nothing.
# Hence: a program that mounts bpffs itself, in a unit with private mounts or in a container, loses
#   its pins when that ends, although it "pinned" them. Hand the host's /sys/fs/bpf in by a bind
#   mount, and compare device numbers before you trust that two see the same pins.
# Versions: Linux 6.18.44
# Seen:
#   first mount: pins link, map
#   second mount: pins none, the same device: no
#   bind mount of the first: pins link, map, the same device: yes
#   a connect in the cgroup: the pinned program runs
#   first mount unmounted, bind mount left: the pinned program runs
#   bind mount unmounted: no program runs
#   mounted again: pins none
#   pinned below a mount of a private mount namespace: the pinned program runs
#   that mount namespace has ended: no program runs
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

mkdir "$work/first" "$work/second" "$work/bind"
python3 - <<'EOF'
import os
import subprocess
import time
from cgroup_bpf import Counter, join, pin
from clients import LONG, SHORT, udp

WORK = os.environ["FINDING_WORK"]
first, second, bind = (os.path.join(WORK, name) for name in ("first", "second", "bind"))


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def umount(path):
    subprocess.run(["umount", path], check=True)


def pins(path):
    # Every bpffs has these two from the start, if the kernel has CONFIG_BPF_PRELOAD
    names = sorted(set(os.listdir(path)) - {"maps.debug", "progs.debug"})
    return "pins " + (", ".join(names) or "none")


def device(path):
    return "the same device: " + ("yes" if os.stat(path).st_dev == os.stat(first).st_dev else "no")


def runs():
    before = counter.read()[0]
    udp(peer=("127.0.0.1", 5300))
    return counter.read()[0] > before


def state(attached):
    """Whether the program runs; a link is detached a moment after its last pin went."""
    deadline = time.monotonic() + (SHORT if attached else LONG)
    while runs() and time.monotonic() < deadline:
        time.sleep(0.05)
    return "the pinned program runs" if runs() else "no program runs"


mount("-t", "bpf", "bpf", first)
mount("-t", "bpf", "bpf", second)
mount("--bind", first, bind)
counter = Counter("connect4").link(os.environ["FINDING_CGROUP"])
pin(counter.map, os.path.join(first, "map"))
pin(counter.link_fd, os.path.join(first, "link"))
os.close(counter.link_fd)
join(os.environ["FINDING_CGROUP"])
print("first mount:", pins(first))
print(f"second mount: {pins(second)}, {device(second)}")
print(f"bind mount of the first: {pins(bind)}, {device(bind)}")
print("a connect in the cgroup:", state(True))
umount(first)
print("first mount unmounted, bind mount left:", state(True))
umount(bind)
print("bind mount unmounted:", state(False))
mount("-t", "bpf", "bpf", first)
print("mounted again:", pins(first))

counter = Counter("connect4").link(os.environ["FINDING_CGROUP"])
# The child mounts, this process pins through the child's root, the child ends
script = f"mount -t bpf bpf '{second}' && echo mounted && read -r _"
child = subprocess.Popen(
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
)
assert child.stdout.readline() == b"mounted\n"
pin(counter.link_fd, f"/proc/{child.pid}/root{second}/link")
os.close(counter.link_fd)
print("pinned below a mount of a private mount namespace:", state(True))
child.communicate(b"\n")
print("that mount namespace has ended:", state(False))
EOF
