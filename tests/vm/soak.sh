#!/bin/sh
# soak.sh MINUTES [--list]   the soak in the machine, with the module, as a suite of one test
test=nothing_is_missed_in_a_soak

if [ -n "${2:-}" ]; then
	echo "$test: test"
elif SKREAP_COMMAND=/tests/skreap /tests/soak --engine kfunc --minutes "$1" >&2; then
	echo "test $test ... ok"
else
	echo "test $test ... FAILED"
	exit 1
fi
