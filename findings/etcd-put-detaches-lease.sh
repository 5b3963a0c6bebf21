#!/bin/sh
# An etcd key that is put again without its lease never expires
#
# Guess: a lease belongs to the key. Changing the value of a registered backend (its weight, its
#   state) leaves the lease in place, and the key goes when the lease ends.
# Behaviour: the lease belongs to the value. A put that does not name the lease takes the key off
#   it: the lease lives on without the key, and when it ends the key stays for ever. The same holds
#   for a put within a transaction.
# Hence: one `etcdctl put` by hand, or an updater other than the registrar, makes a dead backend
#   immortal. Put with `--ignore-lease` (WithIgnoreLease), and treat a key of a registry without
#   lease as an error.
# Versions: etcd 3.4.23 (Debian 12, etcd-server and etcd-client 3.4.23-4+b4)
# Seen:
#   put with the lease, the lease is revoked: backend gone
#   put with the lease, put, the lease is revoked: backend = changed
#   put with the lease, put in a transaction, the lease is revoked: backend = changed
#   put with the lease, put --ignore-lease, the lease is revoked: backend gone
set -eu
packages='etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4'
. "$(dirname "$0")/lib.sh"

export ETCDCTL_API=3
etcd --data-dir "$work/etcd" --logger zap --log-level error >"$work/etcd.log" 2>&1 &
python3 - <<'EOF'
from etcd import etcdctl, wait_for_etcd


def after(what, change):
    """The key after its lease was revoked."""
    # lease 694d5765fc71500b granted with TTL(600s)
    lease = etcdctl("lease", "grant", "600").split()[1]
    etcdctl("put", "backend", "registered", f"--lease={lease}")
    change()
    etcdctl("lease", "revoke", lease)
    value = etcdctl("get", "backend", "--print-value-only").strip()
    etcdctl("del", "backend")
    print(f"put with the lease, {what}the lease is revoked: backend", f"= {value}" if value else "gone")


wait_for_etcd()
after("", lambda: None)
after("put, ", lambda: etcdctl("put", "backend", "changed"))
after("put in a transaction, ", lambda: etcdctl("txn", input="\nput backend changed\n\n\n"))
after("put --ignore-lease, ", lambda: etcdctl("put", "backend", "changed", "--ignore-lease"))
EOF
