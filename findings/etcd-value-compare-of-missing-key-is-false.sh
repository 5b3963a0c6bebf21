#!/bin/sh
# In etcd, a key that does not exist is neither equal nor unequal to any value
#
# Guess: the value of a missing key is empty. `value(k) != "x"` is true for it, `value(k) = ""` too,
#   and of `=` and `!=` one is always true.
# Behaviour: each compare of a value is false if the key does not exist, `!=` too. Compares of
#   mod, create and version take a missing key for one with 0.
# Hence: "put it unless it is already x", as a transaction with `value(k) != "x"`, does nothing when
#   the key was deleted, and returns the same as if x were there. Put the action in the failure
#   branch of `value(k) = "x"`, or compare `version(k) = "0"` as well.
# Versions: etcd 3.4.23 (Debian 12, etcd-server and etcd-client 3.4.23-4+b4)
# Seen:
#   key      =""    !=""   ="x"   !="x"  <"x"   version="0"  mod<"1"
#   missing  false  false  false  false  false  true         true
#   empty    true   false  false  true   true   false        false
#   x        false  true   true   false  false  false        false
set -eu
packages='etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4'
. "$(dirname "$0")/lib.sh"

export ETCDCTL_API=3
etcd --data-dir "$work/etcd" --logger zap --log-level error >"$work/etcd.log" 2>&1 &
python3 - <<'EOF'
from etcd import etcdctl, wait_for_etcd

COMPARES = {
    '=""': 'value("%s") = ""',
    '!=""': 'value("%s") != ""',
    '="x"': 'value("%s") = "x"',
    '!="x"': 'value("%s") != "x"',
    '<"x"': 'value("%s") < "x"',
    'version="0"': 'version("%s") = "0"',
    'mod<"1"': 'mod("%s") < "1"',
}


def holds(compare):
    """Which branch a transaction with this compare takes."""
    # Compares, what to do if they hold, what if not; each part ends with an empty line
    branch = etcdctl("txn", input=f"{compare}\n\nget x\n\nget empty\n\n").split()[0]
    return {"SUCCESS": "true", "FAILURE": "false"}[branch]


wait_for_etcd()
etcdctl("put", "empty", "")
etcdctl("put", "x", "x")
widths = [9] + [max(5, len(name)) + 2 for name in COMPARES]
for row in [["key", *COMPARES]] + [
    [key, *(holds(compare % key) for compare in COMPARES.values())] for key in ("missing", "empty", "x")
]:
    print("".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
EOF
