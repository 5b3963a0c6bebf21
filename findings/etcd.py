"""etcdctl for the findings about etcd."""

import subprocess
import time
from clients import LONG


def etcdctl(*arguments, input=None):
    """The standard output of etcdctl; an error is raised with what it printed."""
    done = subprocess.run(["etcdctl", *arguments], input=input, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"etcdctl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def wait_for_etcd():
    deadline = time.monotonic() + LONG
    while subprocess.run(["etcdctl", "endpoint", "health"], capture_output=True).returncode:
        assert time.monotonic() < deadline, "etcd does not start"
        time.sleep(0.2)
