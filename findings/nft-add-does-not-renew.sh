#!/bin/sh
# Adding an element to an nftables set again succeeds, and does not renew its timeout
#
# Guess: `nft add element` for one that is there is an error, or starts its timeout anew, as
#   `ipset add -exist` does.
# Behaviour: it exits with 0 and changes nothing, also if the command names the same timeout again.
#   The element goes when the first timeout ends. `create` is an error. Another timeout, or
#   `expires`, does renew it. In a map, adding the same pair changes nothing
#   either, and another value for the key is an error, so the old value stays.
# Hence: an agent that refreshes bans, leases or session affinity by adding them again finds them
#   gone. Name `expires`, or delete and add in one transaction.
# Versions: Linux 6.18.44, nftables 1.0.6-2+deb12u2
# Seen:
#   added with the set's timeout of 300 s, 8 s later: less than 293 s are left
#   added again: exit 0, less than 293 s are left
#   added again with timeout 300s: exit 0, less than 293 s are left
#   create: exit 1, less than 293 s are left
#   added again with expires 300s: exit 0, more than 293 s are left
#   a map, 8 s later: less than 293 s are left
#   the same pair again: exit 0, less than 293 s are left
#   the same key with another value: exit 1, less than 293 s are left
#   deleted and added in one transaction: exit 0, more than 293 s are left
set -eu
needs_nft=yes
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import json
import subprocess
import time

SETS = """
table ip test {
	set hosts {
		type ipv4_addr
		timeout 300s
	}
	map backends {
		type ipv4_addr : ipv4_addr
		timeout 300s
	}
}
"""


def nft(script):
    return subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True).returncode


def left(kind, name):
    command = ["nft", "-j", "list", kind, "ip", "test", name]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    element = listed["nftables"][1][kind]["elem"][0]
    # In a map, an element is the pair of key and value
    expires = (element[0] if isinstance(element, list) else element)["elem"]["expires"]
    return f"{'less' if expires < 293 else 'more'} than 293 s are left"


def show(what, script, kind, name):
    status = nft(script)
    print(f"{what}: exit {status}, {left(kind, name)}")


assert nft(SETS) == 0
assert nft("add element ip test hosts { 10.1.0.1 }") == 0
assert nft("add element ip test backends { 10.1.0.1 : 10.2.0.1 }") == 0
time.sleep(8)
hosts = ("set", "hosts")
print("added with the set's timeout of 300 s, 8 s later:", left(*hosts))
show("added again", "add element ip test hosts { 10.1.0.1 }", *hosts)
show("added again with timeout 300s", "add element ip test hosts { 10.1.0.1 timeout 300s }", *hosts)
show("create", "create element ip test hosts { 10.1.0.1 }", *hosts)
show("added again with expires 300s", "add element ip test hosts { 10.1.0.1 expires 300s }", *hosts)
backends = ("map", "backends")
print("a map, 8 s later:", left(*backends))
same = "element ip test backends { 10.1.0.1 : 10.2.0.1 }"
show("the same pair again", f"add {same}", *backends)
show("the same key with another value", "add element ip test backends { 10.1.0.1 : 10.2.0.2 }", *backends)
show("deleted and added in one transaction", f"delete {same}\nadd {same}", *backends)
EOF
