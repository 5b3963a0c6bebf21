#!/bin/sh
# soak.sh ARGUMENT... [--list]   runs the soak in the machine, with the module and these arguments,
#                                as a suite of one test
test=nothing_is_missed_in_a_soak

case "$*" in *--list)
	echo "$test: test"
	exit ;;
esac
if SKREAP_COMMAND=/tests/skreap /tests/soak --engine kfunc "$@" >&2; then
	echo "test $test ... ok"
else
	echo "test $test ... FAILED"
	exit 1
fi
