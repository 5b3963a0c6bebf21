#!/bin/sh
# A BPF LRU hash loses entries before it is full, and looking from user space keeps none
#
# Guess: BPF_MAP_TYPE_LRU_HASH with max_entries 1021 keeps the 1021 entries that were used last.
#   With so many keys or fewer nothing is lost, and looking an entry up keeps it, from a program or
#   from user space.
# Behaviour: a CPU takes free places in batches, and if less than a batch is free it evicts old
#   entries to make up for it, needed or not. 1021 keys that one CPU writes into an empty map of
#   1021 do not all stay. A lookup of user space (bpf(2), bpftool) does not count as use; one of a
#   program does.
# Hence: an LRU map as a connection table forgets living entries at a fill that looks harmless, and
#   a daemon cannot keep entries alive by reading them. Choose max_entries far above the need, or a
#   plain hash that reports E2BIG.
# Versions: Linux 6.18.44
# Seen:
#   max_entries 1021, one CPU writes 500 keys: 500 are there
#   one CPU writes 1021 keys: fewer are there, the first is missing
#   10 old keys looked up by user space between 3000 new ones: 0 are there
#   1 old key looked up by a program between 3000 new ones: 1 is there
set -eu
needs_cgroup=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import ctypes
import os
import struct
from cgroup_bpf import BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, bpf, counting_program, join, link, load
from clients import udp

BPF_MAP_TYPE_LRU_HASH = 9
BPF_MAP_UPDATE_ELEM = 2
SIZE = 1021  # a prime: no whole number of batches, whatever the number of CPUs


class Lru:
    """An LRU map with keys of 4 and values of 16 bytes."""

    def __init__(self):
        self.fd = bpf(BPF_MAP_CREATE, struct.pack("=IIII", BPF_MAP_TYPE_LRU_HASH, 4, 16, SIZE))
        self.key, self.value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(16)

    def call(self, command, key):
        self.key.raw = struct.pack("=I", key)
        attr = struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(self.key), ctypes.addressof(self.value), 0)
        bpf(command, attr)

    def put(self, *keys):
        for key in keys:
            self.call(BPF_MAP_UPDATE_ELEM, key)

    def there(self, *keys):
        """How many of the keys are there."""
        found = 0
        for key in keys:
            try:
                self.call(BPF_MAP_LOOKUP_ELEM, key)
                found += 1
            except FileNotFoundError:
                pass
        return found


# One CPU, which is not to change between two writes
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
lru = Lru()
lru.put(*range(500))
print("max_entries 1021, one CPU writes 500 keys:", lru.there(*range(500)), "are there")
lru = Lru()
lru.put(*range(SIZE))
number = lru.there(*range(SIZE))
print(
    f"one CPU writes 1021 keys: {'fewer' if number < SIZE else 'all'} are there,",
    "the first is", "there" if lru.there(0) else "missing",
)


def churn(lru, look):
    """3000 new keys, with a look at the old ones after each 50."""
    for first in range(10_000, 13_000, 50):
        look()
        lru.put(*range(first, first + 50))


lru = Lru()
lru.put(*range(10))
churn(lru, lambda: lru.there(*range(10)))
print("10 old keys looked up by user space between 3000 new ones:", lru.there(*range(10)), "are there")

# The counting program looks up key 0 at each connect()
lru = Lru()
lru.put(0)
attached = link(load("connect4", counting_program("connect4", lru.fd)), "connect4", os.environ["FINDING_CGROUP"])
join(os.environ["FINDING_CGROUP"])
client = udp()
churn(lru, lambda: client.connect(("127.0.0.1", 5300)))
print("1 old key looked up by a program between 3000 new ones:", lru.there(0), "is there")
EOF
