#!/bin/sh
# A Prometheus alert on increase() misses the first failure, and a sum loses both its terms
#
# Guess: `increase(failed_total[10m]) > 0` fires when a failure is counted. If the counter appears
#   with the failure, as counters with labels do, its increase is from nothing to 1. And a sum of
#   two rates is the rate of the one that exists, if the other counter does not exist yet.
# Behaviour: increase() compares samples of the series. A series that begins with 1 has increase 0,
#   so the first failure of each kind (errno, backend) raises no alert, and the second does. A sum,
#   difference or quotient with a series that does not exist is empty, and an alert on it is silent.
# Hence: let the program export its counters with 0 from the start. Where it cannot, add `or
#   (failed_total unless failed_total offset 10m)`, and add terms by `or vector(0)`.
# Versions: prometheus 2.42.0+ds-5+deb12u1 (promtool, Debian 12)
# Seen:
#   exported with 0, then 1: increase(failed_total{errno="EPERM"}[10m]) = 1
#   appears with 1: increase(failed_total{errno="ENOENT"}[10m]) = 0
#   appears with 1, then 2: increase(failed_total{errno="ESRCH"}[10m]) > 0
#   alert on increase(failed_total[10m]) > 0: EPERM, ESRCH
#   the same with `or (failed_total unless failed_total offset 10m)`: ENOENT, EPERM, ESRCH
#   done_total counts 1 a second: rate(done_total[10m]) = 1
#   other_total does not exist: rate(done_total[10m]) + rate(other_total[10m]) is empty
#   with `or vector(0)`: 1
set -eu
packages='prometheus=2.42.0+ds-5+deb12u1'
. "$(dirname "$0")/lib.sh"

python3 - <<'EOF'
import os
import re
import subprocess

WORK = os.environ["FINDING_WORK"]
# One sample a minute for 20 minutes; _ is none
SERIES = {
    'failed_total{errno="EPERM"}': "0x14 1x6",
    'failed_total{errno="ENOENT"}': "_x14 1x6",
    'failed_total{errno="ESRCH"}': "_x12 1 1 2x6",
    "done_total": "0+60x20",
}
ALERT = "increase(failed_total[10m]) > 0"
BOTH = ALERT + " or (failed_total unless failed_total offset 10m)"


def values(expression):
    """What promtool says that an expression has at minute 18, as (errno, value)."""
    test = os.path.join(WORK, "test.yml")
    with open(test, "w") as file:
        file.write("tests:\n- interval: 1m\n  input_series:\n")
        for series, samples in SERIES.items():
            file.write(f"  - series: '{series}'\n    values: '{samples}'\n")
        file.write("  promql_expr_test:\n")
        # Expects a value that nothing has; promtool prints what it got instead
        file.write(f"  - expr: '{expression}'\n    eval_time: 18m\n")
        file.write("    exp_samples: [{labels: none, value: 123456}]\n")
    done = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True)
    got = re.search(r"got: (.*)", done.stdout + done.stderr)
    assert got, done.stdout + done.stderr
    found = re.findall(r"(\S*\{[^}]*\}) ([-+.0-9E]+)", got.group(1))
    return [("".join(re.findall(r'errno="(\w+)"', labels)), float(value)) for labels, value in found]


def value(expression):
    (_, number), = values(expression)
    return f"{expression} = {number:g}"


def kinds(expression):
    return ", ".join(sorted(errno for errno, _ in values(expression)))


def failed(errno):
    return f'increase(failed_total{{errno="{errno}"}}[10m])'


print("exported with 0, then 1:", value(failed("EPERM")))
print("appears with 1:", value(failed("ENOENT")))
(_, number), = values(failed("ESRCH"))
print("appears with 1, then 2:", failed("ESRCH"), "> 0" if number > 0 else f"= {number:g}")
print(f"alert on {ALERT}:", kinds(ALERT))
print("the same with `or (failed_total unless failed_total offset 10m)`:", kinds(BOTH))
print("done_total counts 1 a second:", value("rate(done_total[10m])"))
total = "rate(done_total[10m]) + rate(other_total[10m])"
print(f"other_total does not exist: {total}", "is empty" if not values(total) else values(total))
(_, number), = values("rate(done_total[10m]) + (rate(other_total[10m]) or vector(0))")
print(f"with `or vector(0)`: {number:g}")
EOF
