#!/bin/sh
# etcd accepts a watch from a compacted revision and never delivers the delete made there
#
# Guess: a watch from revision R starts with the event of R. If R is compacted away, etcd refuses
#   the watch ("required revision has been compacted") and the watcher lists everything anew.
#   Nothing is lost without a sign.
# Behaviour: compaction at R refuses watches from revisions below R, and accepts those from R. A
#   put made at R is delivered then. A delete made at R is not, once the compaction has been carried
#   out (`--physical` waits for that): the watch starts with the next event.
# Hence: a watcher that resumes at the revision after its last list can miss a delete, so a
#   deleted backend stays in its table. List again after every break of a watch.
# Versions: etcd 3.4.23 (Debian 12, etcd-server and etcd-client 3.4.23-4+b4)
# Also: later versions of etcd keep the deletion (etcd-io/etcd pull request 18274).
# Seen:
#   delete at R, not compacted, watch from R: DELETE backend, PUT marker
#   delete at R, compacted at R, watch from R: PUT marker
#   delete at R, compacted at R, watch from R-1: required revision has been compacted
#   put at R, compacted at R, watch from R: PUT backend, PUT marker
set -eu
packages='etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4'
. "$(dirname "$0")/lib.sh"

export ETCDCTL_API=3
etcd --data-dir "$work/etcd" --logger zap --log-level error >"$work/etcd.log" 2>&1 &
python3 - <<'EOF'
import json
import re
import subprocess
from clients import LONG
from etcd import etcdctl, wait_for_etcd


def revision():
    return json.loads(etcdctl("get", "none", "-w", "json"))["header"]["revision"]


def watch(start):
    """What a watch from that revision prints up to the marker, or why it is refused."""
    command = ["timeout", str(LONG), "etcdctl", "watch", "--prefix", "", "--rev", str(start)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = []
    # Three lines for each event: what happened, key, value
    while kind := process.stdout.readline().strip():
        events.append(f"{kind} {process.stdout.readline().strip()}")
        process.stdout.readline()
        if events[-1] == "PUT marker":
            process.terminate()
            break
    errors = process.communicate()[1]
    refused = re.search(r"required revision has been compacted", errors)
    return refused.group() if refused else ", ".join(events) or errors


wait_for_etcd()
etcdctl("put", "backend", "10.0.0.1")
etcdctl("del", "backend")
deleted = revision()
etcdctl("put", "marker", "1")
print("delete at R, not compacted, watch from R:", watch(deleted))
etcdctl("compact", "--physical", str(deleted))
print("delete at R, compacted at R, watch from R:", watch(deleted))
print("delete at R, compacted at R, watch from R-1:", watch(deleted - 1))

etcdctl("put", "backend", "10.0.0.2")
put = revision()
etcdctl("put", "marker", "2")
etcdctl("compact", "--physical", str(put))
print("put at R, compacted at R, watch from R:", watch(put))
EOF
